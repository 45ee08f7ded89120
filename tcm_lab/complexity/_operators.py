"""Operators by what a counter has to know of them: products, no products, or nobody knows.

Everything torch marks as pointwise, and every view, computes no product that any convention counts.
The rest is listed here by name with its reason, so that what is left over can be named.
"""

from __future__ import annotations

from typing import Any

import torch


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COPIES = _names(
    """
    _to_copy _unsafe_view alias arange as_strided_copy bernoulli_ cat clone constant_pad_nd
    copy_ detach_ empty empty_like empty_strided expand_copy fill_ flip full full_like gather
    index index_put index_put_ index_select lift_fresh_copy masked_select new_empty
    new_empty_strided new_full new_ones new_zeros nonzero normal_ ones ones_like pixel_shuffle
    pixel_unshuffle rand randn randint reflection_pad1d reflection_pad2d repeat
    replication_pad2d resize_ roll scalar_tensor scatter select_scatter set_ slice_scatter
    split_with_sizes_copy stack tril triu uniform_ unsafe_split unsafe_chunk upsample_nearest2d
    zeros zeros_like zero_
    """
)
_REDUCTIONS = _names(
    """
    _local_scalar_dense _log_softmax _safe_softmax _softmax _unique2 adaptive_max_pool2d
    _adaptive_avg_pool2d all amax amin any argmax argmin avg_pool2d bucketize cumsum equal max
    max_pool2d_with_indices mean min prod searchsorted sort std sum topk var var_mean item
    is_nonzero
    """
)
_SIZES = _names(
    """
    dim is_contiguous is_non_overlapping_and_dense is_same_size is_strides_like_format numel
    size storage_offset stride sym_is_contiguous sym_numel sym_size sym_storage_offset
    sym_stride
    """
)
_COUNTS_NOTHING = _COPIES | _REDUCTIONS | _SIZES


def counts_nothing(operator: Any) -> bool:
    """Say whether a dispatched operator (an ``OpOverload``) is known to compute no product."""
    namespace, _, name = operator._schema.name.partition("::")
    if namespace == "prim":
        return True
    if namespace != "aten":
        return False
    return (
        name in _COUNTS_NOTHING
        or torch.Tag.pointwise in operator.tags
        or operator.is_view
        or name.rstrip("_") in _POINTWISE_UNTAGGED
    )


_POINTWISE_UNTAGGED = frozenset(["clamp", "dropout", "native_dropout", "lift_fresh", "detach"])
