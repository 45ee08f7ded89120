"""Latents: where deviation stays and bits go, how well they are predicted, what parts are worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from tcm_lab.analysis import EDGES, REACH, KnockOutRecord, LatentMaps, LatentRecord
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    INK,
    PAGE_INCHES,
    SOFT,
    PlotAxis,
    colour_bar,
    draw_map,
    label_axes,
    legend_below,
    looks,
    map_panels,
    new_figure,
    palette,
    panels,
    stacked_bars,
    style,
)

_SCALED, _STEPS = r"$|y - \hat{y}|$ over mean $|y|$", r"$|y - \hat{y}|$ (steps)"


def deviation_plot(
    maps: Mapping[str, LatentMaps], image: NDArray[np.uint8], *, scaled: bool = True
) -> Figure:
    """Draw |y − ŷ| averaged over channels, one panel per codec, all on one scale.

    Args:
        maps: by label, of one image.
        image: (3, H, W) or (H, W, 3) bytes.
        scaled: over the image's mean |y|, so that latents of any scale compare.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    arrays = {k: m.scaled_deviation if scaled else m.deviation for k, m in maps.items()}
    columns = min(len(maps) + 1, 4)
    return map_panels(
        [
            (next(iter(maps.values())).image, image),
            *((f"{label}: mean {array.mean():.3f}", array) for label, array in arrays.items()),
        ],
        _SCALED if scaled else _STEPS,
        columns=columns,
        height=PAGE_INCHES / columns * 0.75,
    )


def bits_plot(maps: LatentMaps, image: NDArray[np.uint8]) -> Figure:
    """Draw where each slice's bits go, as bits per image pixel, on one scale."""
    slices = list(maps.bits / maps.pitch_px**2)
    cells = [(f"slice {i}: {each.mean():.3f} bpp", each) for i, each in enumerate(slices)]
    columns = len(slices) + 1
    return map_panels(
        [(maps.image, image), *cells], "bit per pixel", columns=columns, height=1.35, low=0.0
    )


def slice_bits_plot(records: Mapping[str, LatentRecord], *, title: str = "") -> Figure:
    """Draw each codec's rate as one bar, stacked by slice, z last.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    # (codec, image, slice), short of the slices that a codec does not have.
    bpp = [
        [[part.bits / image.pixels for part in image.slices] for image in record.images]
        for record in records.values()
    ]
    means = [np.mean(each, axis=0) for each in bpp]
    count = max(map(len, means))
    parts = {
        f"slice {i}": [float(mean[i]) if i < len(mean) else 0.0 for mean in means]
        for i in range(count)
    }
    parts["z"] = [
        float(np.mean([image.z_bits / image.pixels for image in record.images]))
        for record in records.values()
    ]
    axis = PlotAxis(name="estimated rate", unit="bpp")
    return stacked_bars(parts, list(records), axis, form=".3f", title=title)


def prediction_plot(records: Mapping[str, LatentRecord]) -> Figure:
    """Draw the distribution of the normalised error (y − μ) / σ, and its spatial correlation.

    The left panel compares with the standard normal density that the coder assumes.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    count = 1 + len(records)
    middles = (np.array(EDGES[1:]) + EDGES[:-1]) / 2
    normal = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
    with style():
        figure, (left, *grid) = panels(count, columns=count, height=2.3, width=PAGE_INCHES)
        left.plot(middles, normal, color=SOFT, ls="--", lw=1.0, label="standard normal")
        colors = palette(len(records))
        for axes, (label, record), color in zip(grid, records.items(), colors, strict=True):
            errors = record.errors
            density = np.array(errors.histogram) / errors.count / np.diff(EDGES)
            left.plot(middles[1:-1], density[1:-1], color=color, label=label)
            correlation = errors.correlation.copy()
            correlation[REACH, REACH] = np.nan
            end = REACH + 0.5
            look = {"cmap": "PuOr", "vmin": -0.5, "vmax": 0.5, "extent": (-end, end, end, -end)}
            drawn = draw_map(axes, correlation, **look)
            axes.set_title(f"{label}\nnearest: {errors.neighbour_correlation:.2f}", fontsize=7.5)
            axes.set_xlabel("columns away (latents)")
        grid[0].set_ylabel("rows away (latents)")
        left.set_yscale("log")
        left.set_ylim(1e-5, 4)
        left.set_xlabel(r"$(y - \mu) / \sigma$")
        left.set_ylabel("density")
        left.legend(loc="lower center", fontsize=6.5)
        colour_bar(figure, drawn, grid, "correlation with the neighbour")
        return figure


def energy_plot(records: Mapping[str, LatentRecord], *, title: str = "") -> Figure:
    """Draw the share of the latent's energy that its strongest channels hold.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    with style():
        figure, axes = new_figure(title)
        label_axes(
            axes,
            PlotAxis(name="strongest channels", log=True),
            PlotAxis(name="share of the energy that they hold"),
        )
        for (name, record), look in zip(records.items(), looks(len(records)), strict=True):
            held = record.energy_held
            label = f"{name} ({record.coding_gain_db:.1f} dB)"
            axes.plot(np.arange(len(held)) + 1, held, label=label, ms=2.5, **look)
        axes.set_ylim(0, 1.03)
        axes.legend(loc="lower right", title="coding gain", title_fontsize=7)
        return figure


def part_loss_plot(record: KnockOutRecord, *, title: str = "", named: int = 2) -> Figure:
    """Draw what is lost without each part over what it costs.

    Args:
        record: parts of one codec.
        title: over the plot.
        named: number of parts, of those that lose most, whose names are written.
    """
    # Parts without which the loss falls, or hardly rises, are drawn at the line at the bottom.
    floor = 0.1
    points = [(p.kmacs_per_px, max(p.loss_percent.value, floor)) for p in record.parts]
    most = sorted(record.parts, key=lambda part: -part.loss_percent.value)[:named]
    kinds = list(dict.fromkeys(part.kind for part in record.parts))
    with style():
        figure, axes = new_figure(title)
        label_axes(
            axes,
            PlotAxis(name="cost of the part", unit="kMAC/px", log=True),
            PlotAxis(name="loss without it", unit="%", log=True),
        )
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,)))
        for kind, look in zip(kinds, looks(len(kinds)), strict=True):
            own = [
                point
                for part, point in zip(record.parts, points, strict=True)
                if part.kind == kind and part.kmacs_per_px
            ]
            x, y = np.array(own).reshape(-1, 2).T
            axes.scatter(x, y, s=18, label=kind, zorder=3, lw=0, **look)
        axes.set_ylim(bottom=floor / 1.3)
        axes.axhline(floor, color=SOFT, lw=0.6, ls=":", zorder=1)
        axes.margins(0.12)
        legend_below(figure, len(kinds), handletextpad=0.2)
        names = [_short(part.part) if part in most else "" for part in record.parts]
        label_points(axes, points, names, color=INK)
        return figure


def _short(part: str) -> str:
    """Return ``g_s 2.1 conv`` for ``g_s.stages.2.blocks.1.conv``."""
    path = [step for step in part.split(".") if step not in ("stages", "blocks")]
    if len(path) < 3:
        return part
    return f"{'.'.join(path[:-3])} {'.'.join(path[-3:-1])} {path[-1]}"
