"""Attention: how far heads look, what one query sees, and what gates pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcm_lab.errors import LabError
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
    show_image,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.analysis import AttentionMap, AttentionRecord, GateRecord

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
    layers = {label: record.layers_of(transform) for label, record in records.items()}
    names = list(dict.fromkeys(layer.label for found in layers.values() for layer in found))
    if not names:
        raise LabError(f"no layer of {transform} has window attention in these records")
    with style():
        figure, drawn = new_figure(title)
        label_axes(drawn, PlotAxis(name=f"attention layer of {transform}"), _METRICS[metric])
        step = 0.7 / len(records)
        equal: dict[str, float] = {}
        for i, (label, found) in enumerate(layers.items()):
            color = palette(len(records))[i]
            offset = (i - (len(records) - 1) / 2) * step
            for layer in found:
                place = names.index(layer.label) + offset
                heads = np.mean(getattr(layer.learned, metric), axis=0)
                spread = np.linspace(-0.25, 0.25, len(heads)) * step if len(heads) > 1 else [0.0]
                drawn.scatter(
                    [place + s for s in spread],
                    heads,
                    s=14,
                    color=color,
                    marker=MARKERS[i % len(MARKERS)],
                    label=label if layer is found[0] else None,
                    zorder=3,
                    lw=0,
                )
                equal[layer.label] = getattr(layer.uniform, metric)[0][0]
        for name, value in equal.items():
            place = names.index(name)
            drawn.plot(
                [place - 0.42, place + 0.42],
                [value, value],
                color=SOFT,
                lw=0.9,
                ls="--",
                zorder=1,
                label="equal weights" if name == next(iter(equal)) else None,
            )
        drawn.set_xticks(range(len(names)), names)
        drawn.grid(False, axis="x")
        drawn.set_ylim(bottom=0)
        drawn.set_xlim(-0.6, len(names) - 0.4)
        figure.legend(loc="outside lower center", ncols=min(3, len(records) + 1))
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
    if not maps:
        raise LabError("no maps given")
    with style():
        columns = min(len(maps), 3)
        figure, grid = panels(len(maps), columns=columns, height=PAGE_INCHES / 3 * 0.78)
        drawn = None
        for axes, (label, found) in zip(grid, maps.items(), strict=True):
            drawn = _draw_weights(axes, found, image, label)
        reach = 2 * max(_reach_px(found) for found in maps.values())
        for axes, found in zip(grid, maps.values(), strict=True):
            row, column = found.query_px
            left, right = axes.get_xlim()
            bottom, top = axes.get_ylim()
            axes.set_xlim(max(left, column - reach), min(right, column + reach))
            axes.set_ylim(min(bottom, row + reach), max(top, row - reach))
        colour_bar(figure, drawn, grid, "weight over the largest")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
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
    with style():
        rows = sorted({gate.path for gate in record.gates})
        slices = sorted({gate.slice_index for gate in record.gates})
        extra = int(image is not None)
        columns = len(slices) + extra
        figure, grid = panels(columns * len(rows), columns=columns, height=1.25, width=PAGE_INCHES)
        low = min(float(gate.gate.min()) for gate in record.gates)
        high = max(float(gate.gate.max()) for gate in record.gates)
        drawn = None
        for axes in grid:
            bare(axes)
        if image is not None:
            show_image(grid[0], image, record.image)
        for gate in record.gates:
            place = rows.index(gate.path) * columns + slices.index(gate.slice_index) + extra
            drawn = grid[place].imshow(
                gate.gate, cmap="cividis", vmin=low, vmax=high, interpolation="none"
            )
            bare(grid[place], f"slice {gate.slice_index}, {gate.path}")
        colour_bar(figure, drawn, grid, "gate, mean over channels")
        return figure


def _draw_weights(axes: Any, found: AttentionMap, image: NDArray[np.uint8], label: str) -> Any:
    """Lay one map's weights over the grey image and mark its query."""
    pixels = np.asarray(image)
    if pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    height, width = pixels.shape[:2]
    axes.imshow(pixels.mean(2), cmap="gray", vmin=-60, vmax=300, interpolation="none")
    mean = found.weights.mean(0)
    rows, columns = mean.shape
    relative = np.where(mean > 0, mean / mean.max(), np.nan)
    drawn = axes.imshow(
        relative,
        cmap="cividis",
        vmin=0,
        vmax=1,
        alpha=0.75,
        extent=(-0.5, columns * found.pitch_px - 0.5, rows * found.pitch_px - 0.5, -0.5),
        interpolation="none",
    )
    axes.plot(found.query_px[1], found.query_px[0], marker="+", ms=7, mew=1.4, color=INK, zorder=4)
    axes.plot(
        found.query_px[1], found.query_px[0], marker="+", ms=5.5, mew=0.7, color="w", zorder=5
    )
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    bare(axes, label)
    return drawn


def _reach_px(found: AttentionMap) -> float:
    """Return how far the query's window reaches from it, rows or columns, in pixels."""
    rows, columns = np.nonzero(found.weights.max(0) > 0)
    tokens = max(
        np.abs(rows - found.query[0]).max() + 1, np.abs(columns - found.query[1]).max() + 1
    )
    return float(tokens * found.pitch_px)
