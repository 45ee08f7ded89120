"""Latents: where deviation stays and bits go, how well they are predicted, what parts are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcm_lab import analysis
from tcm_lab.errors import LabError
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    INK,
    MARKERS,
    PAGE_INCHES,
    SOFT,
    PlotAxis,
    bare,
    colour_bar,
    label_axes,
    new_figure,
    palette,
    panels,
    plain_ticks,
    show_image,
    stacked_bars,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.analysis import ImageLatent, KnockOutRecord, LatentMaps, LatentRecord

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
    if not maps:
        raise LabError("no maps given")
    with style():
        figure, grid = panels(
            len(maps) + 1,
            columns=min(len(maps) + 1, 4),
            height=PAGE_INCHES / min(len(maps) + 1, 4) * 0.75,
            width=PAGE_INCHES,
        )
        show_image(grid[0], image, next(iter(maps.values())).image)
        kind = "scaled_deviation" if scaled else "deviation"
        arrays = [getattr(found, kind) for found in maps.values()]
        low, high = (
            float(f(np.concatenate([a.ravel() for a in arrays]))) for f in (np.min, np.max)
        )
        drawn = None
        for axes, label, array in zip(grid[1:], maps, arrays, strict=True):
            drawn = axes.imshow(array, cmap="cividis", vmin=low, vmax=high, interpolation="none")
            bare(axes, f"{label}: mean {array.mean():.3f}")
        colour_bar(figure, drawn, grid, _SCALED if scaled else _STEPS)
        return figure


def bits_plot(maps: LatentMaps, image: NDArray[np.uint8]) -> Figure:
    """Draw where each slice's bits go, as bits per image pixel, on one scale."""
    with style():
        count = len(maps.bits)
        figure, grid = panels(count + 1, columns=count + 1, height=1.35, width=PAGE_INCHES)
        show_image(grid[0], image, maps.image)
        per_px = maps.bits / maps.pitch_px**2
        drawn = None
        for i, axes in enumerate(grid[1:]):
            drawn = axes.imshow(
                per_px[i], cmap="cividis", vmin=0, vmax=float(per_px.max()), interpolation="none"
            )
            bare(axes, f"slice {i}: {per_px[i].mean():.3f} bpp")
        colour_bar(figure, drawn, grid, "bit per pixel")
        return figure


def slice_bits_plot(records: Mapping[str, LatentRecord], *, title: str = "") -> Figure:
    """Draw each codec's rate as one bar, stacked by slice, z last.

    Raises:
        LabError: no records are given.
    """
    if not records:
        raise LabError("no records given")
    count = max(len(record.images[0].slices) for record in records.values())
    parts = {
        "z" if part == count else f"slice {part}": [
            float(np.mean([_bpp_of(image, part, count) for image in record.images]))
            for record in records.values()
        ]
        for part in range(count + 1)
    }
    axis = PlotAxis(name="estimated rate", unit="bpp")
    with style():
        return stacked_bars(parts, list(records), axis, form=".3f", title=title)


def prediction_plot(records: Mapping[str, LatentRecord]) -> Figure:
    """Draw the distribution of the normalised error (y − μ) / σ, and its spatial correlation.

    The left panel compares with the standard normal density that the coder assumes.

    Raises:
        LabError: no records are given.
    """
    if not records:
        raise LabError("no records given")
    with style():
        figure, grid = panels(
            1 + len(records), columns=1 + len(records), height=2.3, width=PAGE_INCHES
        )
        edges = np.array(analysis.EDGES)
        middles = (edges[1:] + edges[:-1]) / 2
        normal = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
        axes = grid[0]
        axes.plot(middles, normal, color=SOFT, ls="--", lw=1.0, label="standard normal")
        drawn = None
        for i, (label, record) in enumerate(records.items()):
            errors = record.errors
            density = np.array(errors.histogram) / errors.count / np.diff(edges)
            axes.plot(middles[1:-1], density[1:-1], color=palette(len(records))[i], label=label)
            correlation = errors.correlation.copy()
            reach = len(correlation) // 2
            correlation[reach, reach] = np.nan
            extent = (-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5)
            drawn = grid[i + 1].imshow(
                correlation, cmap="PuOr", vmin=-0.5, vmax=0.5, extent=extent, interpolation="none"
            )
            grid[i + 1].grid(False)
            grid[i + 1].set_title(
                f"{label}: nearest {errors.neighbour_correlation:.2f}", fontsize=7.5
            )
            grid[i + 1].set_xlabel("columns away (latents)")
        grid[1].set_ylabel("rows away (latents)")
        axes.set_yscale("log")
        axes.set_ylim(1e-5, 4)
        axes.set_xlabel(r"$(y - \mu) / \sigma$")
        axes.set_ylabel("density")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(loc="lower center", fontsize=6.5)
        colour_bar(figure, drawn, grid[1:], "correlation with the neighbour")
        return figure


