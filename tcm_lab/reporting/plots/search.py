"""Plots of a search: its Pareto front, single changes, what its axes do, and how its front grew."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from tcm_lab._utils import Frozen
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    COLUMN_INCHES,
    INK,
    SOFT,
    PlotAxis,
    label_axes,
    legend_below,
    looks,
    new_figure,
    palette,
    panels,
    style,
)

if TYPE_CHECKING:  # a search needs `pareto_front`, but not matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line: TypeAlias = tuple[tuple[float, float], tuple[float, float]]

_ACROSS = 3
_SIDE_INCHES = 2.0
_LONG = 6
_VERDICTS = ("better", "not distinguishable", "worse")
COST = PlotAxis(name="Lagrangian cost vs baseline", unit="%")


def pareto_front(rows: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each row whether it is Pareto-optimal.

    Args:
        rows: one value per objective, all to be minimised; negate those to be maximised. Equal
            rows are on the front together; a row with NaN never is, and dominates nothing.
    """
    return [
        not any(map(isnan, row)) and not any(_dominates(other, row) for other in rows)
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
    colors = palette(4)
    groups: dict[str, tuple[list[ParetoPoint], dict[str, Any]]] = {
        "stopped early": (
            [p for p in points if p.partial],
            {"marker": "x", "color": SOFT, "s": 14, "lw": 0.8},
        ),
        "dominated": (
            [p for p in points if not (p.partial or p.front or p.baseline)],
            {"marker": "o", "facecolor": "white", "edgecolor": SOFT, "s": 16, "lw": 0.9},
        ),
        "Pareto front": (
            [p for p in points if p.front and not p.baseline],
            {"marker": "o", "color": colors[0], "s": 22, "lw": 0.9},
        ),
        "baseline": (
            [p for p in points if p.baseline],
            {"marker": "D", "color": colors[3], "s": 24, "lw": 0.9},
        ),
    }
    with style():
        figure, axes = new_figure(title, width=width, height=height)
        label_axes(axes, x, y)
        lines = _intervals(points)
        border = _border([p for p in points if p.front], x)
        for ends in lines:
            axes.plot(*zip(*ends, strict=True), color=SOFT, lw=0.8, zorder=2)
        for ends in border:
            axes.plot(*zip(*ends, strict=True), color=colors[0], lw=0.9, alpha=0.7, zorder=1)
        for name, (members, look) in groups.items():
            if members:
                places = ([p.x for p in members], [p.y for p in members])
                axes.scatter(*places, label=name, zorder=3, **look)
        axes.margins(0.12)
        if sum(bool(members) for members, _ in groups.values()) > 1:
            legend_below(figure, 4, handletextpad=0.2)
        few = len(points) <= 10
        names = [p.label if few or p.front or p.baseline else "" for p in points]
        label_points(axes, [(p.x, p.y) for p in points], names, color=INK, lines=lines + border)
        return figure


def _intervals(points: Sequence[ParetoPoint]) -> list[Line]:
    vertical = [(p.x, p.y_interval) for p in points if p.y_interval is not None]
    level = [(p.y, p.x_interval) for p in points if p.x_interval is not None]
    return [
        *(((x, low), (x, high)) for x, (low, high) in vertical),
        *(((low, y), (high, y)) for y, (low, high) in level),
    ]


def _border(front: Sequence[ParetoPoint], x: PlotAxis) -> list[Line]:
    """Return the steps between the front's points, on the side that they dominate."""
    lines: list[Line] = []
    for a, b in itertools.pairwise(sorted(front, key=lambda p: (p.x, p.y))):
        corner = (b.x, a.y) if x.lower_is_better else (a.x, b.y)
        lines += [((a.x, a.y), corner), (corner, (b.x, b.y))]
    return lines


class Change(Frozen):
    """One change of the baseline.

    Attributes:
        label: what was changed.
        quality: change of a metric to be minimised.
        interval: its lower and upper end.
        cost: change of the cost.
    """

    label: str
    quality: float
    interval: tuple[float, float]
    cost: float

    @property
    def verdict(self) -> str:
        """Whether the interval lies on one side of zero, in a word."""
        low, high = self.interval
        return _VERDICTS[0] if high < 0 else _VERDICTS[2] if low > 0 else _VERDICTS[1]


def ablation_plot(changes: Sequence[Change], quality: PlotAxis, cost: PlotAxis) -> Figure:
    """Draw a row per change: its effect on quality with the interval, and beside it on cost.

    Args:
        changes: in the order of the rows.
        quality: what the left half shows.
        cost: what the right half shows.
    """
    colors = dict(zip(_VERDICTS, (palette(4)[0], SOFT, palette(4)[3]), strict=True))
    words = _VERDICTS if quality.lower_is_better else _VERDICTS[::-1]
    height = 0.9 + 0.2 * len(changes)
    with style():
        figure, (left, right) = panels(
            2, columns=2, height=height, width=5.6, sharey=True, width_ratios=(2, 1)
        )
        for row, change in enumerate(changes):
            verdict = words[_VERDICTS.index(change.verdict)]
            left.plot(change.interval, (row, row), color=colors[verdict], lw=1)
            left.plot(change.quality, row, "o", color=colors[verdict], ms=4, label=verdict)
            right.barh(row, change.cost, height=0.6, color=SOFT)
        left.set_yticks(range(len(changes)), labels=[change.label for change in changes])
        left.invert_yaxis()
        for axes, shown, characters in ((left, quality, 40), (right, cost, 18)):
            axes.axvline(0, color=INK, lw=0.6, zorder=1)
            axes.set_xlabel(textwrap.fill(shown.label, characters))
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        dots = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
        known = {word: dots[word] for word in _VERDICTS if word in dots}
        legend_below(figure, 3, handles=known.values(), labels=known, handletextpad=0.2)
        return figure


@dataclass(frozen=True)
class Effect:
    """One axis.

    Attributes:
        axis: its name.
        values: each value's word, and the cost of every variant that has it.
    """

    axis: str
    values: Sequence[tuple[str, Sequence[float]]]


def effects_plot(effects: Sequence[Effect], quality: PlotAxis = COST) -> Figure:
    """Draw one panel per axis: the quality of every variant as a dot, the means as a line."""
    with style():
        figure, grid = _grid(len(effects), quality)
        for panel, effect in zip(grid, effects, strict=True):
            for place, (_, costs) in enumerate(effect.values):
                panel.plot([place] * len(costs), costs, "o", color=SOFT, ms=2, alpha=0.6, zorder=2)
            means = [fmean(costs) for _, costs in effect.values]
            panel.plot(range(len(means)), means, "-o", color=palette(1)[0], zorder=3)
            _name(panel, effect.axis, [word for word, _ in effect.values])
        return figure


def interactions_plot(
    pairs: Sequence[tuple[str, str, Mapping[str, Sequence[tuple[str, float]]]]],
    quality: PlotAxis = COST,
) -> Figure:
    """Draw one panel per pair of axes: a line for each value of the second.

    Args:
        pairs: both axes' names, and by the second's values the mean quality at each of the
            first's.
        quality: what the lines show.
    """
    with style():
        figure, grid = _grid(len(pairs), quality, height=_SIDE_INCHES + 0.5)
        for panel, (a, b, lines) in zip(grid, pairs, strict=True):
            words = list(dict.fromkeys(word for line in lines.values() for word, _ in line))
            for (value, line), look in zip(lines.items(), looks(len(lines)), strict=True):
                places = [words.index(word) for word, _ in line]
                panel.plot(places, [cost for _, cost in line], label=value, ms=3, **look)
            _name(panel, a, words)
            panel.legend(
                title=b, title_fontsize=6.5, fontsize=6, handlelength=1.2, columnspacing=1.0,
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
            )  # fmt: skip
        return figure


def history_plot(history: Sequence[tuple[int, float]]) -> Figure:
    """Draw the share of the final front's hypervolume after each training.

    Args:
        history: number of the training, and the share in [0, 1].
    """
    with style():
        figure, axes = new_figure(height=2.2)
        trainings = [number for number, _ in history]
        shares = [100 * share for _, share in history]
        axes.step(trainings, shares, where="post", color=palette(1)[0])
        axes.set_xlabel("trainings")
        axes.set_ylabel("hypervolume (% of final)")
        return figure


def _grid(count: int, quality: PlotAxis, height: float = _SIDE_INCHES) -> tuple[Figure, list[Axes]]:
    width = max(COLUMN_INCHES, min(count, _ACROSS) * (_SIDE_INCHES + 0.3))
    figure, grid = panels(count, columns=_ACROSS, height=height, width=width, sharey=True)
    for panel in grid[::_ACROSS]:
        panel.set_ylabel(textwrap.fill(quality.label, 18))
    return figure, grid


def _name(panel: Axes, axis: str, words: Sequence[str]) -> None:
    panel.set_xlabel(axis)
    long = sum(map(len, words)) > 4 * _LONG
    panel.set_xticks(range(len(words)), words, rotation=30 if long else 0)
    panel.margins(x=0.15)
