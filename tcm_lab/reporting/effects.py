"""What an axis does to a figure: means over the trials at its values, alone and in pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean, quantiles
from typing import TypeAlias, TypeGuard

from tcm_lab._foundation import Frozen

Setting: TypeAlias = Mapping[str, Hashable]
"""The value of each axis that acts in a trial; a conditional axis may be absent."""


class Level(Frozen):
    """The trials at one value of an axis.

    Attributes:
        name: the value, as readers see it.
        mean: of the figure over the trials.
        low: lower quartile; the mean itself where there is one trial.
        high: upper quartile.
        trials: how many there are.
    """

    name: str
    mean: float
    low: float
    high: float
    trials: int


class Effect(Frozen):
    """What one axis does, whatever the others are.

    Attributes:
        axis: its name.
        levels: by ascending value.
        is_ordered: whether the values are numbers.
    """

    axis: str
    is_ordered: bool
    levels: tuple[Level, ...]

    @property
    def span(self) -> float:
        """The highest mean minus the lowest."""
        means = [level.mean for level in self.levels]
        return max(means) - min(means)


def main_effects(trials: Sequence[tuple[Setting, float]]) -> list[Effect]:
    """Return every axis that has at least two values among the trials, the strongest first.

    These are plain means: an axis that a sampler tried mostly together with good values of another
    looks good itself. The number of trials at each level says how far to trust it.
    """
    found: dict[str, dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    for setting, figure in trials:
        for axis, value in setting.items():
            found[axis][value].append(figure)
    effects = [
        Effect(
            axis=axis,
            is_ordered=all(_is_number(value) for value in by_value),
            levels=tuple(_level(value, by_value[value]) for value in ascending(by_value)),
        )
        for axis, by_value in found.items()
        if len(by_value) > 1
    ]
    return sorted(effects, key=lambda effect: (-effect.span, effect.axis))


class Interaction(Frozen):
    """Means over the trials at each pair of values of two axes.

    Attributes:
        axes: their names: rows, columns.
        rows: values of the first axis, ascending.
        columns: values of the second axis, ascending.
        means: one row per row value; None where no trial has that pair.
    """

    axes: tuple[str, str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    means: tuple[tuple[float | None, ...], ...]


def interaction(trials: Sequence[tuple[Setting, float]], first: str, second: str) -> Interaction:
    """Return the means over the trials at each pair of values of two axes."""
    found: dict[tuple[Hashable, Hashable], list[float]] = defaultdict(list)
    for setting, figure in trials:
        if first in setting and second in setting:
            found[setting[first], setting[second]].append(figure)
    rows, columns = (ascending({pair[i] for pair in found}) for i in (0, 1))
    return Interaction(
        axes=(first, second),
        rows=tuple(map(shown, rows)),
        columns=tuple(map(shown, columns)),
        means=tuple(
            tuple(fmean(found[row, col]) if (row, col) in found else None for col in columns)
            for row in rows
        ),
    )


def ascending(values: Mapping[Hashable, object] | set[Hashable]) -> list[Hashable]:
    """Return values in order: numbers by size, then words by the alphabet."""
    return sorted(values, key=_rank)


def shown(value: Hashable) -> str:
    """Return a value as readers see it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rank(value: Hashable) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, str(value))


def _is_number(value: Hashable) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _level(value: Hashable, figures: Sequence[float]) -> Level:
    low = high = fmean(figures)
    if len(figures) > 1:
        low, _, high = quantiles(figures, n=4, method="inclusive")
    return Level(name=shown(value), mean=fmean(figures), low=low, high=high, trials=len(figures))
