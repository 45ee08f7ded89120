"""Plots of a search: its Pareto front, single changes, effects of axes, and growth of the front."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from tcm_lab._utils import Frozen
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._labels import Line, label_points
from tcm_lab.reporting.plots._style import (
    COLUMN_INCHES,
    INK,
    SOFT,
    PlotAxis,
    fitted_legend,
    legend_below,
    looks,
    new_figure,
    palette,
    panels,
    style,
    wrapped,
)

if TYPE_CHECKING:  # a search needs `pareto_front`, but not matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3
_SIDE_INCHES = 2.0
_VERDICTS = ("better", "not distinguishable", "worse")
COST = PlotAxis(name="Lagrangian cost vs baseline", unit="%")


def pareto_front(rows: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each row whether it is Pareto-optimal.

    Args:
        rows: one value per objective, all to be minimised; negate those to be maximised. Equal
            rows are on the front together. A row with NaN is never on it, and dominates nothing.
    """
    values = np.array(rows, dtype=np.float64)
    return [
        not (np.isnan(row).any() or ((values <= row).all(1) & (values < row).any(1)).any())
        for row in values
    ]


class ParetoPoint(Frozen):
    """One variant: its cost ``x`` and quality ``y``, with the ends of their intervals if known.

    The label may be empty. The training of a partial variant was stopped before its full budget;
    an infeasible one breaks a soft constraint.
    """

    x: float
    y: float
    label: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    front: bool = False
    baseline: bool = False
    partial: bool = False
    infeasible: bool = False

    @property
    def kind(self) -> str:
        """Kind of the point in the legend."""
        if self.baseline:
            return "baseline"
        if self.partial:
            return "stopped early"
        if self.infeasible:
            return "over a constraint"
        return "Pareto front" if self.front else "dominated"


@style()
def pareto_plot(
    points: Sequence[ParetoPoint],
    x: PlotAxis,
    y: PlotAxis,
    *,
    width: float = COLUMN_INCHES,
    height: float = 2.7,
) -> Figure:
    """Draw the variants, the front as the border of the region it dominates, and the baseline.

    With further objectives, variants of the front may lie within that region.

    The front's variants and the baseline are named, or all variants if there are up to ten.

    Args:
        points: variants, in any order.
        x: the horizontal objective.
        y: the vertical objective.
        width: inches.
        height: inches.

    Raises:
        LabError: no points given.
    """
    need("points", points)
    blue, _, _, red = palette(4)
    kinds: dict[str, dict[str, Any]] = {
        "stopped early": {"marker": "x", "color": SOFT, "s": 14, "lw": 0.8},
        "over a constraint": {"marker": "+", "color": SOFT, "s": 18, "lw": 0.8},
        "dominated": {"facecolor": "white", "edgecolor": SOFT, "s": 16, "lw": 0.9},
        "Pareto front": {"color": blue, "s": 22, "lw": 0.9},
        "baseline": {"marker": "D", "color": red, "s": 24, "lw": 0.9},
    }
    figure, axes = new_figure(x, y, width=width, height=height)
    lines = _intervals(points)
    border = _border([p for p in points if p.front], x, y)
    for ends in lines:
        axes.plot(*zip(*ends, strict=True), color=SOFT, lw=0.8, zorder=2)
    for ends in border:
        axes.plot(*zip(*ends, strict=True), color=blue, lw=0.9, alpha=0.7, zorder=1)
    for kind, look in kinds.items():
        if places := [(p.x, p.y) for p in points if p.kind == kind]:
            axes.scatter(*zip(*places, strict=True), label=kind, zorder=3, **look)
    axes.margins(0.12)
    if len({p.kind for p in points}) > 1:
        legend_below(figure, 4, handletextpad=0.2)
    few = len(points) <= 10
    names = [p.label if few or p.front or p.baseline else "" for p in points]
    label_points(axes, [(p.x, p.y) for p in points], names, lines + border)
    return figure


def _intervals(points: Sequence[ParetoPoint]) -> list[Line]:
    vertical = [(p.x, p.y_interval) for p in points if p.y_interval is not None]
    level = [(p.y, p.x_interval) for p in points if p.x_interval is not None]
    return [
        *(((x, low), (x, high)) for x, (low, high) in vertical),
        *(((low, y), (high, y)) for y, (low, high) in level),
    ]


def _border(front: Sequence[ParetoPoint], x: PlotAxis, y: PlotAxis) -> list[Line]:
    """Return the steps between the front's points, on the side that these dominate.

    Points that are on the front only for another objective are skipped.
    """
    signs = [1 if axis.lower_is_better else -1 for axis in (x, y)]
    outer = pareto_front([(signs[0] * p.x, signs[1] * p.y) for p in front])
    corners = [p for p, is_outer in zip(front, outer, strict=True) if is_outer]
    lines: list[Line] = []
    for a, b in itertools.pairwise(sorted(corners, key=lambda p: (p.x, p.y))):
        corner = (b.x, a.y) if x.lower_is_better else (a.x, b.y)
        lines += [((a.x, a.y), corner), (corner, (b.x, b.y))]
    return lines


