"""Places names next to points so that they cover neither each other nor points nor lines.

adjustText was tried on our plots: its forces leave names on top of their own markers, and lines to
keep clear cost it a minute for thirty names. A few candidate places per name, all evaluated
together, do better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tcm_lab.reporting.plots._style import INK, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT_PT = 6.5
_GAP_PT = 4.5
_NAME_INCHES = 1.3  # longer names take several lines
# Right, left, above, below, the corners, then between these; earlier ones are preferred.
_DIRECTIONS = np.array(
    [
        *((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)),
        *((0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1)),
    ]
)
_DISTANCES = (1.0, 2.2, 3.6, 5.2, 7.5, 10.5)  # in gaps
_AREA_PT2 = 6.0  # area that a name may cover to be one gap closer to its point
_LINE_GAPS = 1.0  # penalty, in gaps, for a name that needs a line
_RINGS = np.repeat(_DISTANCES, len(_DIRECTIONS))[:, None]
_SIDES: NDArray[np.float64] = np.tile(_DIRECTIONS, (len(_DISTANCES), 1))
_CLEAR_PT = 4.5  # around a point's centre, kept clear of lines to other names
_POINT = 20  # weight of covering or crossing a point, relative to covering a line
_ROUNDS = 3
_DOTS = 40  # small boxes that approximate a line to a far name

Line: TypeAlias = tuple[tuple[float, float], tuple[float, float]]
"""A straight line by its two ends."""
Boxes: TypeAlias = NDArray[np.float64]
"""(N, 4): left, lower, right and upper edges in pixels."""


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    lines: Sequence[Line] = (),
) -> None:
    """Write each name next to its point, where it covers least; far names get a line to the point.

    Args:
        axes: axes with limits and scales already set.
        points: points in data coordinates; unnamed ones are kept clear, too.
        names: one name per point; empty ones are not written.
        lines: lines to keep clear, too.
    """
    from matplotlib.patheffects import withStroke

    texts = [wrapped(name, _NAME_INCHES, _FONT_PT) for name in names]
    named = [(point, text) for point, text in zip(points, texts, strict=True) if text]
    if not named:
        return
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout determines the positions of data
    pixel = figure.dpi / 72
    centres, places, leaders, others = [], [], [], []
    dots = axes.transData.transform(points)
    for point, name in named:
        unplaced = axes.text(0, 0, name, fontsize=_FONT_PT)
        size = np.array(unplaced.get_window_extent().size)
        unplaced.remove()
        centre = _SIDES * (_RINGS * _GAP_PT * pixel + size / 2)  # relative to the point
        at = axes.transData.transform(point)
        centres.append(centre)
        places.append(np.hstack([at + centre - size / 2, at + centre + size / 2]))
        leaders.append(_leaders(at, centre, pixel))
        others.append(_around(dots[(dots != at).any(axis=1)], _CLEAR_PT * pixel))
    frame = np.array([axes.get_window_extent().extents])
    markers = _around(dots, 3 * pixel)
    drawn = _along(axes, lines, pixel)
    hidden = np.array(
        [
            # A line remains visible on both sides of a name. A covered point does not, and a name
            # on another point, or with its line there, would be taken for that point's.
            _overlap(boxes, drawn)
            + 0.5 * _crossed(leader, drawn)
            + _POINT * (_overlap(boxes, markers) + _crossed(leader, around))
            + 4 * _beyond(boxes, frame)
            + _AREA_PT2 * pixel**2 * (_RINGS[:, 0] + _LINE_GAPS * (_RINGS[:, 0] > 1))
            for boxes, leader, around in zip(places, leaders, others, strict=True)
        ]
    )
    chosen = _choose(places, leaders, hidden, _GAP_PT * pixel)
    for (point, name), centre, place in zip(named, centres, chosen, strict=True):
        leader = {"arrowstyle": "-", "lw": 0.4, "color": INK, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            name,
            point,
            (float(centre[place, 0] / pixel), float(centre[place, 1] / pixel)),
            textcoords="offset points",
            ha="center",
            va="center",
            annotation_clip=False,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops=leader if place >= len(_DIRECTIONS) else None,
            zorder=5,
            color=INK,
            fontsize=_FONT_PT,
        ).set_in_layout(False)


def _along(axes: Axes, lines: Sequence[Line], pixel: float) -> Boxes:
    """Return small boxes along the lines."""
    boxes = [np.empty((0, 4))]
    for ends in lines:
        start, end = axes.transData.transform(ends)
        count = max(2, int(np.hypot(*(end - start)) / (1.6 * pixel)))
        boxes.append(_around(np.linspace(start, end, count), 0.8 * pixel))
    return np.concatenate(boxes)


def _leaders(point: NDArray[np.float64], centre: NDArray[np.float64], pixel: float) -> Boxes:
    """Return small boxes along the line from a point to each place of its name: (places, N, 4).

    They begin outside the point's own marker. Near places have no line: their boxes are empty.
    """
    start = np.minimum(4 * pixel / np.hypot(*centre.T), 1)[:, None]
    fraction = start + (1 - start) * np.linspace(0, 1, _DOTS)
    boxes = _around(point + fraction[:, :, None] * centre[:, None], 0.8 * pixel)
    boxes[: len(_DIRECTIONS), :, 2:] = boxes[: len(_DIRECTIONS), :, :2]
    return boxes


def _choose(
    places: Sequence[Boxes], leaders: Sequence[Boxes], hidden: NDArray[np.float64], gap: float
) -> list[int]:
    """Return the place of each name that covers least, given the places of the others.

    ``hidden`` is what each place of each name covers on its own; ``gap`` separates names in a row.
    """
    chosen: dict[int, int] = {}
    for _ in range(_ROUNDS):  # later rounds know the places of all the others
        for index, boxes in enumerate(places):
            others = [(i, place) for i, place in chosen.items() if i != index]
            names = np.array([places[i][place] for i, place in others]).reshape(-1, 4)
            lines = np.array([leaders[i][place] for i, place in others]).reshape(-1, 4)
            widened = names + np.array([-gap, 0, gap, 0])
            mutual = _overlap(boxes, np.concatenate([widened, lines]))
            mutual += 4 * _crossed(leaders[index], names) + _crossed(leaders[index], lines)
            chosen[index] = int(np.argmin(hidden[index] + mutual))
    return list(chosen.values())


def _beyond(boxes: Boxes, frame: Boxes) -> NDArray[np.float64]:
    """Return the area of each box outside the frame, in square pixels."""
    beyond: NDArray[np.float64] = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    beyond -= _overlap(boxes, frame)
    return beyond


def _crossed(leaders: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Return the area of the line to each place that lies over the others, in square pixels."""
    covered = _overlap(leaders.reshape(-1, 4), others).reshape(len(leaders), -1)
    crossed: NDArray[np.float64] = covered.sum(axis=1)
    return crossed


def _around(centers: NDArray[np.float64], radius: float) -> Boxes:
    return np.concatenate([centers - radius, centers + radius], axis=-1)


def _overlap(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Return the area of each box that the others cover together, in square pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    covered: NDArray[np.float64] = np.prod(np.maximum(high - low, 0), axis=2).sum(axis=1)
    return covered
