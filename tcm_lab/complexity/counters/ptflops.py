"""Counting by ptflops, on tensors that have a shape and no data.

Its default backend hooks layers and wraps a few functions; its second one hooks torch's operators.
Neither knows `scaled_dot_product_attention`, so attention is spelled out as its two products
while they count, which they then see for themselves.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab._compat.torchvision import make_torchvision_importable
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity.counters.base import Count, Tally, module_kind, operator_kind
from tcm_lab.complexity.counters.meta import (
    FunctionMode,
    OperatorMode,
    meta_image,
    meta_pass,
    spelled_out_attention,
)
from tcm_lab.complexity.target import Target


def count_with_ptflops(target: Target, size: tuple[int, int]) -> Count:
    """Count one forward pass on an image of ``size`` by layers; a layer with its bias.

    Raises:
        RuntimeError: ptflops gave up; the message holds what it printed.
    """
    model = target.on_meta
    tally = Tally(model, target.part_of)
    operators = _import("pytorch_ops")

    def read_layers(*_: object) -> None:
        for name, module in model.named_modules():
            kind = module_kind(module) or Kind.ELEMENTWISE
            tally.macs[target.part_of(name)][kind] += int(getattr(module, "__flops__", 0))

    with ExitStack() as undo:
        # While ptflops counts, note on which module and for which function it does.
        for formulas in (operators.FUNCTIONAL_MAPPING, operators.TENSOR_OPS_MAPPING):
            undo.callback(formulas.update, dict(formulas))
            for function, formula in formulas.items():
                kind = Kind.ATTENTION if function.__name__ in _PRODUCTS else Kind.ELEMENTWISE
                formulas[function] = _booked(formula, tally, kind)
        undo.callback(model.register_forward_hook(read_layers).remove)
        undo.enter_context(tally.following())
        _run(model, size, backend="pytorch")
    return tally.count()


def count_with_ptflops_aten(target: Target, size: tuple[int, int]) -> Count:
    """Count one forward pass on an image of ``size`` by operators; a layer with its bias.

    Raises:
        RuntimeError: ptflops gave up; the message holds what it printed.
    """
    model = target.on_meta
    tally = Tally(model, target.part_of)
    formulas = {
        operator: _booked(formula, tally, operator_kind(operator.__name__))
        for operator, formula in _import("aten_ops").ATEN_OPS_MAPPING.items()
    }
    with _hooks_kept(model), tally.following():
        _run(model, size, backend="aten", custom_modules_hooks=formulas)
    return tally.count()


def _run(model: nn.Module, size: tuple[int, int], **options: Any) -> None:
    """Let ptflops count one forward pass."""
    printed = io.StringIO()
    with (
        meta_pass(model),
        _KernelsUncounted(),
        spelled_out_attention(_Unwrapping),
        redirect_stdout(printed),
    ):
        macs, _ = _import("flops_counter").get_model_complexity_info(
            model,
            (3, *size),
            print_per_layer_stat=False,
            as_strings=False,
            input_constructor=lambda _: meta_image(size),
            ost=printed,
            **options,
        )
    if macs is None:
        raise RuntimeError(f"ptflops could not count the model:\n{printed.getvalue()}")


def _import(module: str) -> Any:
    make_torchvision_importable()  # ptflops imports it, and timm where that is installed
    return importlib.import_module(f"ptflops.{module}")


def _booked(formula: Callable[..., Any], tally: Tally, kind: Kind) -> Callable[..., int]:
    """Return a formula of ptflops that also books what it counts on the running module."""

    def book(*args: Any, **kwargs: Any) -> int:
        macs = int(formula(*args, **kwargs))
        tally.macs[tally.part][tally.kind or kind] += macs
        return macs

    return book


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


class _Unwrapping(FunctionMode):
    """Hides ptflops' wrappers from operators, which torch looks up by name for such a mode.

    Without it a product written as ``a * b`` counts as the call of ``Tensor.mul`` that it is not.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        own = getattr(function, "op", function)
        return super().__torch_function__(own, types, args, kwargs)


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


_PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm")
_WRAPPED: list[tuple[Any, str]] = [
    *((torch, name) for name in (*_PRODUCTS, "mul", "add")),
    *((Tensor, name) for name in ("matmul", "mm", "bmm", "addmm", "mul", "add")),
    *((F, name) for name in ("softmax", "gelu", "relu", "silu")),
]
