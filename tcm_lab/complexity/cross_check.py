"""Four counters on one model: they agree, or every difference has a name and a size of its own.

The closed formulas are the reference (torch's counter for a model without). What another tool
counts beyond or short of it is worked out from the layers' shapes, not from the tool's own
answer; what then remains is `unexplained`, and should be nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tcm_lab._utils import Frozen
from tcm_lab.blocks import NoFormula
from tcm_lab.blocks.cost import Cost, Kind
from tcm_lab.complexity.counters import COUNTERS, Count
from tcm_lab.complexity.counters.base import module_kind
from tcm_lab.complexity.counters.meta import (
    FunctionMode,
    bottleneck_products,
    meta_image,
    meta_pass,
)
from tcm_lab.complexity.measure import versions
from tcm_lab.complexity.record import CONVENTIONS, CounterName, Size
from tcm_lab.complexity.target import Measurable, Target, checked_size
from tcm_lab.errors import LabError


class Difference(Frozen):
    """One thing that a counter counts otherwise than the reference.

    Attributes:
        what: its name.
        macs: by how much it moves the counter's total.
    """

    what: str
    macs: int


class CounterCheck(Frozen):
    """One counter's total, and the way from the reference to it.

    Attributes:
        counter: its name.
        total: what it counted, in MACs.
        differences: the named steps from the reference's total to this one.
        unexplained: what no named step accounts for.
        note: what was needed to make it count at all, if anything.
    """

    counter: str
    total: NonNegativeInt
    differences: tuple[Difference, ...]
    unexplained: int
    note: str = ""


class CheckReport(Frozen):
    """All counters on one model and image size.

    Attributes:
        model: name of the model.
        fingerprint: of its configuration.
        size: (height, width) of the image.
        padded_size: (height, width) that the networks see.
        reference: which counter the others are explained against.
        reference_macs: its total, convention ``all``.
        counters: every counter.
        disagreements: parts and kinds where formula and torch differ, in words.
        unknown_operators: operators whose products no counter knows.
        versions: of the counters.
    """

    model: str
    fingerprint: str
    size: Size
    padded_size: Size
    reference: str
    reference_macs: NonNegativeInt
    counters: tuple[CounterCheck, ...]
    disagreements: tuple[str, ...]
    unknown_operators: tuple[str, ...]
    versions: dict[str, str]

    @property
    def agrees(self) -> bool:
        """Whether every difference is named and no operator is unknown."""
        explained = all(check.unexplained == 0 for check in self.counters)
        return explained and not self.disagreements and not self.unknown_operators


def check(
    model: Measurable, size: tuple[int, int] = (512, 768), *, strict: bool = False
) -> CheckReport:
    """Count one model by all counters and name every difference.

    Args:
        model: a preset's name, ``compressai/<name>``, a YAML file, a configuration or a model.
        size: (height, width) of the image, before padding.
        strict: whether anything unnamed or unknown is an error.

    Raises:
        LabError: strict, and something is unexplained or unknown; the message names it.
    """
    target, size = Target.of(model), checked_size(size)
    padded = target.padded_size(size)
    counts: dict[CounterName, Count] = {}
    for name, counter in COUNTERS.items():
        # What has no formula is held against the next counter, torch's.
        with suppress(NoFormula):
            counts[name] = counter(target, padded)
    report = _explain(target, size, counts, _LayerFacts.of(target, padded))
    if strict and not report.agrees:
        raise LabError(f"{report.model}: {'; '.join(_complaints(report))}")
    return report


def _explain(
    target: Target, size: tuple[int, int], counts: dict[CounterName, Count], facts: _LayerFacts
) -> CheckReport:
    totals = {name: _total(name, count) for name, count in counts.items()}
    reference = next(iter(counts))
    unknown = counts["torch"].unknown_operators
    shared = [Difference(what="densities of the factorised prior", macs=facts.prior)]
    reference_macs = totals[reference] - (facts.prior if reference == "torch" else 0)
    hidden = totals["torch"] - facts.prior - reference_macs
    if reference == "formula" and unknown and hidden < 0:
        # A user's operator that no tool looks into, behind a block that has a formula.
        shared.append(Difference(what=f"inside {', '.join(unknown)}", macs=hidden))
        unknown = ()
    checks = []
    for name, total in totals.items():
        steps = [*shared, *_STEPS[name](facts)] if name != "formula" else []
        differences = tuple(step for step in steps if step.macs)
        named = sum(step.macs for step in differences)
        checks.append(
            CounterCheck(
                counter=name,
                total=total,
                differences=differences,
                unexplained=total - reference_macs - named,
                note=_NOTES[name].format(facts.fused) if facts.fused and name in _NOTES else "",
            )
        )
    agreed = reference == "torch" or len(shared) > 1
    return CheckReport(
        model=target.name,
        fingerprint=target.fingerprint,
        size=size,
        padded_size=target.padded_size(size),
        reference=reference,
        reference_macs=reference_macs,
        counters=tuple(checks),
        disagreements=() if agreed else _compare(counts["formula"], counts["torch"]),
        unknown_operators=unknown,
        versions=versions("fvcore", "ptflops"),
    )


def _total(name: CounterName, count: Count) -> int:
    """Return what a counter would print; normalisation is in it for tools that count it."""
    ours = {Kind.NORMALISATION} if name in ("formula", "torch") else set()
    return sum(
        macs
        for cost in count.parts.values()
        for kind, macs in cost.macs.items()
        if kind not in ours
    )


_SPELLED_OUT = "attention spelled out as its two products, which it would not see in fused form"
_NOTES: Mapping[CounterName, str] = {
    "fvcore": "{} of fused attention by a handler of ours; alone it counts them as 0",
    "ptflops": _SPELLED_OUT,
    "ptflops-aten": _SPELLED_OUT,
}


def _of_fvcore(facts: _LayerFacts) -> Iterable[Difference]:
    for (name, affine), elements in facts.normalised.items():
        weight = (2 if affine else 1) if name.startswith("BatchNorm") else (5 if affine else 4)
        yield Difference(what=f"{name}, {weight} per element", macs=weight * elements)


_PTFLOPS_WEIGHTS = {
    "ELU": 2,
    "GELU": 2,
    "LeakyReLU": 1,
    "PReLU": 2,
    "ReLU": 2,
    "ReLU6": 1,
    "SiLU": 1,
    "Softmax": 1,
}
"""Per element: once for the layer, and once more where the layer's function is wrapped too."""


