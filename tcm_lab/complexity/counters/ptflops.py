"""Count with ptflops, on tensors that have a shape and no data.

Its default backend hooks layers and wraps a few functions; its second one hooks torch's operators.
Neither knows `scaled_dot_product_attention`, so attention is computed as its two products
while they count, and they see these.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from typing import Any
from unittest.mock import patch

from torch import nn

from tcm_lab._compat.torchvision import make_torchvision_importable
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity.counters.base import Count, Tally, module_kind, operator_kind
from tcm_lab.complexity.counters.meta import (
    OperatorMode,
    image_for,
    meta_pass,
    spelled_out_attention,
)
from tcm_lab.complexity.target import Target

_PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm")


def count_with_ptflops(target: Target, size: tuple[int, int]) -> Count:
    """Count one forward pass on an image of ``size`` by layers, biases included.

    Raises:
        RuntimeError: ptflops gave up; the message contains its output.
    """
    counting, operators = _Counting(target), _import("pytorch_ops")
    model = counting.model

    def read_layers(*_: object) -> None:
        for name, module in model.named_modules():
            kind = module_kind(module) or Kind.ELEMENTWISE
            macs = int(getattr(module, "__flops__", 0))
            counting.tally.macs[target.part_of(name)][kind] += macs

    with ExitStack() as stack:
        for formulas in (operators.FUNCTIONAL_MAPPING, operators.TENSOR_OPS_MAPPING):
            tallied = {}
            for function, formula in formulas.items():
                is_product = function.__name__ in _PRODUCTS
                kind = Kind.ATTENTION if is_product else Kind.ELEMENTWISE
                tallied[function] = counting.tallied(formula, kind)
            stack.enter_context(patch.dict(formulas, tallied))
        stack.enter_context(model.register_forward_hook(read_layers))
        return counting.run(model, size, backend="pytorch")


def count_with_ptflops_aten(target: Target, size: tuple[int, int]) -> Count:
    """Count one forward pass on an image of ``size`` by operators, biases included.

    Raises:
        RuntimeError: ptflops gave up; the message contains its output.
    """
    counting = _Counting(target)
    formulas = {
        operator: counting.tallied(formula, operator_kind(operator.__name__))
        for operator, formula in _import("aten_ops").ATEN_OPS_MAPPING.items()
    }
    bare = nn.Module()  # ptflops would leave hooks behind on the model's children
    bare.forward = counting.model.forward
    return counting.run(bare, size, backend="aten", custom_modules_hooks=formulas)


def _import(module: str) -> Any:
    make_torchvision_importable()  # ptflops imports it, and timm where that is installed
    return importlib.import_module(f"ptflops.{module}")


class _Counting(OperatorMode):
    """Adds up the counts of ptflops' formulas by running module, once for each operator.

    Some of torch's rules for tensors without data are Python code that calls `torch.mm` for a
    linear layer: through ptflops' wrapper, the layer would count twice.
    """

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.model = target.runnable
        self.tally = Tally(self.model, target.part_of)
        self._in_operator = False

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operator without counting the functions that it calls."""
        self._in_operator = True
        try:
            return operator(*args, **kwargs)
        finally:
            self._in_operator = False

    def tallied(self, formula: Callable[..., Any], kind: Kind) -> Callable[..., int]:
        """Return the formula with its counts added to the tally as well."""

        def count(*args: Any, **kwargs: Any) -> int:
            macs = 0 if self._in_operator else int(formula(*args, **kwargs))
            self.tally.macs[self.tally.part][self.tally.kind or kind] += macs
            return macs

        return count

    def run(self, counted: nn.Module, size: tuple[int, int], **options: Any) -> Count:
        """Let ptflops count one forward pass, and return the sums."""
        printed = io.StringIO()
        with (
            meta_pass(self.model),
            self.tally.following(),
            self,
            spelled_out_attention(),
            redirect_stdout(printed),
        ):
            macs, _ = _import("flops_counter").get_model_complexity_info(
                counted,
                (3, *size),
                print_per_layer_stat=False,
                as_strings=False,
                input_constructor=lambda _: image_for(self.model, size),
                ost=printed,
                **options,
            )
        if macs is None:
            raise RuntimeError(f"ptflops could not count the model:\n{printed.getvalue()}")
        return self.tally.count()
