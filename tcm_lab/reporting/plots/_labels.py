"""Puts names beside points so that they hide neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT_PT = 6.5
_GAP_PT = 4.5
# Directions tried in this order: right, left, above, below, then the corners.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_RINGS = (1.0, 2.2, 3.6, 5.2)
_ALIGN_X = {1: "left", 0: "center", -1: "right"}
_ALIGN_Y = {1: "bottom", 0: "center", -1: "top"}


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    colors: Sequence[str],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> None:
    """Write each name beside its point, nearest first, at the place that hides the least.

    Args:
        axes: with its limits and scales set.
        points: what is named, in data coordinates.
        names: one for each point; an empty one is not written.
        colors: of the names.
        lines: straight lines to keep clear, by their two ends.
    """
    from matplotlib.patheffects import withStroke

    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout decides where data lie
    frame = np.array(axes.get_window_extent().extents)
    pixels = figure.dpi / 72
    taken = [_around(axes.transData.transform(point), 3 * pixels) for point in points]
    for ends in lines:
        taken += _beads(*axes.transData.transform(ends), radius=0.8 * pixels)
    for point, name, color in zip(points, names, colors, strict=True):
        if not name:
            continue
        unplaced = axes.text(0, 0, name, fontsize=_FONT_PT)
        size = np.array(unplaced.get_window_extent().size)
        unplaced.remove()
        costs = []
        for ring in _RINGS:
            for direction in _DIRECTIONS:
                offset = np.array(direction) * _GAP_PT * ring
                # The text's near edge or corner, or its middle, stands at the offset.
                toward = np.array(direction) * size / 2
                middle = axes.transData.transform(point) + offset * pixels + toward
                box = np.concatenate([middle - size / 2, middle + size / 2])
                outside = _area(box) - _overlap(box, frame)
                hidden = sum(_overlap(box, other) for other in taken)
                costs.append((hidden + 2 * outside + ring, direction, offset, box))
        _, (dx, dy), offset, box = min(costs, key=lambda choice: choice[0])
        taken.append(box)
        far = max(abs(offset)) > _GAP_PT
        leader = {"arrowstyle": "-", "lw": 0.4, "color": color, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            name,
            point,
            (float(offset[0]), float(offset[1])),
            textcoords="offset points",
            ha=_ALIGN_X[dx],
            va=_ALIGN_Y[dy],
            annotation_clip=False,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops=leader if far else None,
            zorder=5,
            color=color,
            fontsize=_FONT_PT,
        ).set_in_layout(False)


def _around(center: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    return np.concatenate([center - radius, center + radius])


def _beads(
    start: NDArray[np.float64], end: NDArray[np.float64], *, radius: float
) -> list[NDArray[np.float64]]:
    """Return small boxes along a line."""
    count = max(2, int(np.hypot(*(end - start)) / (2 * radius)))
    return [_around(start + share * (end - start), radius) for share in np.linspace(0, 1, count)]


def _area(box: NDArray[np.float64]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(np.maximum(sides, 0)))