def _of_ptflops(facts: _LayerFacts) -> Iterable[Difference]:
    yield Difference(what="biases of convolutions and linear layers", macs=facts.layer_biases)
    yield Difference(what="GDN, whose product it does not see", macs=-facts.gdn)
    for name, macs in facts.subclassed.items():
        yield Difference(what=f"{name}, a class that it does not know", macs=-macs)
    for (name, affine), elements in facts.normalised.items():
        # It asks for an attribute that layer normalisation calls by another name.
        weight = 2 if affine and name != "LayerNorm" else 1
        yield Difference(what=f"{name}, {weight} per element", macs=weight * elements)
    for name, elements in facts.activated.items():
        weight = _PTFLOPS_WEIGHTS.get(name, 0)
        yield Difference(what=f"{name}, {weight} per element", macs=weight * elements)
    softmax = facts.softmax - facts.activated["Softmax"]
    yield Difference(what="softmax of attention, 1 per element", macs=softmax)


def _of_ptflops_aten(facts: _LayerFacts) -> Iterable[Difference]:
    yield Difference(what="biases of convolutions and linear layers", macs=facts.layer_biases)
    yield Difference(what="offsets of GDN and biases of other layers", macs=facts.other_biases)


_STEPS: Mapping[CounterName, Callable[[_LayerFacts], Iterable[Difference]]] = {
    "torch": lambda facts: (),
    "fvcore": _of_fvcore,
    "ptflops": _of_ptflops,
    "ptflops-aten": _of_ptflops_aten,
}


