"""Published figures, and the way of counting that reproduces each.

A published figure is a cost that a paper prints, or that was measured on its code. Papers print
different costs for the same model, since their tools count different things. One record serves for
all of them: for each published figure, it gives the convention that comes closest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from importlib import resources
from typing import Any, Literal

from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from tcm_lab._utils import Frozen
from tcm_lab._utils.hooks import hooked
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity.counters.meta import image_for, meta_pass, tried
from tcm_lab.complexity.measure import measure_complexity
from tcm_lab.complexity.record import ABSENT, CONVENTIONS, ComplexityRecord, Convention, Scope, Size
from tcm_lab.complexity.target import Measurable, Target
from tcm_lab.errors import LabError, near, one_of

_ANY_SIZE = (256, 256)  # for counts of parameters
Quantity = Literal["kmacs_per_px", "gmacs", "parameters_millions"]
Reading = Convention | Literal["thop"]
"""A convention, or thop's own: ``conv-linear-only``, but with transposed convolutions counted at
the size of their output, which is too much by the factor by which they enlarge the map."""


class PublishedFigure(Frozen):
    """A cost that a paper prints for a model, or that was measured on its code.

    Attributes:
        model: name of our preset for that model.
        quantity: the quantity, with its unit.
        scope: what it covers; for parameters, always ``whole``.
        value: value in that unit.
        decimals: number of decimals given.
        size: (height, width) of the image for which it holds; None for parameters.
        printed_as: the words in which it was printed.
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

    def is_of(self, record: ComplexityRecord) -> bool:
        """Return whether a record is of the model itself, not of a variant with its name."""
        return record.model == self.model and record.fingerprint == _fingerprint(self.model)


@cache
def _fingerprint(model: str) -> str:
    return Target.of(model).fingerprint


class Explanation(Frozen):
    """The counting convention that comes closest to a published figure.

    Attributes:
        ours: our count in that convention, in the figure's unit.
    """

    published: PublishedFigure
    convention: Reading
    ours: float

    @property
    def difference_percent(self) -> float:
        """Ours relative to the published figure, minus one."""
        return 100 * (self.ours / self.published.value - 1)

    @property
    def to_the_printed_digit(self) -> bool:
        """Whether the two differ by at most one unit of the last digit printed."""
        unit = 10.0**-self.published.decimals
        return abs(self.ours - self.published.value) <= unit * (1 + 1e-9)


@cache
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
        LabError: it has none, in which case the message lists the models that do; or it is a
            variant.
    """
    target = Target.of(model)
    name = target.name
    figures = [figure for figure in published_figures() if figure.model == name]
    if not figures:
        known = sorted({figure.model for figure in published_figures()})
        raise LabError(
            f"no published figures for '{name}'.{near(name, known)} There are some for "
            f"{one_of(known)}."
        )
    if target.fingerprint != _fingerprint(name):
        raise LabError(
            f"'{name}' is a variant here, but published figures are of the model itself. Name that."
        )
    sizes = {figure.size or _ANY_SIZE for figure in figures}
    records = {size: measure_complexity(model, size) for size in sizes}
    return tuple(explain_figure(figure, records[figure.size or _ANY_SIZE]) for figure in figures)


def explain_figure(figure: PublishedFigure, record: ComplexityRecord) -> Explanation:
    """Return the convention under which ``record`` comes closest to a published figure.

    Thop's is considered only for a record of the figure's own model.
    """
    readings: dict[Reading, float]
    if figure.quantity == "parameters_millions":
        normalisations = record.whole.parameters.get(Kind.NORMALISATION, 0)
        readings = {
            "all": record.total_parameters / 1e6,
            "conv-linear-only": record.conv_linear_parameters / 1e6,
            "thop": (record.conv_linear_parameters + normalisations) / 1e6,
        }
    else:
        total = record.total_gmacs if figure.quantity == "gmacs" else record.total_kmacs_per_px
        readings = {convention: total(figure.scope, convention) for convention in CONVENTIONS}
        unit = 1e9 if figure.quantity == "gmacs" else 1e3 * record.pixels
        over = overcounted(figure.model, record.padded_size) if figure.is_of(record) else {}
        surplus = sum(macs for part, macs in over.items() if part not in ABSENT[figure.scope])
        if surplus:
            readings["thop"] = readings["conv-linear-only"] + surplus / unit
    closest = min(readings, key=lambda convention: abs(readings[convention] / figure.value - 1))
    return Explanation(published=figure, convention=closest, ours=readings[closest])


@lru_cache(maxsize=64)
def overcounted(model: str, padded_size: tuple[int, int]) -> Mapping[str, int]:
    """Return, by part, the surplus of MACs if transposed convolutions count at output size."""
    target = tried(Target.of(model))
    surplus: Counter[str] = Counter()

    def see(part: str, module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        larger, smaller = (x.numel() // x.shape[1] for x in (output, inputs[0]))
        surplus[part] += (larger - smaller) * module.weight.numel()

    layers = [
        module.register_forward_hook(partial(see, target.part_of(name)))
        for name, module in target.runnable.named_modules()
        if isinstance(module, _ConvTransposeNd)
    ]
    if layers:
        with hooked(layers), meta_pass(target.runnable):
            target.runnable(image_for(target.runnable, padded_size))
    return surplus
