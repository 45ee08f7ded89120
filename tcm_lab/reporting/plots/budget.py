"""Plots of differences over the budget, and of predictions against trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    COLUMN_INCHES,
    INK,
    SOFT,
    PlotAxis,
    legend_below,
    looks,
    new_figure,
    palette,
    style,
)
from tcm_lab.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOLID, _FAINT = 1.2, 0.16
_ALL_NAMED, _FARTHEST = 16, 8  # name all points up to this number, else the farthest


class BudgetSeries(Frozen):
    """One variant's difference from the baseline over the steps.

    Attributes:
        label: label of the variant.
        steps: end of each window, ascending.
        windows: difference in each window.
        evaluated: difference of evaluated costs, by the steps of the training.
        predicted: predicted differences at larger budgets, by their steps.
    """

    label: str
    steps: tuple[int, ...]
    windows: tuple[Interval, ...]
    evaluated: dict[int, Interval] = Field(default_factory=dict)
    predicted: dict[int, Interval] = Field(default_factory=dict)


@style()
def budget_plot(series: Sequence[BudgetSeries], y: PlotAxis) -> Figure:
    """Draw each difference over the steps with its band, and predictions beyond them.

    Lines are training losses; dots with bars are evaluated costs; dashes lead to predictions.

    Args:
        series: the variants.
        y: the vertical axis, of the differences.

    Raises:
        LabError: no series given.
    """
    need("series", series)
    figure, axes = new_figure(PlotAxis(name="steps", log=True), y, width=5.6, height=3.0)
    axes.axhline(0, color=INK, lw=0.6, zorder=1)
    for curve, look in zip(series, looks(len(series)), strict=True):
        color, values = look["color"], [w.value for w in curve.windows]
        axes.plot(curve.steps, values, color=color, lw=_SOLID, label=curve.label, zorder=3)
        lows, highs = [w.low for w in curve.windows], [w.high for w in curve.windows]
        axes.fill_between(curve.steps, lows, highs, color=color, alpha=_FAINT, lw=0)
        for step, cost in curve.evaluated.items():
            axes.plot((step, step), (cost.low, cost.high), color=color, lw=0.8, zorder=4)
            axes.plot(step, cost.value, look["marker"], color=color, ms=4, mec="white", mew=0.4)
        if curve.predicted:
            prediction = [
                (curve.steps[-1], values[-1]),
                *((s, w.value) for s, w in curve.predicted.items()),
            ]
            axes.plot(*zip(*prediction, strict=True), color=color, lw=0.8, ls=(0, (3, 2)))
            for step, cost in curve.predicted.items():
                axes.plot((step, step), (cost.low, cost.high), color=color, lw=0.6, alpha=0.6)
    legend_below(figure, 3, handlelength=1.4)
    return figure


class AgreementPoint(Frozen):
    """A variant's predicted and trained difference from the baseline."""

    label: str
    predicted: Interval
    trained: Interval


@style()
def agreement_plot(
    points: Sequence[AgreementPoint], predicted: PlotAxis, trained: PlotAxis
) -> Figure:
    """Draw trained against predicted differences; they are equal on the line.

    Args:
        points: the variants; if there are many, only the farthest from the rest are named.
        predicted: the horizontal axis.
        trained: the vertical axis.

    Raises:
        LabError: no points given.
    """
    need("points", points)
    figure, axes = new_figure(predicted, trained, height=COLUMN_INCHES)
    lines = []
    for p in points:
        lines += [
            ((p.predicted.low, p.trained.value), (p.predicted.high, p.trained.value)),
            ((p.predicted.value, p.trained.low), (p.predicted.value, p.trained.high)),
        ]
    for ends in lines:
        axes.plot(*zip(*ends, strict=True), color=SOFT, lw=0.7, zorder=2)
    positions = [(p.predicted.value, p.trained.value) for p in points]
    x, y = np.array(positions).T
    axes.scatter(x, y, color=palette(1)[0], s=18, zorder=3)
    axes.margins(0.12)
    axes.axline((0, 0), slope=1, color=INK, lw=0.6, zorder=1)
    labels = [p.label for p in points]
    if len(points) > _ALL_NAMED:
        distances = np.maximum(abs(x - np.median(x)), abs(y - np.median(y)))
        farthest = set(np.argsort(-distances)[:_FARTHEST].tolist())
        labels = [label if i in farthest else "" for i, label in enumerate(labels)]
    label_points(axes, positions, labels, lines)
    return figure
