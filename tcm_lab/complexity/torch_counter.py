"""Counting by torch's own `FlopCounterMode`, on tensors that have a shape and no data.

`FlopCounterMode` counts FLOPs, two for each multiply-accumulate; everything here is halved. Its
formulas see operators, not layers, so each count is booked on the module that is running: the 1x1
product inside GDN is a convolution to torch and GDN to us.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity._dispatch import OperatorMode
from tcm_lab.complexity._meta import meta_image, meta_pass
from tcm_lab.complexity._operators import counts_nothing
from tcm_lab.complexity._stack import ModuleStack, PartOf

aten = torch.ops.aten

_KINDS: dict[str, Kind] = {
    "convolution": Kind.CONVOLUTION,
    "_convolution": Kind.CONVOLUTION,
    "mm": Kind.LINEAR,
    "addmm": Kind.LINEAR,
    "bmm": Kind.ATTENTION,
    "baddbmm": Kind.ATTENTION,
}
_NORMALISATIONS = [
    getattr(aten, name)
    for name in (
        "native_layer_norm",
        "native_group_norm",
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "_fused_rms_norm",
    )
    if hasattr(aten, name)
]
_FUSED_ATTENTION = [
    getattr(aten, name)
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable",
    )
    if hasattr(aten, name)
]


@dataclass
class TorchCount:
    """What `count_with_torch` found.

    Attributes:
        macs: multiply-accumulates by part, then by kind; normalisation one for each element.
        activations: output elements of the counted products, by part.
        total: all that torch's formulas count (normalisation is ours, and not in it).
        elements: elements that each operator wrote, by its name.
        unknown: operators that neither torch nor we know the count of.
    """

    macs: dict[str, dict[str, int]] = field(default_factory=dict)
    activations: Counter[str] = field(default_factory=Counter)
    total: int = 0
    elements: Counter[str] = field(default_factory=Counter)
    unknown: tuple[str, ...] = ()


def count_with_torch(model: nn.Module, size: tuple[int, int], part_of: PartOf) -> TorchCount:
    """Count one forward pass of ``model``.

    Args:
        model: lives on the meta device; called with one image (1, 3, H, W).
        size: (height, width) of the image.
        part_of: maps a module's dotted name to the part to book its products on.
    """
    stack = ModuleStack(model, part_of)
    count = TorchCount()

    def booked(operator: Any) -> Callable[..., int]:
        formula = _formula(operator)

        def book(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            flops: int = formula(*args, out_val=out_val, **kwargs)
            kind = stack.kind or _KINDS.get(operator._qualified_op_name.split("::")[1])
            by_kind = count.macs.setdefault(stack.part, {})
            kind = kind or Kind.ATTENTION
            by_kind[kind] = by_kind.get(kind, 0) + flops // 2
            if kind is not Kind.NORMALISATION and kind is not Kind.PRIOR:
                count.activations[stack.part] += _outputs(operator, args, out_val)
            return flops

        # torch's word for: hand over the tensors themselves, not only their shapes.
        book._get_raw = True  # type: ignore[attr-defined]
        return book

    operators = [*_products(), *_NORMALISATIONS, *_FUSED_ATTENTION]
    mapping = {operator: booked(operator) for operator in operators}
    census = _Census(count.elements, set(mapping))
    flop_counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with meta_pass(model), stack.following(), census, flop_counter:
        model(meta_image(size))
    normalised = sum(by_kind.get(Kind.NORMALISATION, 0) for by_kind in count.macs.values())
    count.total = flop_counter.get_total_flops() // 2 - normalised
    count.unknown = tuple(sorted(census.unknown))
    return count


class _Census(OperatorMode):
    """Tallies the elements that every operator writes, and the operators that nobody knows."""

    def __init__(self, elements: Counter[str], counted: set[Any]) -> None:
        super().__init__()
        self._elements = elements
        self._counted = counted
        self._known: dict[Any, bool] = {}
        self.unknown: set[str] = set()

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operator and tally it."""
        out = operator(*args, **kwargs)
        if operator not in self._known:
            counted = operator.overloadpacket in self._counted
            self._known[operator] = counted or counts_nothing(operator)
        name = operator._schema.name
        if not self._known[operator]:
            self.unknown.add(name)
        written = out[0] if isinstance(out, (tuple, list)) and out else out
        if isinstance(written, Tensor):
            self._elements[name] += written.numel()
        return out


def _products() -> list[Any]:
    """Return the forward products that torch has a formula for."""
    return [
        operator for operator in flop_registry if isinstance(operator, torch._ops.OpOverloadPacket)
    ]


def _formula(operator: Any) -> Callable[..., int]:
    """Return what counts the FLOPs of ``operator``: torch's formula where it has one."""
    if operator in _NORMALISATIONS:
        return lambda x, *_, out_val=None, **__: 2 * (x if isinstance(x, Tensor) else x[0]).numel()
    if operator in flop_registry:
        formula: Callable[..., int] = flop_registry[operator]
        return formula

    def fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
        shapes = query.shape, key.shape, value.shape
        flops: int = sdpa_flop_count(*shapes)
        return flops

    return fused


def _outputs(operator: Any, args: Any, out: Any) -> int:
    """Return the elements that a product writes; fused attention writes its scores unseen."""
    if operator in _FUSED_ATTENTION:
        query, key, value = args[:3]
        queries: int = query.shape[:-1].numel()
        return queries * (int(key.shape[-2]) + int(value.shape[-1]))
    return out.numel() if isinstance(out, Tensor) else 0
