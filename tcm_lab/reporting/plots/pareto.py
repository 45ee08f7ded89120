"""The Pareto front of several variants, and its plot."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, TypeAlias

from tcm_lab._utils import Frozen
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    COLUMN_INCHES,
    INK,
    SOFT,
    PlotAxis,
    label_axes,
    new_figure,
    palette,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


def pareto_front(rows: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each row whether it is Pareto-optimal.

    Args:
        rows: one value per objective, all to be minimised; negate those to be maximised. Equal
            rows are on the front together; a row with NaN never is, and dominates nothing.
    """
    known = [row for row in rows if not any(map(isnan, row))]
    return [
        not any(map(isnan, row)) and not any(_dominates(other, row) for other in known)
        for row in rows
    ]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


class ParetoPoint(Frozen):
    """One variant and two of its metrics.

    Attributes:
        x: cost.
        y: quality.
        label: its name in the plot; may be empty.
        x_interval: lower and upper end, if known.
        y_interval: lower and upper end, if known.
        front: whether it is Pareto-optimal.
        baseline: whether the others are compared with it.
        partial: whether it was stopped before its full budget.
    """

    x: float
    y: float
    label: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    front: bool = False
    baseline: bool = False
    partial: bool = False


def pareto_plot(
    points: Sequence[ParetoPoint],
    x: PlotAxis,
    y: PlotAxis,
    *,
    title: str = "",
    width: float = COLUMN_INCHES,
    height: float = 2.7,
) -> Figure:
    """Draw the variants, the front as the border of what they dominate, and the baseline.

    Args:
        points: variants, in any order. The front's are named, and the baseline; all are where
            there are at most ten.
        x: the horizontal objective.
        y: the vertical objective.
        title: over the plot.
        width: inches.
        height: inches.
    """
    with style():
        front_color, baseline_color = palette(4)[0], palette(4)[3]
        figure, axes = new_figure(title, width=width, height=height)
        label_axes(axes, x, y)
        groups = {
            "stopped early": [p for p in points if p.partial],
            "dominated": [p for p in points if not (p.partial or p.front or p.baseline)],
            "Pareto front": [p for p in points if p.front and not p.baseline],
            "baseline": [p for p in points if p.baseline],
        }
        looks: dict[str, dict[str, Any]] = {
            "stopped early": {"marker": "x", "color": SOFT, "s": 14, "linewidths": 0.8},
            "dominated": {"marker": "o", "facecolor": "white", "edgecolor": SOFT, "s": 16},
            "Pareto front": {"marker": "o", "color": front_color, "s": 22},
            "baseline": {"marker": "D", "color": baseline_color, "s": 24},
        }
        intervals: list[Line] = [
            ((p.x, p.y_interval[0]), (p.x, p.y_interval[1]))
            for p in points
            if p.y_interval is not None
        ]
        intervals += [
            ((p.x_interval[0], p.y), (p.x_interval[1], p.y))
            for p in points
            if p.x_interval is not None
        ]
        border = _border([p for p in points if p.front], x)
        for (x0, y0), (x1, y1) in intervals:
            axes.plot([x0, x1], [y0, y1], color=SOFT, lw=0.8, zorder=2)
        for (x0, y0), (x1, y1) in border:
            axes.plot([x0, x1], [y0, y1], color=front_color, lw=0.9, alpha=0.7, zorder=1)
        for name, members in groups.items():
            if members:
                axes.scatter(
                    [p.x for p in members],
                    [p.y for p in members],
                    label=name,
                    zorder=3,
                    **{"linewidths": 0.9, **looks[name]},
                )
        axes.margins(0.12)
        if sum(map(bool, groups.values())) > 1:
            figure.legend(loc="outside lower center", ncols=4, handletextpad=0.2, columnspacing=1.0)
        few = len(points) <= 10
        names = [p.label if few or p.front or p.baseline else "" for p in points]
        places = [(p.x, p.y) for p in points]
        label_points(axes, places, names, color=INK, lines=intervals + border)
        return figure


def _border(front: Sequence[ParetoPoint], x: PlotAxis) -> list[Line]:
    """Return the steps between the front's points, on the side that they dominate."""
    ordered = sorted(front, key=lambda p: (p.x, p.y))
    lines: list[Line] = []
    for a, b in itertools.pairwise(ordered):
        corner = (b.x, a.y) if x.lower_is_better else (a.x, b.y)
        lines += [((a.x, a.y), corner), (corner, (b.x, b.y))]
    return lines
