"""Plots of a search: what its axes do, alone and in pairs, and how its front grew."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcm_lab.reporting.plots._style import (
    COLUMN_INCHES,
    SOFT,
    PlotAxis,
    markers,
    new_figure,
    palette,
    panels,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3
_SIDE_INCHES = 2.0
_LONG = 6
COST = PlotAxis(name="Lagrangian cost vs baseline", unit="%")


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
        figure, grid = _grid(len(effects))
        color = palette(1)[0]
        for panel, effect in zip(grid, effects, strict=True):
            for place, (_, costs) in enumerate(effect.values):
                panel.plot([place] * len(costs), costs, "o", color=SOFT, ms=2, alpha=0.6, zorder=2)
            means = [sum(costs) / len(costs) for _, costs in effect.values]
            panel.plot(range(len(means)), means, "-o", color=color, zorder=3)
            _name(panel, effect.axis, [word for word, _ in effect.values])
        _label_left(grid, quality)
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
        figure, grid = _grid(len(pairs), height=_SIDE_INCHES + 0.5)
        for panel, (a, b, lines) in zip(grid, pairs, strict=True):
            words = list(dict.fromkeys(word for line in lines.values() for word, _ in line))
            looks = zip(palette(len(lines)), markers(len(lines)), strict=True)
            for (value, line), (color, marker) in zip(lines.items(), looks, strict=True):
                panel.plot(
                    [words.index(word) for word, _ in line],
                    [cost for _, cost in line],
                    marker=marker,
                    color=color,
                    label=value,
                    ms=3,
                )
            _name(panel, a, words)
            panel.legend(
                title=b, title_fontsize=6.5, fontsize=6, handlelength=1.2, columnspacing=1.0,
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
            )  # fmt: skip
        _label_left(grid, quality)
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


def _grid(count: int, height: float = _SIDE_INCHES) -> tuple[Figure, list[Axes]]:
    width = max(COLUMN_INCHES, min(count, _ACROSS) * (_SIDE_INCHES + 0.3))
    return panels(count, columns=_ACROSS, height=height, width=width, sharey=True)


def _name(panel: Axes, axis: str, words: Sequence[str]) -> None:
    panel.set_xlabel(axis)
    long = sum(map(len, words)) > 4 * _LONG
    panel.set_xticks(range(len(words)), words, rotation=30 if long else 0)
    panel.margins(x=0.15)


def _label_left(grid: Sequence[Axes], quality: PlotAxis) -> None:
    for panel in grid[::_ACROSS]:
        panel.set_ylabel(textwrap.fill(quality.label, 18))
