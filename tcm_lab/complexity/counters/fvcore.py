"""Count with fvcore, on tensors that have a shape and no data.

fvcore reads a graph from torch's tracer, which was not made for tensors without data: convolutions
are not recorded if no kernel runs them, and sizes become tensors that the shape rules cannot read.
`_TRACEABLE` fixes both, so that a trace needs neither weights nor time.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import prod
from typing import Any
from warnings import catch_warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_lab._compat.dynamo import traced_as_written
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity.counters.base import Count, Tally, module_kind
from tcm_lab.complexity.counters.meta import FunctionMode, OperatorMode, image_for, meta_pass
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

    fvcore has no handler for `scaled_dot_product_attention` and would count it as nothing, so it
    gets one.
    """
    from fvcore.nn import FlopCountAnalysis

    model = target.runnable
    analysis = FlopCountAnalysis(model, (image_for(model, size),))
    analysis.set_op_handle(f"aten::{_SDPA}", _attention_products)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    shapes, traceable = OperatorMode(_UNTRACED), FunctionMode(_TRACEABLE)
    with meta_pass(model), traced_as_written(), shapes, traceable, catch_warnings(action="ignore"):
        # Tracing warns of every size that becomes a constant; here all of them should.
        analysis.tracer_warnings("all")
        by_module: dict[str, Counter[str]] = analysis.by_module_and_operator()
    tally = Tally(model, target.part_of)
    for name, module in model.named_modules():
        own = Counter(by_module[name])
        for child, _ in module.named_children():
            own.subtract(by_module.get(f"{name}.{child}" if name else child, {}))
        for operator, macs in own.items():
            kind = module_kind(module) or _KINDS.get(operator, Kind.OTHER)
            tally.macs[target.part_of(name)][kind] += int(macs)
    # Torch's own operators are vetted in torch's counter; a user's own have no known formula.
    unknown = [name for name in analysis.unsupported_ops() if not name.startswith(_TORCHS_OWN)]
    return tally.count(tuple(sorted(unknown)))


def _attention_products(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count q·k and weights·v of fused attention from the shapes in the trace."""
    query, key, value = (v.type().sizes() for v in inputs[:3])
    del outputs
    pairs = prod(query[:-1]) * key[-2]
    return Counter({_SDPA: pairs * query[-1] + pairs * value[-1]})


def _untraced(query: Any, *args: Any) -> Any:
    """Answer a query for a size with a number, which is a constant of the trace."""
    state = torch._C._get_tracing_state()
    _set_tracing_state(None)
    try:
        return query(*args)
    finally:
        _set_tracing_state(state)


def convolve(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Compute one of torch's convolutions with the operator that the tracer records."""
    names = _CONVOLUTIONS[function]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    weight = given["weight"]

    def each(name: str, default: int) -> list[int]:
        value = given.get(name, default)
        return list(value) if isinstance(value, (tuple, list)) else [value] * (weight.dim() - 2)

    dilation, x = each("dilation", 1), given["input"]
    if given.get("padding") == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        given["padding"] = [both // 2 for both in whole]
        odd = [side for both in reversed(whole) for side in (0, both % 2)]
        x = F.pad(x, odd) if any(odd) else x  # the end has one more than the beginning
    elif given.get("padding") == "valid":
        given["padding"] = 0
    out: Tensor = aten._convolution.default(
        x,
        weight,
        given.get("bias"),
        each("stride", 1),
        each("padding", 0),
        dilation,
        names is _TRANSPOSED,
        each("output_padding", 0),
        given.get("groups", 1),
        *[False] * 4,  # benchmark, deterministic, cuDNN, TF32
    )
    return out


_FORWARD = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = (*_FORWARD[:5], "output_padding", "groups", "dilation")
_CONVOLUTIONS = {
    **{getattr(torch, f"conv{axes}d"): _FORWARD for axes in (1, 2, 3)},
    **{getattr(torch, f"conv_transpose{axes}d"): _TRANSPOSED for axes in (1, 2, 3)},
}
"""Their arguments in torch's order."""

_SIZE_QUERIES = (
    Tensor.shape.__get__,  # type: ignore[attr-defined]  # a getset descriptor
    Tensor.ndim.__get__,  # type: ignore[attr-defined]  # a getset descriptor
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    torch.numel,
)
_TRACEABLE = {query: partial(_untraced, query) for query in _SIZE_QUERIES} | {
    function: partial(convolve, function) for function in _CONVOLUTIONS
}
# The tracer's own convolution has no rule for tensors without data; the untraced one has.
_UNTRACED = {aten._convolution.default: lambda *args: aten.convolution.default(*args[:9])}
