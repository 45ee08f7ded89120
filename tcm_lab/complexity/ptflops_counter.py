"""Counting by ptflops, on tensors that have a shape and no data.

Its default backend hooks layers and wraps a few functions; its second one hooks torch's operators.
Neither knows `scaled_dot_product_attention`, so attention is spelled out as its two products
while they count, which they then see for themselves.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab._utils.compressai_import import left_out
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity._dispatch import OperatorMode
from tcm_lab.complexity._meta import fused_attention, meta_image, meta_pass
from tcm_lab.complexity._stack import ModuleStack, PartOf, module_kind

Backend = Literal["pytorch", "aten"]


@dataclass
class PtflopsCount:
    """What ptflops found.

    Attributes:
        total: what it would print, attention's products included.
        by_part: the same by part, then by kind; ``elementwise`` for activations and softmax. A
            layer's bias counts with the layer. Empty for the second backend, which keeps none.
    """

    total: int = 0
    by_part: dict[str, dict[str, int]] = field(default_factory=dict)

    def book(self, part: str, kind: str, macs: int) -> None:
        """Add ``macs`` to a part's kind."""
        by_kind = self.by_part.setdefault(part, {})
        by_kind[kind] = by_kind.get(kind, 0) + macs


def count_with_ptflops(
    model: nn.Module, size: tuple[int, int], part_of: PartOf, backend: Backend = "pytorch"
) -> PtflopsCount:
    """Count one forward pass of ``model``.

    Args:
        model: lives on the meta device.
        size: (height, width) of the image.
        part_of: maps a module's dotted name to the part to book its products on.
        backend: ``pytorch`` counts by layers, ``aten`` by operators.

    Raises:
        RuntimeError: ptflops gave up; the message holds what it printed.
    """
    with left_out():  # it asks torchvision for a layer that nothing here uses
        from ptflops import get_model_complexity_info

    printed = io.StringIO()
    count = PtflopsCount()
    booking = _Booking(model, part_of, count)
    with (
        _hooks_kept(model),
        booking.reading() if backend == "pytorch" else nullcontext(),
        meta_pass(model),
        _KernelsUncounted(),
        fused_attention(_attention),
        redirect_stdout(printed),
    ):
        macs, _ = get_model_complexity_info(
            model,
            (3, *size),
            print_per_layer_stat=False,
            as_strings=False,
            input_constructor=lambda _: meta_image(size),
            ost=printed,
            backend=backend,
        )
    if macs is None:
        raise RuntimeError(f"ptflops could not count the model:\n{printed.getvalue()}")
    count.total = int(macs)
    return count


class _Booking:
    """Reads off, while ptflops counts, on which module and for which function it did."""

    def __init__(self, model: nn.Module, part_of: PartOf, count: PtflopsCount) -> None:
        self._model = model
        self._part_of = part_of
        self._count = count
        self._stack = ModuleStack(model, part_of)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Book what is counted inside the ``with`` block."""
        handles = [
            self._model.register_forward_pre_hook(self._watch_functions),
            self._model.register_forward_hook(self._read_layers),
        ]
        try:
            with self._stack.following():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch_functions(self, *_: object) -> None:
        for owner, name in _WRAPPED:
            wrapper = getattr(owner, name)
            if hasattr(wrapper, "collector"):
                kind = Kind.ATTENTION if name in _PRODUCTS else ELEMENTWISE
                wrapper.collector = _Tee(wrapper.collector, partial(self._book, kind))

    def _book(self, kind: str, macs: int) -> None:
        self._count.book(self._stack.part, self._stack.kind or kind, macs)

    def _read_layers(self, *_: object) -> None:
        for name, module in self._model.named_modules():
            macs = int(getattr(module, "__flops__", 0))
            if macs:
                self._count.book(self._part_of(name), module_kind(module) or ELEMENTWISE, macs)


class _Tee:
    """Hands what ptflops collects to ptflops and to us."""

    def __init__(self, collected: list[int], book: Callable[[int], None]) -> None:
        self._collected = collected
        self._book = book

    def append(self, macs: int) -> None:
        self._collected.append(macs)
        self._book(int(macs))


@contextmanager
def _hooks_kept(model: nn.Module) -> Iterator[None]:
    """Take away the hooks that ptflops' second backend leaves behind."""
    kept = [
        (hooks, set(hooks))
        for module in model.children()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
    ]
    try:
        yield
    finally:
        for hooks, ours in kept:
            for handle in set(hooks) - ours:
                del hooks[handle]


class _KernelsUncounted(OperatorMode):
    """Hides ptflops' wrappers from torch's own shape rules.

    Some rules for tensors without data are Python code that calls `torch.mm` for a linear layer:
    through the wrapper the layer would count twice.
    """

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operator with torch's own functions back in place."""
        wrappers = [(owner, name, getattr(owner, name)) for owner, name in _WRAPPED]
        wrappers = [entry for entry in wrappers if hasattr(entry[2], "op")]
        for owner, name, wrapper in wrappers:
            setattr(owner, name, wrapper.op)
        try:
            return operator(*args, **kwargs)
        finally:
            for owner, name, wrapper in wrappers:
                setattr(owner, name, wrapper)


ELEMENTWISE = "elementwise"
_PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm")
_WRAPPED: list[tuple[Any, str]] = [
    *((torch, name) for name in (*_PRODUCTS, "mul", "add")),
    *((Tensor, name) for name in ("matmul", "mm", "bmm", "addmm", "mul", "add")),
    *((F, name) for name in ("softmax", "gelu", "relu", "silu")),
]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Shapes and products of softmax(q·kᵀ)·v; a mask changes neither."""
    weights = F.softmax(torch.matmul(query, key.transpose(-1, -2)), dim=-1)
    return torch.matmul(weights, value)
