"""Forward passes without data: models on torch's meta device, where only shapes are computed.

Models with a user's layer that needs values are detected beforehand, and run with data.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tcm_lab.blocks.cost import Kind
from tcm_lab.codec import CodecAdapter
from tcm_lab.complexity.counters.base import module_kind
from tcm_lab.complexity.directions import UncountedWarning
from tcm_lab.complexity.target import Target
from tcm_lab.errors import LabError, first_line

aten = torch.ops.aten


class OperatorMode(TorchDispatchMode):
    """Replaces some of torch's operators; subclasses that look at all of them override `operate`.

    Args:
        others: the replacement of each operator.
    """

    def __init__(self, others: Mapping[Any, Callable[..., Any]] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._others = others or {}

    @classmethod
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]  # torch does not annotate it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.operate(func, args, kwargs or {})

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return the result of ``operator``, an ``OpOverload``."""
        return self._others.get(operator, operator)(*args, **kwargs)


class FunctionMode(TorchFunctionMode):
    """Replaces some of torch's functions; inside a replacement, torch's own are called.

    Operators such as ``a * b``, for which torch looks up ``Tensor.mul`` by name, run as they are,
    even while that name is a wrapper of ptflops, which would count them.

    Args:
        others: the replacement of each function.
    """

    def __init__(self, others: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self._others = others

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        function = getattr(function, "op", function)
        return self._others.get(function, function)(*args, **(kwargs or {}))


def spelled_out_attention(others: Mapping[Any, Callable[..., Any]] | None = None) -> FunctionMode:
    """Return a mode in which fused attention is computed as its two products and a softmax.

    Args:
        others: replacements of further functions.
    """
    return FunctionMode({F.scaled_dot_product_attention: attention, **(others or {})})


def attention(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, enable_gqa: bool = False, **__: Any
) -> Tensor:
    """Compute softmax(q·kᵀ)·v for its shapes and products, which a mask does not change."""
    if enable_gqa:
        shared = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(shared, -3) for each in (key, value))
    weights = F.softmax(torch.matmul(query, key.transpose(-1, -2)), dim=-1)
    return torch.matmul(weights, value)


def image_for(model: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return an image (1, 3, H, W) of ``size``; on the meta device it has a shape, and no data."""
    adapter = CodecAdapter(model)
    return torch.full((1, 3, *size), 0.5, device=adapter.device, dtype=adapter.dtype)


@contextmanager
def meta_pass(model: nn.Module) -> Iterator[None]:
    """Prepare ``model`` for forward passes inside the ``with`` block, also on the meta device.

    It runs in evaluation mode, without gradients. CompressAI's entropy bottleneck keeps the order
    of its axes in a tensor on the input's device and reads it back, which fails without data;
    inside the block the same is computed without that tensor.
    """
    model.eval().requires_grad_(False)  # torch's counter looks for the history of what requires it
    with (
        ExitStack() as stack,
        OperatorMode(_QUICK_SHAPES if CodecAdapter(model).device.type == "meta" else {}),
        torch.no_grad(),
        warnings.catch_warnings(action="ignore"),
    ):
        for module in filter(_reads_its_index_lists, model.modules()):
            stack.enter_context(
                patch.object(module, "forward", partial(_bottleneck_forward, module))
            )
        yield


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Any:
    if [*x.shape[-len(shape) :]] != [*shape]:
        return aten.native_layer_norm.default(x, shape, weight, bias, epsilon)
    reduced = (*x.shape[: -len(shape)], *(1 for _ in shape))
    return x.new_empty(x.shape), x.new_empty(reduced), x.new_empty(reduced)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **factors: float) -> Any:
    if a.shape[1] != b.shape[0]:
        return aten.addmm.default(bias, a, b, **factors)
    return a.new_empty(a.shape[0], b.shape[1])


_QUICK_SHAPES: dict[Any, Callable[..., Any]] = {
    aten._safe_softmax.default: lambda x, _, dtype=None: torch.empty_like(x, dtype=dtype),
    aten.native_layer_norm.default: _layer_norm,
    aten.addmm.default: _addmm,
}
"""Direct rules for output shapes; torch's general rules take half the time of a pass without
data. Shapes that do not fit each other are left to torch, which refuses them."""


def bottleneck_products(module: nn.Module, z: Tensor) -> int:
    """Return the MACs of a prior's densities for ``z``: two cumulatives per element.

    Each element passes a chain of small matrices (Ballé et al. 2018, appendix 6.1), once for
    z - 1/2 and once for z + 1/2. A prior that is a known distribution has none.
    """
    matrices: Any = getattr(module, "matrices", ())
    weights: int = sum(matrix[0].numel() for matrix in matrices)
    return 2 * weights * z.numel()


def _reads_its_index_lists(module: nn.Module) -> bool:
    if module_kind(module) is not Kind.PRIOR or "forward" in vars(module):
        return False
    return type(module).forward.__module__.startswith("compressai.")


def _bottleneck_forward(module: Any, z: Tensor, training: bool | None = None) -> Any:
    """Run the bottleneck in evaluation, but order its axes without reading a tensor."""
    del training
    values = z.transpose(0, 1).reshape(z.shape[1], 1, -1)
    z_hat = module.quantize(values, "dequantize", module._get_medians())
    likelihood, _, _ = module._likelihood(z_hat)
    if module.use_likelihood_bound:
        likelihood = module.likelihood_lower_bound(likelihood)
    batch_last = (z.shape[1], z.shape[0], *z.shape[2:])
    return tuple(t.reshape(batch_last).transpose(0, 1).contiguous() for t in (z_hat, likelihood))


def tried(target: Target) -> Target:
    """Return the target in a form that runs: with data if a user's layer needs values.

    Raises:
        LabError: it runs neither with nor without data.

    Warns:
        UncountedWarning: it needs data.
    """
    if not target.has_own_layers:
        return target
    size = target.padded_size((1, 1))
    try:
        _run(target.runnable, size)
    except Exception as reason:  # a layer may raise anything if values are missing
        with_data = replace(target, with_data=True)
        try:
            _run(with_data.runnable, size)
        except Exception as error:  # a mistake in the layer itself
            raise LabError(
                f"{target.name}: a forward pass on an image of {size[0]}x{size[1]} fails: "
                f"{type(error).__name__}: {first_line(error)}. Fix it; or, if counters "
                "cannot follow it, give its layers a cost(), by which the formula can count them."
            ) from error
        warnings.warn(
            f"{target.name}: counted on an image with data, which takes longer, since a layer "
            f"needs values ({first_line(reason)})",
            UncountedWarning,
            stacklevel=3,
        )
        return with_data
    return target


def _run(model: nn.Module, size: tuple[int, int]) -> None:
    with meta_pass(model):
        model(image_for(model, size))
