"""Which way of counting reproduces which published figure.

Papers print different costs for one and the same model, since their tools count different things.
A record answers to all of them: for each figure, the convention that comes closest is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Literal

from tcm_lab._utils import Frozen
from tcm_lab.complexity._target import Measurable, Target
from tcm_lab.complexity.measure import measure_complexity
from tcm_lab.complexity.record import CONVENTIONS, ComplexityRecord, Convention, Direction, Size
from tcm_lab.errors import LabError, near, one_of

Quantity = Literal["kmacs_per_px", "gmacs", "parameters_millions"]


class PublishedFigure(Frozen):
    """A figure that somebody printed or measured for a model.

    Attributes:
        model: name of our preset for that model.
        quantity: what the figure is, with its unit.
        direction: what it covers; of parameters, always ``whole``.
        value: the figure, in that unit.
        decimals: how many decimals it was given with.
        size: (height, width) of the image that it holds for; None for parameters.
        printed_as: the words it was printed in.
        source: who printed or measured it.
        reported: whether it was read in the source, rather than measured on the published code.
    """

    model: str
    quantity: Quantity
    direction: Direction
    value: float
    decimals: int
    size: Size | None
    printed_as: str
    source: str
    reported: bool


class Explanation(Frozen):
    """The counting convention that comes closest to a published figure.

    Attributes:
        figure: the figure.
        convention: the convention; of parameters, ``all`` or ``conv-linear-only``.
        ours: what we count in that convention, in the figure's unit.
    """

    figure: PublishedFigure
    convention: Convention
    ours: float

    @property
    def difference_percent(self) -> float:
        """Ours over the published figure, minus one."""
        return 100 * (self.ours / self.figure.value - 1)

    @property
    def to_the_printed_digit(self) -> bool:
        """Whether the two differ by at most one unit of the last digit printed."""
        unit = 10.0**-self.figure.decimals
        return abs(self.ours - self.figure.value) <= unit * (1 + 1e-9)


@lru_cache(maxsize=1)
def published_figures() -> tuple[PublishedFigure, ...]:
    """Return all published figures that ship with the package."""
    file = resources.files("tcm_lab.complexity") / "published_figures.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    return tuple(PublishedFigure.model_validate(figure) for figure in tree["figures"])


def explain(model: Measurable) -> tuple[Explanation, ...]:
    """Say, for each published figure of ``model``, which convention reproduces it.

    Args:
        model: a preset that figures were published for.

    Raises:
        LabError: there are none for it; the message lists the models that have some.
    """
    name = Target.of(model).name
    figures = [figure for figure in published_figures() if figure.model == name]
    if not figures:
        known = sorted({figure.model for figure in published_figures()})
        raise LabError(
            f"no published figures for '{name}'.{near(name, known)} There are some for "
            f"{one_of(known)}."
        )
    records = {
        size: measure_complexity(model, size)
        for size in {figure.size or (256, 256) for figure in figures}
    }
    return tuple(_closest(figure, records[figure.size or (256, 256)]) for figure in figures)


def _closest(figure: PublishedFigure, record: ComplexityRecord) -> Explanation:
    candidates = [
        Explanation(figure=figure, convention=convention, ours=ours)
        for convention, ours in _readings(figure, record)
    ]
    return min(candidates, key=lambda candidate: abs(candidate.difference_percent))


def _readings(
    figure: PublishedFigure, record: ComplexityRecord
) -> Iterator[tuple[Convention, float]]:
    if figure.quantity == "parameters_millions":
        yield "all", record.total_parameters / 1e6
        yield "conv-linear-only", record.conv_linear_parameters / 1e6
        return
    for convention in CONVENTIONS:
        view = record.view(convention)
        yield (
            view.convention,
            view.gmacs(figure.direction)
            if figure.quantity == "gmacs"
            else view.kmacs_per_px(figure.direction),
        )