def _compare(formula: Count, counted: Count) -> tuple[str, ...]:
    kinds = sorted((*CONVENTIONS["all"], Kind.NORMALISATION))
    ours, theirs = formula.parts, counted.parts
    return tuple(
        f"{part}, {kind}: formula {a}, torch {b}"
        for part in sorted({*ours, *theirs})
        for kind in kinds
        if (a := _macs(ours, part, kind)) != (b := _macs(theirs, part, kind))
    )


def _macs(parts: Mapping[str, Cost], part: str, kind: Kind) -> int:
    return parts[part].macs.get(kind, 0) if part in parts else 0


def _complaints(report: CheckReport) -> Iterable[str]:
    yield from report.disagreements
    for counter in report.counters:
        if counter.unexplained:
            yield f"{counter.counter} differs by {counter.unexplained} MACs for no known reason"
    if report.unknown_operators:
        names = ", ".join(report.unknown_operators)
        yield f"no counter knows what these operators compute: {names}"


@dataclass
class _LayerFacts:
    """What a forward pass's layers handle, element by element: the terms in which counters differ.

    Read from shapes by hooks of our own, so that no counter is explained by itself.

    Attributes:
        layer_biases: outputs of biased convolutions and linear layers of torch's own classes.
        other_biases: the same for GDN and for subclasses of torch's layers.
        gdn: MACs of the 1x1 products inside GDN.
        subclassed: MACs of subclasses of torch's convolutions and linear layers, by class.
        normalised: elements that pass a normalisation, by class and whether it has gain and offset.
        activated: elements that pass a layer without parameters, by class.
        prior: MACs of the factorised prior's densities.
        fused: MACs of fused attention.
        softmax: elements that pass a softmax.
    """

    layer_biases: int = 0
    other_biases: int = 0
    gdn: int = 0
    subclassed: Counter[str] = field(default_factory=Counter)
    normalised: Counter[tuple[str, bool]] = field(default_factory=Counter)
    activated: Counter[str] = field(default_factory=Counter)
    prior: int = 0
    fused: int = 0
    softmax: int = 0

    @classmethod
    def of(cls, target: Target, size: tuple[int, int]) -> _LayerFacts:
        """Tally one forward pass on an image of the padded ``size``."""
        facts, model = cls(), target.on_meta
        watched = [m for m in model.modules() if module_kind(m) or not any(m.children())]
        handles = [module.register_forward_hook(facts._see) for module in watched]
        try:
            seen: dict[Any, Any] = {
                F.scaled_dot_product_attention: facts._attend,
                F.softmax: facts._softmax,
            }
            with meta_pass(model), FunctionMode(seen):
                model(meta_image(size))
        finally:
            for handle in handles:
                handle.remove()
        return facts

    def _see(self, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        kind = module_kind(module)
        if kind is Kind.PRIOR:
            self.prior += bottleneck_products(module, inputs[0])
        elif kind is Kind.GDN:
            self.gdn += inputs[0].shape[1] * output.numel()
            self.other_biases += output.numel()
        elif isinstance(module, (_ConvNd, nn.Linear)):
            self._see_product(module, inputs[0], output)
        elif kind is Kind.NORMALISATION:
            self.normalised[type(module).__name__, module.weight is not None] += inputs[0].numel()
        elif isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            self.activated[type(module).__name__] += inputs[0].numel()

    def _see_product(self, module: Any, x: Tensor, output: Tensor) -> None:
        own = type(module).__module__.startswith("torch.nn.")
        if module.bias is not None and own:
            self.layer_biases += output.numel()
        elif module.bias is not None:
            self.other_biases += output.numel()
        if not own:
            places = x if isinstance(module, _ConvTransposeNd) else output
            axes = module.weight.dim() - 2
            positions = x.shape[0] * prod(places.shape[-axes:]) if axes else prod(x.shape[:-1])
            self.subclassed[type(module).__name__] += positions * module.weight.numel()

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        pairs = query.shape[:-1].numel() * key.shape[-2]
        self.softmax += pairs
        self.fused += pairs * (query.shape[-1] + value.shape[-1])
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)

    def _softmax(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.softmax += x.numel()
        return F.softmax(x, *args, **kwargs)
