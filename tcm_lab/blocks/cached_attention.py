"""Window attention on a CPU, as many windows at a time as its cache holds the scores of.

Torch's fused kernel for CPUs is slow with heads as narrow as Swin's and has no gradient for a bias;
spelled out over whole maps, attention is a handful of passes over scores that are larger than the
map by far. In portions the scores never leave the cache, and backward makes them again rather than
reading them from memory (as FlashAttention does, Dao et al. 2022, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tcm_lab.blocks.windows import WindowGroup

_CACHED_SCORES = 2**21  # 8 MB in float32

Windows = Float[Tensor, "n t c"]
Bias = Float[Tensor, "heads t t"]


def attend_in_portions(
    qkv: Float[Tensor, "n t c3"], bias: Bias, groups: tuple[WindowGroup, ...]
) -> Windows:
    """Return softmax(q·kᵀ / √d + bias) · v of all windows, heads side by side.

    Args:
        qkv: q, k and v of each token, one after the other, (n, N, 3C).
        bias: of each head and pair of tokens.
        groups: the windows by mask.
    """
    attended: Windows = _Attention.apply(qkv, bias, groups)  # type: ignore[no-untyped-call]
    return attended


def portions(groups: tuple[WindowGroup, ...], bias: Bias) -> Iterator[tuple[slice, Bias]]:
    """Yield portions of the windows, each with its bias: minus infinity where masked."""
    count = max(_CACHED_SCORES // bias.numel(), 1)
    for group in groups:
        masked = group.masked(bias)
        for start in range(group.start, group.stop, count):
            yield slice(start, min(start + count, group.stop)), masked


def attend(qkv: Float[Tensor, "n t c3"], bias: Bias) -> Windows:
    """Return softmax(q·kᵀ / √d + bias) · v of one portion, heads side by side."""
    q, k, v = _heads(qkv, len(bias))
    return _beside(torch.matmul(_weights(q, k, bias), v))


class _Attention(torch.autograd.Function):
    """`attend_in_portions`, with a gradient that makes the weights again."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, groups: tuple[WindowGroup, ...]) -> Tensor:
        ctx.save_for_backward(qkv, bias)
        ctx.groups = groups
        attended = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        for windows, masked in portions(groups, bias):
            attended[windows] = attend(qkv[windows], masked)
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, bias = ctx.saved_tensors
        heads = len(bias)
        d_qkv, d_bias = torch.empty_like(qkv), torch.zeros_like(bias)
        for windows, masked in portions(ctx.groups, bias):
            q, k, v = _heads(qkv[windows], heads)
            weights = _weights(q, k, masked)
            d_out = gradient[windows].unflatten(-1, (heads, -1)).transpose(1, 2)
            # Through the softmax: dS = P ∘ (dP - rowsum(dP ∘ P)).
            d_scores = torch.matmul(d_out, v.transpose(-1, -2)).mul_(weights)
            d_scores.addcmul_(weights, d_scores.sum(-1, keepdim=True), value=-1)
            d_bias += d_scores.sum(0)
            scale = q.shape[-1] ** -0.5
            d_q, d_k, d_v = _heads(d_qkv[windows], heads)
            d_q.copy_(torch.matmul(d_scores, k).mul_(scale))
            d_k.copy_(torch.matmul(d_scores.transpose(-1, -2), q).mul_(scale))
            d_v.copy_(torch.matmul(weights.transpose(-1, -2), d_out))
        return d_qkv, d_bias, None


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(-1, -2))
    return torch.add(bias, scores, alpha=q.shape[-1] ** -0.5, out=scores).softmax(-1)


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """View windows (n, N, 3C) as q, k, v, each (n, heads, N, d)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _beside(heads: Tensor) -> Tensor:
    """Put the heads (n, heads, N, d) side by side, (n, N, C)."""
    windows: Tensor = heads.transpose(1, 2).flatten(2)
    return windows
