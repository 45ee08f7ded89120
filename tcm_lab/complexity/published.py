"""Published figures, and the way of counting that reproduces each.

A published figure is a cost that a paper prints, or that was measured on its code. Papers print
different costs for one and the same model, since their tools count different things. A record
answers to all of them: for each published figure, the convention that comes closest is named.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Literal

from tcm_lab._utils import Frozen
from tcm_lab.complexity.measure import measure_complexity
from tcm_lab.complexity.record import CONVENTIONS, ComplexityRecord, Convention, Scope, Size
from tcm_lab.complexity.target import Measurable, Target
from tcm_lab.errors import LabError, near, one_of

Quantity = Literal["kmacs_per_px", "gmacs", "parameters_millions"]


class PublishedFigure(Frozen):
    """A cost that a paper prints for a model, or that was measured on its code.

    Attributes:
        model: name of our preset for that model.
        quantity: what the figure is, with its unit.
        scope: what it covers; of parameters, always ``whole``.
        value: in that unit.
        decimals: how many decimals it was given with.
        size: (height, width) of the image that it holds for; None for parameters.
        printed_as: the words it was printed in.
        source: where it was printed, or what it was measured on.
        reported: whether it was read in the source, rather than measured on the published code.
    """

    model: str
    quantity: Quantity
    scope: Scope
    value: float
    decimals: int
    size: Size | None
    printed_as: str
    source: str
    reported: bool


class Explanation(Frozen):
    """The counting convention that comes closest to a published figure.

    Attributes:
        ours: what we count in that convention, in the figure's unit.
    """

    published: PublishedFigure
    convention: Convention
    ours: float

    @property
    def difference_percent(self) -> float:
        """Ours over the published figure, minus one."""
        return 100 * (self.ours / self.published.value - 1)

    @property
    def to_the_printed_digit(self) -> bool:
        """Whether the two differ by at most one unit of the last digit printed."""
        unit = 10.0**-self.published.decimals
        return abs(self.ours - self.published.value) <= unit * (1 + 1e-9)


@lru_cache(maxsize=1)
def published_figures() -> tuple[PublishedFigure, ...]:
    """Return all published figures that ship with the package."""
    file = resources.files("tcm_lab.complexity") / "published_figures.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    return tuple(PublishedFigure.model_validate(figure) for figure in tree["figures"])


def explain(model: Measurable) -> tuple[Explanation, ...]:
    """Return, for each published figure of ``model``, the convention that reproduces it.

    Args:
        model: a preset with published figures.

    Raises:
        LabError: it has none; the message lists the models that have some.
    """
    name = Target.of(model).name
    figures = [figure for figure in published_figures() if figure.model == name]
    if not figures:
        known = sorted({figure.model for figure in published_figures()})
        raise LabError(
            f"no published figures for '{name}'.{near(name, known)} There are some for "
            f"{one_of(known)}."
        )
    return tuple(
        explain_figure(figure, measure_complexity(model, figure.size or (256, 256)))
        for figure in figures
    )


def explain_figure(figure: PublishedFigure, record: ComplexityRecord) -> Explanation:
    """Return the convention under which ``record`` comes closest to a published figure."""
    readings: dict[Convention, float]
    if figure.quantity == "parameters_millions":
        readings = {
            "all": record.total_parameters / 1e6,
            "conv-linear-only": record.conv_linear_parameters / 1e6,
        }
    else:
        total = record.total_gmacs if figure.quantity == "gmacs" else record.total_kmacs_per_px
        readings = {convention: total(figure.scope, convention) for convention in CONVENTIONS}
    closest = min(readings, key=lambda convention: abs(readings[convention] / figure.value - 1))
    return Explanation(published=figure, convention=closest, ours=readings[closest])
