"""Counting by fvcore, on tensors that have a shape and no data.

fvcore reads a graph that torch's tracer wrote, and the tracer was not made for tensors without
data: convolutions are not recorded where no kernel runs them, and sizes become tensors that the
shape rules cannot read. `_Traceable` mends both, so that a trace needs neither weights nor time.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tcm_lab._compat.dynamo import traced_as_written
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity.counters.base import Count, Tally, module_kind
from tcm_lab.complexity.counters.meta import OperatorMode, meta_image, meta_pass
from tcm_lab.complexity.target import Target

aten = torch.ops.aten
_set_tracing_state: Any = torch._C._set_tracing_state  # type: ignore[attr-defined]  # no stub
_SDPA = "scaled_dot_product_attention"
_TORCHS_OWN = ("aten::", "prim::")

_KINDS: dict[str, Kind] = {
    "conv": Kind.CONVOLUTION,
    "linear": Kind.LINEAR,
    "addmm": Kind.LINEAR,
    "mm": Kind.LINEAR,
    "matmul": Kind.ATTENTION,
    "bmm": Kind.ATTENTION,
    "einsum": Kind.ATTENTION,
    _SDPA: Kind.ATTENTION,
    "layer_norm": Kind.NORMALISATION,
    "group_norm": Kind.NORMALISATION,
    "batch_norm": Kind.NORMALISATION,
    "instance_norm": Kind.NORMALISATION,
}


def count_with_fvcore(target: Target, size: tuple[int, int]) -> Count:
    """Count one forward pass on an image of ``size``; a normalisation is five MACs per element.

    fvcore has no handler for `scaled_dot_product_attention` and would count it as nothing; it is
    given one.
    """
    from fvcore.nn import FlopCountAnalysis

    model = target.on_meta
    analysis = FlopCountAnalysis(model, (meta_image(size),))
    analysis.set_op_handle(f"aten::{_SDPA}", _attention_products)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with meta_pass(model), traced_as_written(), _Untraced(), _Traceable(), catch_warnings():
        # Tracing warns of every size that is a constant of the trace; here all are meant to be.
        simplefilter("ignore")
        analysis.tracer_warnings("all")
        by_module: dict[str, Counter[str]] = analysis.by_module_and_operator()
    tally = Tally(target)
    for name, module in model.named_modules():
        own = Counter(by_module[name])
        for child, _ in module.named_children():
            own.subtract(by_module.get(f"{name}.{child}" if name else child, {}))
        for operator, macs in own.items():
            kind = module_kind(module) or _KINDS.get(operator, Kind.OTHER)
            tally.add(target.part_of(name), kind, int(macs))
    # Torch's own operators are vetted in torch's counter; what a user's own computes, nobody knows.
    unknown = [name for name in analysis.unsupported_ops() if not name.startswith(_TORCHS_OWN)]
    return tally.count(tuple(sorted(unknown)))


def _attention_products(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count q·k and weights·v of fused attention from the shapes in the trace."""
    query, key, value = (v.type().sizes() for v in inputs[:3])
    del outputs
    pairs = prod(query[:-1]) * key[-2]
    return Counter({_SDPA: pairs * query[-1] + pairs * value[-1]})


class _Untraced(OperatorMode):
    """Runs the tracer's own convolution operator, which has no rule for tensors without data."""

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the shape rule of an untraced convolution for a traced one."""
        if operator is aten._convolution.default:
            return aten.convolution.default(*args[:9])
        return operator(*args, **kwargs)


class _Traceable(TorchFunctionMode):
    """Makes a model on the meta device traceable: sizes are numbers, convolutions are recorded."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _SIZE_QUERIES:
            state = torch._C._get_tracing_state()
            _set_tracing_state(None)
            try:
                return function(*args, **kwargs)
            finally:
                _set_tracing_state(state)
        if function in _CONVOLUTIONS:
            return _convolve(*args, **kwargs)
        if function in _TRANSPOSED:
            return _convolve_transposed(*args, **kwargs)
        return function(*args, **kwargs)


_SIZE_QUERIES = frozenset(
    [
        Tensor.shape.__get__,  # type: ignore[attr-defined]  # a getset descriptor
        Tensor.ndim.__get__,  # type: ignore[attr-defined]  # a getset descriptor
        Tensor.size,
        Tensor.dim,
        Tensor.numel,
        Tensor.__len__,
        torch.numel,
    ]
)
_CONVOLUTIONS = frozenset([torch.conv1d, torch.conv2d, torch.conv3d])
_TRANSPOSED = frozenset([torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d])


def _convolve(
    input: Tensor,  # torch's own argument names
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve by the operator that the tracer records."""
    axes = weight.dim() - 2
    if padding == "same":
        # An odd kernel at stride one, the only case that needs no padding of its own.
        kernel = weight.shape[2:]
        padding = [d * (k - 1) // 2 for d, k in zip(_each(dilation, axes), kernel, strict=True)]
    elif padding == "valid":
        padding = 0
    return _record(input, weight, bias, stride, padding, dilation, False, 0, groups)


def _convolve_transposed(
    input: Tensor,  # torch's own argument names
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Convolve transposed by the operator that the tracer records."""
    return _record(input, weight, bias, stride, padding, dilation, True, output_padding, groups)


def _record(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    axes = weight.dim() - 2
    out: Tensor = aten._convolution.default(
        x,
        weight,
        bias,
        _each(stride, axes),
        _each(padding, axes),
        _each(dilation, axes),
        transposed,
        _each(output_padding, axes),
        groups,
        False,
        False,
        False,
        False,
    )
    return out


def _each(value: Any, axes: int) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value] * axes
