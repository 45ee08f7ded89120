"""Run every counter on one model: they agree, or every difference is named and quantified.

The closed formulas are the reference (torch's counter for a model without them). The differences of
another tool are derived from the layers' shapes, not from the tool's own answer. The remainder is
`unexplained`, and should be zero.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from math import prod
from typing import Any

import torch.nn.functional as F
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import versions
from tcm_lab._utils.hooks import hooked
from tcm_lab.blocks import NoFormula
from tcm_lab.blocks.cost import Cost, Kind
from tcm_lab.blocks.wavelet import HaarLinear
from tcm_lab.codec.inputs import sides_of
from tcm_lab.complexity.counters import COUNTERS, Count, count_by
from tcm_lab.complexity.counters.base import Tally, module_kind
from tcm_lab.complexity.counters.meta import (
    FunctionMode,
    bottleneck_products,
    image_for,
    meta_pass,
    tried,
)
from tcm_lab.complexity.record import CONVENTIONS, CounterName, Size
from tcm_lab.complexity.target import Measurable, Target
from tcm_lab.errors import LabError


class CounterCheck(Frozen):
    """One counter's total, and its differences from the reference.

    Attributes:
        counter: its name.
        total: its total, in MACs.
        differences: the named differences from the reference's total, in MACs.
        unexplained: the rest of the difference.
        note: help that the counter needed to count the model, if any.
    """

    counter: str
    total: NonNegativeInt
    differences: dict[str, int]
    unexplained: int
    note: str = ""


class CheckReport(Frozen):
    """The results of every counter for one model at one image size.

    Attributes:
        model: its name.
        fingerprint: fingerprint of its configuration.
        size: (height, width) of the image.
        padded_size: (height, width) that the networks see.
        reference: the counter with which the others are compared.
        reference_macs: its total, convention ``all``.
        counters: every counter.
        disagreements: parts and kinds where formula and torch differ, in words.
        unknown_operators: operators whose products no counter knows.
        suspects: functions of this model that fvcore or ptflops are known to miss or miscount.
        failures: tools that could not count this model, with the reason.
        versions: versions of the counters.
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
    suspects: tuple[str, ...] = ()
    failures: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str]

    @property
    def open_questions(self) -> tuple[str, ...]:
        """Disagreements of formula and torch, and torch's unknown operators, in words."""
        names = ", ".join(self.unknown_operators)
        torch = next(each for each in self.counters if each.counter == "torch")
        return (
            *self.disagreements,
            *([_difference(torch)] if torch.unexplained and not self.disagreements else []),
            *([f"no counter knows what these operators compute: {names}"] if names else []),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Unexplained differences and failures of other tools, in words; they are no faults."""
        used = f"; it uses {', '.join(self.suspects)}, which such tools miss or miscount"
        return (
            *(
                f"{_difference(each)}{used if self.suspects else ''}"
                for each in self.counters
                if each.unexplained and each.counter != "torch"
            ),
            *(f"{tool} could not count it: {reason}" for tool, reason in self.failures.items()),
        )

    @property
    def agrees(self) -> bool:
        """Whether formula and torch count the same, and no operator is unknown.

        Other counts of fvcore and ptflops are in `notes`: they do not see some operators.
        """
        return not self.open_questions


def _difference(check: CounterCheck) -> str:
    return f"{check.counter} differs by {check.unexplained:+,d} MACs without a known reason"


def check(
    model: Measurable, size: tuple[int, int] = (512, 768), *, strict: bool = False
) -> CheckReport:
    """Count one model by all counters and name every difference.

    Args:
        model: a preset's name, ``compressai/<name>``, a YAML file, a configuration or a model.
        size: (height, width) of the image, before padding.
        strict: whether unexplained differences and unknown operators are an error.

    Raises:
        LabError: strict, and something is unexplained or unknown; the message names it.
    """
    target, size = tried(Target.of(model)), sides_of("size", size)
    padded = target.padded_size(size)
    counts, failures = _count_by_all(target, padded)
    differences = _Differences(target, padded)
    totals = {name: _total(name, count) for name, count in counts.items()}
    reference = next(iter(counts))
    prior = differences.of["torch"][_PRIOR]
    reference_macs = totals[reference] - (prior if reference == "torch" else 0)
    unknown = counts["torch"].unknown_operators
    disagreements: tuple[str, ...] = ()
    hidden = totals["torch"] - prior - reference_macs
    if reference == "formula" and unknown and hidden < 0:
        # A user's operator that no tool looks into, in a block that has a formula.
        differences.add(f"inside {', '.join(unknown)}", hidden, *_TOOLS)
        unknown = ()
    elif reference == "formula":
        disagreements = _compare(counts["formula"], counts["torch"])
    report = CheckReport(
        model=target.name,
        fingerprint=target.fingerprint,
        size=size,
        padded_size=padded,
        reference=reference,
        reference_macs=reference_macs,
        counters=tuple(
            differences.explain(name, total, reference_macs) for name, total in totals.items()
        ),
        disagreements=disagreements,
        unknown_operators=unknown,
        suspects=tuple(sorted(differences.suspects)),
        failures=failures,
        versions=versions("tcm-lab", "torch", "fvcore", "ptflops"),
    )
    if strict and not report.agrees:
        raise LabError(f"{report.model}: {'; '.join(report.open_questions)}")
    return report


def _count_by_all(
    target: Target, size: tuple[int, int]
) -> tuple[dict[CounterName, Count], dict[str, str]]:
    """Return the result of each counter, and why other tools could not count."""
    counts: dict[CounterName, Count] = {}
    failures: dict[str, str] = {}
    for name in COUNTERS:
        try:
            counts[name] = count_by(name, target, size)
        except NoFormula:
            continue  # the next counter, torch's, is the reference instead
        except Exception as error:  # from a tool, on a model that it does not support
            if name not in _OTHERS:
                raise
            failures[name] = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return counts, failures


def _total(name: CounterName, count: Count) -> int:
    """Return the total that a counter would print, with normalisation if the tool counts it."""
    whole = sum(count.parts.values(), Cost())
    ours = name in ("formula", "torch")
    return whole.total_macs - (whole.macs.get(Kind.NORMALISATION, 0) if ours else 0)


_OTHERS: tuple[CounterName, ...] = ("fvcore", "ptflops", "ptflops-aten")
_TOOLS: tuple[CounterName, ...] = ("torch", *_OTHERS)
_PRIOR = "densities of the factorised prior"
_BIASES = "biases of convolutions and linear layers"
_OTHER_BIASES = "offsets of GDN and biases of other layers"
_SOFTMAX = "softmax of attention, 1 per element"
_SPELLED_OUT = "attention spelled out as its two products, which it would not see in fused form"
_NOTES: Mapping[CounterName, str] = {
    "fvcore": "{:,} of fused attention by a handler of ours; alone it counts them as 0",
    "ptflops": _SPELLED_OUT,
    "ptflops-aten": _SPELLED_OUT,
}
_PTFLOPS_WEIGHTS = {
    **dict.fromkeys(("LeakyReLU", "ReLU6", "SiLU", "Softmax"), 1),
    **dict.fromkeys(("ELU", "GELU", "PReLU", "ReLU"), 2),
}
"""Per element: once for the layer, and once more if the layer's function is wrapped, too."""


def _compare(formula: Count, counted: Count) -> tuple[str, ...]:
    def macs(count: Count, part: str, kind: Kind) -> int:
        return count.parts.get(part, Cost()).macs.get(kind, 0)

    return tuple(
        f"{part}, {kind}: formula {ours}, torch {theirs}"
        for part in sorted({*formula.parts, *counted.parts})
        for kind in sorted((*CONVENTIONS["all"], Kind.NORMALISATION))
        if (ours := macs(formula, part, kind)) != (theirs := macs(counted, part, kind))
    )


_SUSPECTS = {
    "matmul": "@ or matmul", "mm": "mm", "bmm": "bmm", "addmm": "addmm", "baddbmm": "baddbmm",
    "einsum": "einsum", "elu": "ELU", "celu": "CELU", "selu": "SELU", "hardswish": "Hardswish",
    "mish": "Mish", "multi_head_attention_forward": "MultiheadAttention",
}  # fmt: skip
"""Functions that some tool does not count, or counts differently, with readable names."""


class _SuspectWatch(FunctionMode):
    """Records which of the suspect functions a model calls, except inside a factorised prior."""

    def __init__(self, others: Mapping[Any, Any], tally: Tally) -> None:
        super().__init__(others)
        self.suspects: set[str] = set()
        self._tally = tally

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in _SUSPECTS and self._tally.kind is not Kind.PRIOR:
            self.suspects.add(_SUSPECTS[name])
        return super().__torch_function__(function, types, args, kwargs)


class _Differences:
    """The differences of each tool from the formulas on one forward pass, in MACs by name.

    They are derived from shapes, by hooks of our own, so that no counter is explained by itself.

    Args:
        target: the codec.
        size: (height, width) of the padded image.

    Attributes:
        of: the differences of each counter.
        fused: MACs of fused attention.
        suspects: functions that fvcore or ptflops are known to miss or miscount.
    """

    def __init__(self, target: Target, size: tuple[int, int]) -> None:
        self.of: dict[CounterName, Counter[str]] = defaultdict(Counter)
        self.fused = 0
        self.add(_PRIOR, 0, *_TOOLS)  # the first in every list
        model = target.runnable
        tally = Tally(model, target.part_of)
        functions = {F.scaled_dot_product_attention: self._attend, F.softmax: self._softmax}
        watch = _SuspectWatch(functions, tally)
        layers = [
            module.register_forward_hook(self._see, with_kwargs=True)
            for module in model.modules()
            if module_kind(module) or not any(module.children())
        ]
        with hooked(layers), meta_pass(model), tally.following(), watch:
            model(image_for(model, size))
        self.suspects = watch.suspects

    def add(self, what: str, macs: int, *counters: CounterName) -> None:
        """Add a difference of some counters."""
        for counter in counters:
            self.of[counter][what] += macs

    def explain(self, counter: CounterName, total: int, reference_macs: int) -> CounterCheck:
        """Return a counter's total with its differences from the reference."""
        differences = self.of[counter]
        return CounterCheck(
            counter=counter,
            total=total,
            differences={what: macs for what, macs in differences.items() if macs},
            unexplained=total - reference_macs - differences.total(),
            note=_NOTES.get(counter, "").format(self.fused) if self.fused else "",
        )

    def _see(
        self, module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any
    ) -> None:
        kind, name = module_kind(module), type(module).__name__
        x: Any = next(iter((*inputs, *named.values())), None)
        if kind is Kind.PRIOR:
            self.add(_PRIOR, bottleneck_products(module, x), *_TOOLS)
        elif kind is Kind.GDN:
            macs = x.shape[1] * output.numel()
            self.add("GDN, whose product it does not see", -macs, "ptflops")
            self.add(_OTHER_BIASES, output.numel(), "ptflops-aten")
        elif isinstance(module, (_ConvNd, nn.Linear)):
            self._see_product(module, x, output)
        elif kind is Kind.NORMALISATION and name != "RMSNorm":  # no other tool knows that one
            affine, batch = module.weight is not None, name.startswith("BatchNorm")
            # ptflops looks for an attribute that has another name in layer normalisation.
            ptflops = 2 if affine and name != "LayerNorm" else 1
            self._per_element(name, affine + (1 if batch else 4), x, "fvcore")
            self._per_element(name, ptflops, x, "ptflops")
        elif isinstance(output, Tensor) and isinstance(x, Tensor):
            self._per_element(name, _PTFLOPS_WEIGHTS.get(name, 0), x, "ptflops")
            if name == "Softmax":
                self.add(_SOFTMAX, -x.numel(), "ptflops")

    def _per_element(self, name: str, weight: int, x: Tensor, counter: CounterName) -> None:
        self.add(f"{name}, {weight} per element", weight * x.numel(), counter)

    def _see_product(self, module: Any, x: Tensor, output: Tensor) -> None:
        if isinstance(module, HaarLinear):
            self._see_haar(module, x, output)
            return
        # The layer's own channels: a partial convolution passes the others through.
        own = 0 if module.bias is None else module.bias.numel()
        biases = own * _positions(module, output)
        if type(module).__module__.startswith("torch.nn."):
            self.add(_BIASES, biases, "ptflops")
            # torch adds the bias of a linear layer separately if the input is a view.
            if not isinstance(module, nn.Linear) or x.dim() == 2 or x.is_contiguous():
                self.add(_BIASES, biases, "ptflops-aten")
            return
        self.add(_OTHER_BIASES, biases, "ptflops-aten")
        places = x if isinstance(module, _ConvTransposeNd) else output
        what = f"{type(module).__name__}, a class that it does not know"
        self.add(what, -_positions(module, places) * module.weight.numel(), "ptflops")

    def _see_haar(self, module: HaarLinear, x: Tensor, output: Tensor) -> None:
        """Add the differences of a linear layer that is computed as a convolution."""
        coarse = output if module.direction == "down" else x
        macs = coarse.shape[0] * prod(coarse.shape[2:]) * module.weight.numel()
        self.add("HaarLinear, a class that it does not know", -macs, "ptflops")
        if module.direction == "down":  # else the bias is added afterwards
            self.add(_OTHER_BIASES, output.numel(), "ptflops-aten")

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        pairs = query.shape[:-1].numel() * key.shape[-2]
        self.add(_SOFTMAX, pairs, "ptflops")
        self.fused += pairs * (query.shape[-1] + value.shape[-1])
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)

    def _softmax(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.add(_SOFTMAX, x.numel(), "ptflops")
        return F.softmax(x, *args, **kwargs)


def _positions(module: Any, values: Tensor) -> int:
    """Return the number of positions of a convolution or linear layer in ``values``."""
    axes = module.weight.dim() - 2
    return values.shape[0] * prod(values.shape[-axes:]) if axes else prod(values.shape[:-1])
