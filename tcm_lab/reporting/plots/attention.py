"""Attention: how far heads look, what one query sees, and what gates pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tcm_lab.analysis import AttentionMap, AttentionRecord, GateRecord
from tcm_lab.errors import LabError
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
    label_axes,
    legend_below,
    looks,
    map_panels,
    new_figure,
    panels,
    style,
)

_METRICS = {
    "distance_px": PlotAxis(name="mean attention distance", unit="px"),
    "entropy_bits": PlotAxis(name="entropy of the weights", unit="bit"),
    "near_share": PlotAxis(name="weight on the 3x3 neighbourhood"),
}


def attention_plot(
    records: Mapping[str, AttentionRecord],
    *,
    metric: str = "distance_px",
    transform: str = "g_a",
    title: str = "",
) -> Figure:
    """Draw one metric of every layer of a transform, head by head, beside that of equal weights.

    Args:
        records: by label.
        metric: ``distance_px``, ``entropy_bits`` or ``near_share``.
        transform: g_a, g_s, h_a, h_s or slices.
        title: over the plot.

    Raises:
        LabError: no record has a layer there.
    """
    found = [record.layers_of(transform) for record in records.values()]
    equal = {
        layer.label: getattr(layer.uniform, metric)[0][0] for layers in found for layer in layers
    }
    if not equal:
        raise LabError(f"no layer of {transform} has window attention in these records")
    places = {name: place for place, name in enumerate(equal)}
    step = 0.7 / len(records)
    with style():
        figure, axes = new_figure(title)
        label_axes(axes, PlotAxis(name=f"attention layer of {transform}"), _METRICS[metric])
        for i, (label, layers) in enumerate(zip(records, found, strict=True)):
            x, y = [], []
            for layer in layers:
                heads = np.mean(getattr(layer.learned, metric), axis=0)
                spread = np.linspace(-0.25, 0.25, len(heads)) if len(heads) > 1 else np.zeros(1)
                x += list(places[layer.label] + (i - (len(records) - 1) / 2 + spread) * step)
                y += list(heads)
            axes.scatter(x, y, s=14, label=label, zorder=3, lw=0, **looks(len(records))[i])
        ends = [(place - 0.42, place + 0.42) for place in places.values()]
        lines: dict[str, Any] = {"color": SOFT, "lw": 0.9, "ls": "--", "zorder": 1}
        axes.hlines(list(equal.values()), *zip(*ends, strict=True), label="equal weights", **lines)
        many: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(places)), places, **(many if len(places) > 8 else {}))
        axes.grid(False, axis="x")
        axes.set_ylim(bottom=0)
        axes.set_xlim(-0.6, len(places) - 0.4)
        legend_below(figure, min(3, len(records) + 1))
        return figure


def attention_map_plot(
    maps: Mapping[str, AttentionMap], image: NDArray[np.uint8], *, title: str = ""
) -> Figure:
    """Draw what one query sees over the image around it, heads averaged, one panel per map.

    Weights are drawn relative to each map's largest; all panels show the same part of the image,
    twice as wide as what the map that reaches furthest sees.

    Args:
        maps: by label, of one image.
        image: (3, H, W) or (H, W, 3) bytes.
        title: over the figure.

    Raises:
        LabError: no maps are given.
    """
    need("maps", maps)
    reach = 2 * max(_reach_px(found) for found in maps.values())
    height, width = channels_last(image).shape[:2]
    with style():
        figure, grid = panels(len(maps), columns=3, height=PAGE_INCHES / 3 * 0.78, title=title)
        for axes, (label, found) in zip(grid, maps.items(), strict=True):
            drawn = _draw_weights(axes, found, image, label)
            row, column = found.query_px
            axes.set_xlim(max(-0.5, column - reach), min(width - 0.5, column + reach))
            axes.set_ylim(min(height - 0.5, row + reach), max(-0.5, row - reach))
        colour_bar(figure, drawn, grid, "weight over the largest")
        return figure


def connect_clicks(
    figure: Figure, image: NDArray[np.uint8], look: Callable[[tuple[int, int]], AttentionMap]
) -> int:
    """Let a click on a figure's first axes draw what the clicked query sees; for live backends.

    Args:
        figure: with the image or an attention map on its first axes, in image pixels.
        image: (3, H, W) or (H, W, 3) bytes.
        look: gives the map of a query pixel (row, column).

    Returns:
        The connection, for ``figure.canvas.mpl_disconnect``.
    """

    def on_click(event: Any) -> None:
        axes = figure.axes[0]
        if event.inaxes is not axes or event.xdata is None:
            return
        found = look((round(event.ydata), round(event.xdata)))
        with style():
            axes.clear()
            _draw_weights(axes, found, image, f"{found.layer}, query {found.query_px}")
        figure.canvas.draw_idle()

    return figure.canvas.mpl_connect("button_press_event", on_click)


def gate_plot(record: GateRecord, image: NDArray[np.uint8] | None = None) -> Figure:
    """Draw the gates of every slice, the mean's path above the scale's, on one scale.

    Args:
        record: gates of one image.
        image: drawn first, if given.
    """
    gates = {(gate.path, gate.slice_index): gate.gate for gate in record.gates}
    paths, slices = (sorted(set(each)) for each in zip(*gates, strict=True))
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


def _draw_weights(axes: Axes, found: AttentionMap, image: NDArray[np.uint8], label: str) -> Any:
    """Lay one map's weights over the grey image and mark its query."""
    grey = channels_last(image).mean(2)
    draw_map(axes, grey, cmap="gray", vmin=-60, vmax=300)
    mean = found.weights.mean(0)
    relative = np.where(mean > 0, mean / mean.max(), np.nan)
    bottom, right = (size * found.pitch_px - 0.5 for size in mean.shape)
    extent = (-0.5, right, bottom, -0.5)
    drawn = draw_map(axes, relative, vmin=0, vmax=1, alpha=0.75, extent=extent)
    row, column = found.query_px
    for side, width, color in ((7, 1.4, INK), (5.5, 0.7, "w")):
        axes.plot(column, row, marker="+", ms=side, mew=width, color=color, zorder=4)
    axes.set_xlim(-0.5, grey.shape[1] - 0.5)
    axes.set_ylim(grey.shape[0] - 0.5, -0.5)
    bare(axes, label)
    return drawn


def _reach_px(found: AttentionMap) -> float:
    """Return how far the query's window reaches from it, rows or columns, in pixels."""
    seen = np.argwhere(found.weights.max(0) > 0)
    return float((np.abs(seen - found.query).max() + 1) * found.pitch_px)
