"""Count with torch's own `FlopCounterMode`, on tensors that have a shape and no data.

`FlopCounterMode` counts FLOPs, two for each multiply-accumulate; everything here is halved. Its
formulas see operators, not layers, so each count goes to the module that is running: the 1x1
product inside GDN is a convolution to torch and GDN to us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity.counters.base import Count, Tally, operator_kind
from tcm_lab.complexity.counters.meta import (
    OperatorMode,
    attention,
    image_for,
    meta_pass,
    spelled_out_attention,
)
from tcm_lab.complexity.target import Target

aten = torch.ops.aten
_FUSED_ON_CPU = aten._scaled_dot_product_flash_attention_for_cpu

_BATCHED = ("bmm", "baddbmm")
_NORMALISATIONS = [
    getattr(aten, name)
    for name in (
        "native_layer_norm",
        "native_group_norm",
        "native_batch_norm",
        "cudnn_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_fused_rms_norm",
    )
    if hasattr(aten, name)
]


def count_with_torch(target: Target, size: tuple[int, int]) -> Count:
    """Count one forward pass on an image of ``size``; normalisation as one MAC per element."""
    model = target.runnable
    tally = Tally(model, target.part_of)

    def tallied(operator: Any, formula: Callable[..., int]) -> Callable[..., int]:
        normalises = operator in _NORMALISATIONS
        own_kind = Kind.NORMALISATION if normalises else operator_kind(operator.__name__)

        def count(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            flops: int = formula(*args, out_val=out_val, **kwargs)
            kind = tally.kind or watch.kind_of(operator.__name__, args[-2:], own_kind)
            tally.macs[tally.part][kind] += flops // 2
            if kind not in (Kind.NORMALISATION, Kind.PRIOR):
                written = out_val if isinstance(out_val, Tensor) else out_val[0]
                tally.activations[tally.part] += written.numel()
            return flops

        # This makes torch pass the tensors themselves, not only their shapes.
        count._get_raw = True  # type: ignore[attr-defined]
        return count

    def root_mean_square(*args: Any, **kwargs: Any) -> Tensor:
        """Count a normalisation that torch computes by operators that count nothing."""
        macs, kind = tally.macs[tally.part], tally.kind or Kind.NORMALISATION
        before = macs[kind]
        out = torch.rms_norm(*args, **kwargs)
        if macs[kind] == before:  # it was not fused
            macs[kind] += out.numel()
        watch.computed[out] = None
        return out

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute attention, which a learnt query does not make a layer with weights."""
        factors = tuple(each.detach() for each in (query, key, value))
        watch.computed.update(dict.fromkeys(factors))
        return attention(*factors, *args, **kwargs)

    packets = torch._ops.OpOverloadPacket
    formulas = {op: formula for op, formula in flop_registry.items() if isinstance(op, packets)}
    formulas |= dict.fromkeys(_NORMALISATIONS, lambda x, *_, **__: 2 * x.numel())
    # On an image with data, attention may be fused inside another of torch's functions.
    formulas[_FUSED_ON_CPU] = flop_registry[aten._scaled_dot_product_flash_attention]
    mapping = {op: tallied(op, formula) for op, formula in formulas.items()}
    image = image_for(model, size)
    watch = _Watch(set(mapping), image)
    counting = FlopCounterMode(display=False, custom_mapping=mapping)
    functions = spelled_out_attention(
        {
            F.rms_norm: root_mean_square,
            torch.rms_norm: root_mean_square,
            F.scaled_dot_product_attention: attend,
        }
    )
    with meta_pass(model), functions, tally.following(), watch, counting:
        model(image)
    return tally.count(tuple(sorted(watch.unknown)))