class Change(Frozen):
    """Effects of one change of the baseline on a quality, to be minimised, and on the cost.

    The interval is the quality's lower and upper end. An incomplete interval ignores a source of
    variation, so it never distinguishes the change from zero.
    """

    label: str
    quality: float
    interval: tuple[float, float]
    cost: float
    is_complete: bool = True

    @property
    def verdict(self) -> str:
        """The side of zero on which the interval lies, in words."""
        if not self.is_complete:
            return _VERDICTS[1]
        low, high = self.interval
        return _VERDICTS[0] if high < 0 else _VERDICTS[2] if low > 0 else _VERDICTS[1]


@style()
def ablation_plot(changes: Sequence[Change], quality: PlotAxis, cost: PlotAxis) -> Figure:
    """Draw one row per change: its effect on quality with the interval, and its effect on cost.

    Raises:
        LabError: no changes given.
    """
    need("changes", changes)
    colors = dict(zip(_VERDICTS, (palette(4)[0], SOFT, palette(4)[3]), strict=True))
    words = _VERDICTS if quality.lower_is_better else _VERDICTS[::-1]
    height = 0.9 + 0.2 * len(changes)
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
    for axes, plot_axis, characters in ((left, quality, 40), (right, cost, 18)):
        axes.axvline(0, color=INK, lw=0.6, zorder=1)
        axes.set_xlabel(textwrap.fill(plot_axis.label, characters))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    dots = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    handles = {verdict: dots[verdict] for verdict in _VERDICTS if verdict in dots}
    legend_below(figure, 3, handles=handles.values(), labels=handles, handletextpad=0.2)
    return figure


@style()
def effects_plot(
    effects: Mapping[str, Sequence[tuple[str, Sequence[float]]]], quality: PlotAxis = COST
) -> Figure:
    """Draw one panel per axis: the quality of every variant as a dot, the means as a line.

    Args:
        effects: by axis, its values as text, each with the qualities of the variants that have it.
        quality: the quality that the dots show.

    Raises:
        LabError: no axes given.
    """
    need("axes", effects)
    figure, grid = _grid(len(effects), quality)
    for panel, (axis, values) in zip(grid, effects.items(), strict=True):
        for x, (_, costs) in enumerate(values):
            panel.plot([x] * len(costs), costs, "o", color=SOFT, ms=2, alpha=0.6, zorder=2)
        means = [fmean(costs) for _, costs in values]
        panel.plot(range(len(means)), means, "-o", color=palette(1)[0], zorder=3)
        _label_panel(panel, axis, [text for text, _ in values])
    return figure


@style()
def interactions_plot(
    pairs: Sequence[tuple[str, str, Sequence[str], Mapping[str, Sequence[tuple[str, float]]]]],
    quality: PlotAxis = COST,
) -> Figure:
    """Draw one panel per pair of axes: a line for each value of the second.

    Args:
        pairs: names of both axes, the values of the first in order, and for each value of the
            second the mean quality at each value of the first.
        quality: the quality that the lines show.

    Raises:
        LabError: no pairs given.
    """
    need("pairs of axes", pairs)
    figure, grid = _grid(len(pairs), quality, height=_SIDE_INCHES + 0.5)
    for panel, (a, b, texts, lines) in zip(grid, pairs, strict=True):
        for (value, line), look in zip(lines.items(), looks(len(lines)), strict=True):
            x = [texts.index(text) for text, _ in line]
            panel.plot(x, [cost for _, cost in line], label=value, ms=3, **look)
        _label_panel(panel, a, texts)
        fitted_legend(
            panel, _SIDE_INCHES, 3,
            title=wrapped(b, _SIDE_INCHES), title_fontsize=6.5, fontsize=6, handlelength=1.2,
            columnspacing=1.0, loc="lower center", bbox_to_anchor=(0.5, 1.0),
        )  # fmt: skip
    return figure


@style()
def history_plot(history: Sequence[tuple[int, float]]) -> Figure:
    """Draw the share of the final front's hypervolume after each training.

    Args:
        history: pairs of the training's number and the share in [0, 1].

    Raises:
        LabError: no trainings given.
    """
    need("trainings", history)
    figure, axes = new_figure(height=2.2)
    trainings, shares = zip(*history, strict=True)
    axes.step(trainings, [100 * share for share in shares], where="post", color=palette(1)[0])
    axes.set_xlabel("trainings")
    axes.set_ylabel("hypervolume (% of final)")
    return figure


def _grid(count: int, quality: PlotAxis, height: float = _SIDE_INCHES) -> tuple[Figure, list[Axes]]:
    width = max(COLUMN_INCHES, min(count, _ACROSS) * (_SIDE_INCHES + 0.3))
    figure, grid = panels(count, columns=_ACROSS, height=height, width=width, sharey=True)
    for panel in grid[::_ACROSS]:
        panel.set_ylabel(textwrap.fill(quality.label, 18))
    return figure, grid


def _label_panel(panel: Axes, axis: str, texts: Sequence[str]) -> None:
    panel.set_xlabel(wrapped(axis, _SIDE_INCHES))
    long = sum(map(len, texts)) > 24  # characters side by side
    panel.set_xticks(range(len(texts)), texts, rotation=30 if long else 0)
    panel.margins(x=0.15)
