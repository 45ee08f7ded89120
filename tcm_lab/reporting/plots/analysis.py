"""Plots of analyses of trained codecs: attention and its gates, latents.

Functions for several codecs take a mapping by label, and refuse an empty one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tcm_lab.analysis import (
    EDGES,
    REACH,
    AttentionMap,
    AttentionRecord,
    GateRecord,
    LatentMaps,
    LatentRecord,
)
from tcm_lab.errors import LabError, lookup
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._style import (
    INK,
    PAGE_INCHES,
    SOFT,
    PlotAxis,
    bare,
    channels_last,
    colour_bar,
    draw_map,
    legend_below,
    looks,
    map_panels,
    name_axes,
    new_figure,
    palette,
    panels,
    stacked_bars,
    style,
)

_ATTENTION = {
    "distance_px": PlotAxis(name="mean attention distance", unit="px"),
    "entropy_bits": PlotAxis(name="entropy of the weights", unit="bit"),
    "near_share": PlotAxis(name="weight on the 3x3 neighbourhood"),
}


@style()
def attention_plot(
    records: Mapping[str, AttentionRecord], *, metric: str = "distance_px", transform: str = "g_a"
) -> Figure:
    """Draw one metric of every layer of a transform, head by head, with that of equal weights.

    Args:
        records: records by label.
        metric: ``distance_px``, ``entropy_bits`` or ``near_share``.
        transform: g_a, g_s, h_a, h_s or slices.

    Raises:
        LabError: no record has a layer there, or there is no such metric.
    """
    metric_axis = lookup(_ATTENTION, metric, "metric of attention")
    layers_by_record = [
        [(record.label_of(layer), layer) for layer in record.layers_of(transform)]
        for record in records.values()
    ]
    names = dict.fromkeys(name for layers in layers_by_record for name, _ in layers)
    if not names:
        raise LabError(f"no layer of {transform} has window attention in these records")
    positions = {name: position for position, name in enumerate(names)}
    step = 0.7 / len(records)
    many = len(positions) > 8  # names are rotated, which takes height
    layer_axis = PlotAxis(name=f"attention layer of {transform}")
    figure, axes = new_figure(layer_axis, metric_axis, height=3.3 if many else 2.7)
    for i, (label, layers) in enumerate(zip(records, layers_by_record, strict=True)):
        x, y = [], []
        for name, layer in layers:
            heads = np.mean(getattr(layer.learned, metric), axis=0)
            spread = np.linspace(-0.25, 0.25, len(heads)) if len(heads) > 1 else np.zeros(1)
            x += list(positions[name] + (i - (len(records) - 1) / 2 + spread) * step)
            y += list(heads)
        axes.scatter(x, y, s=14, label=label, zorder=3, lw=0, **looks(len(records))[i])
    width = 0.84 / len(records)
    lines: dict[str, Any] = {"color": SOFT, "lw": 0.9, "ls": "--", "zorder": 1}
    for i, layers in enumerate(layers_by_record):  # differs by model, window and image
        equal = [getattr(layer.uniform, metric)[0][0] for _, layer in layers]
        left = np.array([positions[name] for name, _ in layers]) - 0.42 + i * width
        axes.hlines(equal, left, left + width, label="" if i else "equal weights", **lines)
    rotated: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(positions)), positions, **(rotated if many else {}))
    axes.grid(False, axis="x")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.6, len(positions) - 0.4)
    legend_below(figure, min(3, len(records) + 1))
    return figure


@style()
def attention_map_plot(maps: Mapping[str, AttentionMap], image: NDArray[np.uint8]) -> Figure:
    """Draw the attention of one query over the image around it, averaged over heads.

    There is one panel per map. Weights are relative to each map's largest. All panels show the same
    part of the image, twice as wide as the area that the furthest-reaching map sees.

    Args:
        maps: maps of one image, by label.
        image: (3, H, W) or (H, W, 3) bytes.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    reach = 2 * max(_reach_px(attention) for attention in maps.values())
    height, width = channels_last(image).shape[:2]
    figure, grid = panels(len(maps), columns=3, height=PAGE_INCHES / 3 * 0.78)
    for axes, (label, attention) in zip(grid, maps.items(), strict=True):
        drawn = _draw_weights(axes, attention, image, label)
        row, column = attention.query_px
        axes.set_xlim(max(-0.5, column - reach), min(width - 0.5, column + reach))
        axes.set_ylim(min(height - 0.5, row + reach), max(-0.5, row - reach))
    colour_bar(figure, drawn, grid, "weight over the largest")
    return figure