def energy_plot(records: Mapping[str, LatentRecord], *, title: str = "") -> Figure:
    """Draw the share of the latent's energy that its strongest channels hold.

    Raises:
        LabError: no records are given.
    """
    if not records:
        raise LabError("no records given")
    with style():
        figure, axes = new_figure(title)
        label_axes(
            axes,
            PlotAxis(name="strongest channels", log=True),
            PlotAxis(name="share of the energy that they hold"),
        )
        for i, (label, record) in enumerate(records.items()):
            energy = np.sort(record.channel_energy.astype(np.float64))[::-1]
            held = energy.cumsum() / energy.sum()
            axes.plot(
                range(1, len(held) + 1),
                held,
                color=palette(len(records))[i],
                marker=MARKERS[i],
                ms=2.5,
                label=f"{label} ({record.coding_gain_db:.1f} dB)",
            )
        axes.set_ylim(0, 1.03)
        plain_ticks(axes.xaxis)
        axes.legend(loc="lower right", title="coding gain", title_fontsize=7)
        return figure


def part_loss_plot(record: KnockOutRecord, *, title: str = "", named: int = 2) -> Figure:
    """Draw what is lost without each part over what it costs.

    Args:
        record: parts of one codec.
        title: over the plot.
        named: number of parts, of those that lose most, whose names are written.
    """
    with style():
        figure, axes = new_figure(title)
        label_axes(
            axes,
            PlotAxis(name="cost of the part", unit="kMAC/px", log=True),
            PlotAxis(name="loss without it", unit="%", log=True),
        )
        kinds = list(dict.fromkeys(part.kind for part in record.parts))
        # Parts without which the loss falls, or hardly rises, are drawn at the line at the bottom.
        floor = 0.1
        for kind, color, marker in zip(kinds, palette(len(kinds)), MARKERS, strict=False):
            own = [part for part in record.parts if part.kind == kind and part.kmacs_per_px]
            axes.scatter(
                [part.kmacs_per_px for part in own],
                [max(part.loss_percent.value, floor) for part in own],
                s=18,
                color=color,
                marker=marker,
                label=kind,
                zorder=3,
                lw=0,
            )
        plain_ticks(axes.xaxis, decades=True)
        plain_ticks(axes.yaxis)
        axes.set_ylim(bottom=floor / 1.3)
        axes.axhline(floor, color=SOFT, lw=0.6, ls=":", zorder=1)
        axes.margins(0.12)
        most = sorted(record.parts, key=lambda part: -part.loss_percent.value)[:named]
        points = [(p.kmacs_per_px, max(p.loss_percent.value, floor)) for p in record.parts]
        names = [_short(p.part) if p in most else "" for p in record.parts]
        figure.legend(loc="outside lower center", ncols=len(kinds), handletextpad=0.2)
        label_points(axes, points, names, color=INK)
        return figure


def _bpp_of(image: ImageLatent, part: int, z: int) -> float:
    """Return the rate of one slice, or of z where ``part`` is ``z``."""
    if part == z:
        return image.z_bits / image.pixels
    return image.slices[part].bits / image.pixels if part < len(image.slices) else 0.0


def _short(part: str) -> str:
    """Return ``g_s 2.1 conv`` for ``g_s.stages.2.blocks.1.conv``."""
    path = [step for step in part.split(".") if step not in ("stages", "blocks")]
    if len(path) < 3:
        return part
    return f"{'.'.join(path[:-3])} {'.'.join(path[-3:-1])} {path[-1]}"