class _Watch(OperatorMode):
    """Collects the operators without a known formula, and where tensors come from.

    Args:
        counted: operators with a formula.
        image: the model's input.

    Attributes:
        unknown: names of operators without a formula.
        of_the_image: every tensor that is computed from the image.
        computed: these, and every tensor that is computed from weights by an operator with a
            formula. All others are weights, constants, or copies of them.
    """

    def __init__(self, counted: set[Any], image: Tensor) -> None:
        super().__init__()
        self.unknown: set[str] = set()
        self._counted = counted
        self.of_the_image = WeakIdKeyDictionary({image: None})
        self.computed = WeakIdKeyDictionary({image: None})

    def operate(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the operator, and record it if it is unknown."""
        is_counted = operator.overloadpacket in self._counted
        if not is_counted and not counts_nothing(operator):
            self.unknown.add(operator._schema.name)
        out = operator(*args, **kwargs)
        given, results = _tensors((args, kwargs)), dict.fromkeys(_tensors(out))
        if any(each in self.of_the_image for each in given):
            self.of_the_image.update(results)
        if is_counted or any(each in self.computed for each in given):
            self.computed.update(results)
        return out

    def kind_of(self, product: str, factors: Sequence[Any], kind: Kind) -> Kind:
        """Return the kind of a product, by where its factors come from.

        Args:
            product: name of the operator.
            factors: its last two arguments.
            kind: the kind by its name alone.
        """
        if kind is Kind.LINEAR and all(each in self.of_the_image for each in factors):
            return Kind.ATTENTION
        if product in _BATCHED and any(each not in self.computed for each in factors):
            return Kind.LINEAR
        return kind


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


_COPIES = """
    _to_copy _unsafe_view _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d alias arange as_strided_copy bernoulli cat cauchy clone col2im
    constant_pad_nd copy detach dropout embedding empty empty_like empty_strided expand_copy
    exponential eye fill flip full full_like gather geometric im2col index index_copy index_fill
    index_put index_select lift_fresh lift_fresh_copy linspace log_normal masked_fill masked_scatter
    masked_select native_dropout new_empty new_empty_strided new_full new_ones new_zeros nonzero
    normal ones ones_like pixel_shuffle pixel_unshuffle put rand rand_like randint randn randn_like
    random randperm reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize roll scalar_tensor scatter
    select_scatter set slice_scatter split_with_sizes_copy squeeze stack take transpose tril triu
    uniform unsafe_chunk unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d
    upsample_nearest3d zero zeros zeros_like
"""
_REDUCTIONS = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _local_scalar_dense _log_softmax _prelu_kernel
    _safe_softmax _softmax _unique2 _weight_norm_interface adaptive_max_pool2d adaptive_max_pool3d
    all amax amin aminmax any argmax argmin avg_pool2d avg_pool3d bincount bucketize clamp
    count_nonzero cummax cummin cumprod cumsum equal floor_divide glu hardswish index_add is_nonzero
    item kthvalue leaky_relu linalg_vector_norm log_sigmoid_forward logcumsumexp logsumexp max
    max_pool2d_with_indices max_pool3d_with_indices mean median min nansum norm prod
    rrelu_with_noise scatter_add scatter_reduce searchsorted sort std std_mean sum topk var var_mean
"""
_SIZES = """
    dim is_contiguous is_non_overlapping_and_dense is_same_size is_strides_like_format numel
    size storage_offset stride sym_is_contiguous sym_numel sym_size sym_storage_offset
    sym_stride
"""
_COUNTS_NOTHING = frozenset(f"{_COPIES} {_REDUCTIONS} {_SIZES}".split())


def counts_nothing(operator: Any) -> bool:
    """Return whether a dispatched operator (an ``OpOverload``) is known to compute no product."""
    namespace, _, name = operator._schema.name.partition("::")
    if namespace != "aten":
        return bool(namespace == "prim")
    name = name.rstrip("_")
    # torch tags some operators, but not their in-place forms: elu_ up to 2.11, gelu_ even in 2.13.
    out_of_place = getattr(getattr(aten, name, None), operator._overloadname, operator)
    pointwise = any(torch.Tag.pointwise in each.tags for each in (operator, out_of_place))
    return pointwise or operator.is_view or name in _COUNTS_NOTHING
