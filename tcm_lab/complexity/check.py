"""Four counters on one model: they agree, or every difference has a name and a size of its own.

The closed formulas are the reference (torch's counter for a model without). What another tool
counts beyond or short of it is worked out from the layers' shapes, not from the tool's own
answer; what then remains is `unexplained`, and should be nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import NonNegativeInt

from tcm_lab._utils import Frozen
from tcm_lab.blocks import NoFormula
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity._aside import Aside
from tcm_lab.complexity._facts import LayerFacts
from tcm_lab.complexity._target import Measurable, Target, versions
from tcm_lab.complexity.formula import count_by_formula
from tcm_lab.complexity.fvcore_counter import FvcoreCount, count_with_fvcore
from tcm_lab.complexity.ptflops_counter import count_with_ptflops
from tcm_lab.complexity.record import CONVENTIONS, Size
from tcm_lab.complexity.torch_counter import TorchCount, count_with_torch
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
        unknown_operators: operators whose products nobody counts.
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
    target = Target.of(model)
    report = _check(target, size)
    if strict and not report.agrees:
        raise LabError(f"{report.model}: {'; '.join(_complaints(report))}")
    return report


def _check(target: Target, size: tuple[int, int]) -> CheckReport:
    padded, meta, part_of = target.padded_size(size), target.on_meta, target.part_of
    # The slowest counter takes as long as the others together.
    aside = Aside(lambda: count_with_fvcore(meta, padded, part_of))
    facts = LayerFacts()
    with facts.watching(meta):
        by_torch = count_with_torch(meta, padded, part_of)
    by_layers = count_with_ptflops(meta, padded, part_of)
    by_operators = count_with_ptflops(meta, padded, part_of, "aten")
    by_fvcore = aside.result()

    formula = _formula_or_none(target, size)
    counted = _in_all(by_torch.macs.values())
    reference = counted if formula is None else _in_all(formula.values())
    unknown = tuple(op for op in by_torch.unknown if op in by_fvcore.unsupported)
    hidden = []
    if formula is not None and by_torch.unknown and reference > counted:
        # A user's operator that no tool looks into, behind a block that has a formula.
        hidden = [Difference(what=f"inside {', '.join(unknown)}", macs=counted - reference)]
        unknown = ()
    prior = [Difference(what="densities of the factorised prior", macs=facts.prior)]

    def explained(
        name: str, total: int, steps: Iterable[Difference], note: str = ""
    ) -> CounterCheck:
        differences = tuple(step for step in (*hidden, *prior, *steps) if step.macs)
        named = sum(step.macs for step in differences)
        return CounterCheck(
            counter=name,
            total=total,
            differences=differences,
            unexplained=total - reference - named,
            note=note,
        )

    spelled_out = _SPELLED_OUT if _kind(by_layers.by_part, Kind.ATTENTION) else ""
    checks = [
        explained("torch", by_torch.total, []),
        explained("fvcore", by_fvcore.total, _of_fvcore(facts), _note(by_fvcore)),
        explained("ptflops", by_layers.total, _of_ptflops(facts, by_torch), spelled_out),
        explained("ptflops-aten", by_operators.total, _of_ptflops_aten(facts), spelled_out),
    ]
    if formula is not None:
        own = CounterCheck(counter="formula", total=reference, differences=(), unexplained=0)
        checks.insert(0, own)
    return CheckReport(
        model=target.name,
        fingerprint=target.fingerprint,
        size=size,
        padded_size=padded,
        reference="torch" if formula is None else "formula",
        reference_macs=reference,
        counters=tuple(checks),
        disagreements=() if formula is None or hidden else _compare(formula, by_torch.macs),
        unknown_operators=unknown,
        versions=versions("fvcore", "ptflops"),
    )


_SPELLED_OUT = "attention spelled out as its two products, which it would not see in fused form"


def _note(count: FvcoreCount) -> str:
    ours = count.by_operator.get("scaled_dot_product_attention", 0)
    return f"{ours} of fused attention by a handler of ours; alone it counts them as 0" * bool(ours)


def _of_fvcore(facts: LayerFacts) -> Iterable[Difference]:
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


def _of_ptflops(facts: LayerFacts, by_torch: TorchCount) -> Iterable[Difference]:
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
    softmax = by_torch.elements["aten::_softmax"] + by_torch.elements["aten::_safe_softmax"]
    softmax -= facts.activated["Softmax"]
    yield Difference(what="softmax of attention, 1 per element", macs=softmax)


def _of_ptflops_aten(facts: LayerFacts) -> Iterable[Difference]:
    yield Difference(what="biases of convolutions and linear layers", macs=facts.layer_biases)
    yield Difference(what="offsets of GDN and biases of other layers", macs=facts.other_biases)


def _formula_or_none(target: Target, size: tuple[int, int]) -> dict[str, dict[str, int]] | None:
    if target.config is None:
        return None
    try:
        return count_by_formula(target.config, size)[0]
    except NoFormula:
        return None


def _in_all(tables: Iterable[dict[str, int]]) -> int:
    kinds = CONVENTIONS["all"]
    return sum(macs for by_kind in tables for kind, macs in by_kind.items() if kind in kinds)


def _kind(table: dict[str, dict[str, int]], kind: Kind) -> int:
    return sum(by_kind.get(kind, 0) for by_kind in table.values())


def _compare(
    formula: dict[str, dict[str, int]], counted: dict[str, dict[str, int]]
) -> tuple[str, ...]:
    kinds = (*CONVENTIONS["all"], Kind.NORMALISATION)
    return tuple(
        f"{part}, {kind}: formula {a}, torch {b}"
        for part in sorted({*formula, *counted})
        for kind in sorted(kinds)
        if (a := formula.get(part, {}).get(kind, 0)) != (b := counted.get(part, {}).get(kind, 0))
    )


def _complaints(report: CheckReport) -> Iterable[str]:
    yield from report.disagreements
    for counter in report.counters:
        if counter.unexplained:
            yield f"{counter.counter} differs by {counter.unexplained} MACs for no known reason"
    if report.unknown_operators:
        names = ", ".join(report.unknown_operators)
        yield f"no counter knows what these operators compute: {names}"