def connect_clicks(
    figure: Figure, image: NDArray[np.uint8], look: Callable[[tuple[int, int]], AttentionMap]
) -> int:
    """Draw the attention of a query when it is clicked on a figure's first axes; in live backends.

    Args:
        figure: a figure with the image or an attention map on its first axes, in image pixels.
        image: (3, H, W) or (H, W, 3) bytes.
        look: returns the map of a query pixel (row, column).

    Returns:
        The connection, for ``figure.canvas.mpl_disconnect``.
    """

    @style()
    def on_click(event: Any) -> None:
        axes = figure.axes[0]
        if event.inaxes is axes and event.xdata is not None:
            attention = look((round(event.ydata), round(event.xdata)))
            axes.clear()
            label = f"{attention.layer},\nquery {attention.query_px}"
            _draw_weights(axes, attention, image, label)
            figure.canvas.draw_idle()

    return figure.canvas.mpl_connect("button_press_event", on_click)


def _draw_weights(axes: Axes, attention: AttentionMap, image: NDArray[np.uint8], label: str) -> Any:
    """Draw one map's weights over the grey image and mark its query."""
    grey = channels_last(image).mean(2)
    draw_map(axes, grey, cmap="gray", vmin=-60, vmax=300)
    mean = attention.weights.mean(0)
    relative = np.where(mean > 0, mean / mean.max(), np.nan)
    bottom, right = (size * attention.pitch_px - 0.5 for size in mean.shape)
    extent = (-0.5, right, bottom, -0.5)
    drawn = draw_map(axes, relative, vmin=0, vmax=1, alpha=0.75, extent=extent)
    row, column = attention.query_px
    for side, width, color in ((7, 1.4, INK), (5.5, 0.7, "w")):
        axes.plot(column, row, marker="+", ms=side, mew=width, color=color, zorder=4)
    axes.set_xlim(-0.5, grey.shape[1] - 0.5)
    axes.set_ylim(grey.shape[0] - 0.5, -0.5)
    bare(axes, label)
    return drawn


def _reach_px(attention: AttentionMap) -> float:
    """Return how far the query's window reaches from the query, by row or column, in pixels."""
    seen = np.argwhere(attention.weights.max(0) > 0)
    return float((np.abs(seen - attention.query).max() + 1) * attention.pitch_px)


def gate_plot(record: GateRecord, image: NDArray[np.uint8] | None = None) -> Figure:
    """Draw the gates of every slice, the mean's path above the scale's, after the image if given.

    The image has shape (3, H, W) or (H, W, 3).
    """
    gates = {(gate.path, gate.slice_index): gate.gate for gate in record.gates}
    paths, slices = (sorted(set(keys)) for keys in zip(*gates, strict=True))
    cells: list[tuple[str, NDArray[Any] | None]] = []
    for path in paths:
        if image is not None:
            cells.append(("", None) if cells else (record.image, image))
        cells += [
            (f"slice {i}, {path}" if (path, i) in gates else "", gates.get((path, i)))
            for i in slices
        ]
    columns = len(cells) // len(paths)
    return map_panels(cells, "gate, mean over channels", columns=columns, height=1.25)


def deviation_plot(maps: Mapping[str, LatentMaps], image: NDArray[np.uint8]) -> Figure:
    """Draw |y − ŷ| averaged over channels, one panel per codec, all on the same scale.

    It is divided by the image's mean |y|, so that latents of different scales are comparable.

    Args:
        maps: maps of one image, by label.
        image: (3, H, W) or (H, W, 3) bytes.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    arrays = {label: each.scaled_deviation for label, each in maps.items()}
    cells = [(f"{label}: mean {array.mean():.3f}", array) for label, array in arrays.items()]
    columns = min(len(maps) + 1, 4)
    return map_panels(
        [(next(iter(maps.values())).image, image), *cells],
        r"$|y - \hat{y}|$ over mean $|y|$",
        columns=columns,
        height=PAGE_INCHES / columns * 0.75,
    )


def bits_plot(maps: LatentMaps, image: NDArray[np.uint8]) -> Figure:
    """Draw where each slice spends its bits, in bits per image pixel, on one scale."""
    slices = list(maps.bits / maps.pitch_px**2)
    cells = [(f"slice {i}: {each.mean():.3f} bpp", each) for i, each in enumerate(slices)]
    columns = min(len(slices) + 1, 6)
    return map_panels(
        [(maps.image, image), *cells], "bit per pixel", columns=columns, height=1.35, low=0.0
    )


def slice_bits_plot(records: Mapping[str, LatentRecord]) -> Figure:
    """Draw each codec's rate as one bar, stacked by slice, z last.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    parts: dict[str, list[float]] = {}
    for bar, record in enumerate(records.values()):
        for image in record.images:
            bits = {f"slice {i}": each.bits for i, each in enumerate(image.slices)}
            for name, count in {**bits, "z": image.z_bits}.items():
                lengths = parts.setdefault(name, [0.0] * len(records))
                lengths[bar] += count / image.pixels / len(record.images)
    parts["z"] = parts.pop("z")  # after all slices, of which other codecs may have more
    axis = PlotAxis(name="estimated rate", unit="bpp")
    return stacked_bars(parts, list(records), axis, form=".3f")


@style()
def prediction_plot(records: Mapping[str, LatentRecord]) -> Figure:
    """Draw the distribution of the normalised error (y − μ) / σ, and its spatial correlation.

    The left panel includes the densities that the coders assume: standard normal, or a generalised
    Gaussian of unit deviation.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    count = 1 + len(records)
    middles = (np.array(EDGES[1:]) + EDGES[:-1]) / 2
    figure, (left, *grid) = panels(count, columns=min(count, 4), height=2.3, width=PAGE_INCHES)
    for shape in dict.fromkeys(record.shape for record in records.values()):
        name, dashes = (
            ("standard normal", "--") if shape == 2 else (f"generalised, shape {shape:g}", ":")
        )
        density = _unit_density(middles, shape)
        left.plot(middles, density, color=SOFT, ls=dashes, lw=1.0, label=name)
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
        name_axes(axes, f"{label}\nnearest: {errors.neighbour_correlation:.2f}", share=0.6)
        axes.set_xlabel("columns away (latents)")
    grid[0].set_ylabel("rows away (latents)")
    left.set_yscale("log")
    left.set_ylim(1e-5, 4)
    left.set_xlabel(r"$(y - \mu) / \sigma$")
    left.set_ylabel("density")
    legend_below(figure, min(4, count))
    colour_bar(figure, drawn, grid, "correlation with the neighbour")
    return figure


def _unit_density(distance: NDArray[np.float64], shape: float) -> NDArray[np.float64]:
    """Return the density of a generalised Gaussian of mean 0 and deviation 1."""
    scale = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    peak = shape / (2 * scale * math.gamma(1 / shape))
    density: NDArray[np.float64] = peak * np.exp(-((np.abs(distance) / scale) ** shape))
    return density


@style()
def energy_plot(records: Mapping[str, LatentRecord]) -> Figure:
    """Draw the share of the latent's energy in its strongest channels.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    figure, axes = new_figure(
        PlotAxis(name="strongest channels", log=True),
        PlotAxis(name="share of the energy held"),
    )
    for (name, record), look in zip(records.items(), looks(len(records)), strict=True):
        shares = record.energy_held
        label = f"{name} ({record.coding_gain_db:.1f} dB)"
        axes.plot(np.arange(len(shares)) + 1, shares, label=label, ms=2.5, **look)
    axes.set_ylim(0, 1.03)
    legend_below(figure, min(2, len(records)), title="coding gain", title_fontsize=7)
    return figure
