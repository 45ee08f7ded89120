"""Multi-head self-attention inside windows (W-MSA and SW-MSA of Swin, Liu et al. 2021).

On a CPU it works on a few windows at a time, whose scores fit into the cache. Torch's fused
kernel for CPUs is slow with heads as narrow as Swin's and has no gradient for a bias. Without
fusion, attention over whole maps makes several passes over scores that are far larger than the map.
In portions, the scores never leave the cache, and backward recomputes them instead of reading them
from memory (as FlashAttention does, Dao et al. 2022, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tcm_lab.blocks.extent import Extent, Extents
from tcm_lab.blocks.windows import WindowGroup, WindowPlan, window_plan
from tcm_lab.errors import ConfigError, one_of

_CACHED_SCORES = 2**18  # 1 MB in float32
_NARROW = 16  # channels of a head, from which on the order of a product makes no difference

Windows = Float[Tensor, "n t c"]
Bias = Float[Tensor, "heads t t"]
PortionBias = Float[Tensor, "*n heads t t"]


class WindowAttention(nn.Module):
    """Self-attention among the tokens of each window, with a relative position bias.

    softmax(q·kᵀ / √d + bias[head, qy - ky, qx - kx]) · v, per head of width d, then a linear layer
    over all heads (Swin, equation 4). Maps of any size are accepted: a partial window is padded,
    and the padding is never attended to.

    Args:
        channels: C, a multiple of ``head_dim``.
        head_dim: d, channels of one head.
        window_size: side of a window, in tokens.
        shifted: whether the windows are moved by half a window (SW-MSA).
    """

    relative_index: Tensor

    def __init__(self, channels: int, head_dim: int, window_size: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.window_size = window_size
        self.shift = window_size // 2 if shifted else 0
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        span = 2 * window_size - 1
        self.relative_position_bias = nn.Parameter(torch.zeros(self.heads, span, span))
        nn.init.trunc_normal_(self.relative_position_bias, std=0.02)
        self.register_buffer("relative_index", relative_index(window_size), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attend within each window of (B, H, W, C)."""
        plan = self.plan(x)
        attended = attend(self.qkv(plan.cut(x)), self.bias(), plan)
        return plan.join(self.proj(attended), (x.shape[1], x.shape[2]))

    def portion(self, windows: Windows, bias: PortionBias) -> Windows:
        """Attend within a few windows (n, N, C) with a bias from `portions`; no gradient."""
        attended: Tensor = self.proj(_attend(self.qkv(windows), bias))
        return attended

    def weights(
        self, x: Float[Tensor, "b h w c"], *, with_bias: bool = True
    ) -> tuple[Float[Tensor, "n heads t t"], WindowPlan]:
        """Return the attention weights (windows, heads, N, N) of (B, H, W, C), and the plan.

        Rows are queries and sum to one; a masked pair is exactly zero.
        """
        plan = self.plan(x)
        q, k, _ = _heads(self.qkv(plan.cut(x)), self.heads)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        bias = self.bias() if with_bias else torch.zeros_like(self.bias())
        for group in plan.groups:
            scores[group.start : group.stop] += group.masked(bias)
        return scores.softmax(-1), plan

    def bias(self) -> Bias:
        """Return the relative position bias of each pair of tokens, (heads, N, N)."""
        return self.relative_position_bias.flatten(1)[:, self.relative_index]

    def extents(self) -> Extents:
        """Return the extents of queries, keys and values, and of the position offsets."""
        both, offsets = Extent((self.proj.in_features,) * 3), self.relative_position_bias.shape[-1]
        around = Extent((offsets,), centred=True)
        return {
            "qkv.weight": (both, None),
            "qkv.bias": (both,),
            "relative_position_bias": (None, around, around),
        }

    def plan(self, x: Float[Tensor, "b h w c"]) -> WindowPlan:
        """Return how maps (B, H, W, C) are cut into windows."""
        batch, height, width, _ = x.shape
        return window_plan(
            int(batch), (int(height), int(width)), self.window_size, self.shift, x.device
        )


def check_heads(channels: int, head_dim: int) -> None:
    """Refuse a ``head_dim`` that does not divide the channels.

    Raises:
        ConfigError: the message lists the values that work.
    """
    if channels % head_dim:
        fits = [d for d in (4, 8, 12, 16, 24, 32, 40, 48, 64) if channels % d == 0]
        raise ConfigError(
            f"head_dim = {head_dim} does not divide {channels} channels; "
            f"values that do: {one_of(fits or [channels])}"
        )


def attend(qkv: Float[Tensor, "n t c3"], bias: Bias, plan: WindowPlan) -> Windows:
    """Return softmax(q·kᵀ / √d + bias) · v of windows (n, N, 3C), in the plan's order."""
    bias = bias.to(qkv.dtype)
    if qkv.device.type != "cpu" or torch.compiler.is_compiling():
        return attend_fused(qkv, bias, plan)
    # torch does not annotate Function.apply
    return _InPortions.apply(qkv, bias, plan.groups)  # type: ignore[no-any-return,no-untyped-call]


def attend_fused(qkv: Float[Tensor, "n t c3"], bias: Bias, plan: WindowPlan) -> Windows:
    """Compute the same as `attend`, by one call of torch's fused kernel for each mask."""
    q, k, v = _heads(qkv, len(bias))
    attended = []
    for group in plan.groups:
        windows = slice(group.start, group.stop)
        masked = group.masked(bias)[None]
        attended.append(
            F.scaled_dot_product_attention(q[windows], k[windows], v[windows], attn_mask=masked)
        )
    return torch.cat(attended).transpose(1, 2).flatten(2)


def portions(groups: tuple[WindowGroup, ...], bias: Bias) -> Iterator[tuple[slice, PortionBias]]:
    """Yield portions of the windows, each with its bias, which is minus infinity where masked.

    If a portion holds several groups, its bias has a first dimension for the windows.
    """
    count = max(_CACHED_SCORES // bias.numel(), 1)
    size, parts = 0, []
    for group in groups:
        masked, start = group.masked(bias), group.start
        while start < group.stop:
            length = min(count - size, group.stop - start)
            start, size = start + length, size + length
            parts.append(masked.expand(length, -1, -1, -1))
            if size == count or start == groups[-1].stop:
                yield slice(start - size, start), masked if len(parts) == 1 else torch.cat(parts)
                size, parts = 0, []


class _InPortions(torch.autograd.Function):
    """Attention portion by portion, with a gradient that recomputes the weights."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, groups: tuple[WindowGroup, ...]) -> Tensor:
        ctx.save_for_backward(qkv, bias)
        ctx.groups = groups
        attended = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        for windows, masked in portions(groups, bias):
            attended[windows] = _attend(qkv[windows], masked)
        return attended

    @staticmethod
    @once_differentiable  # it works in place
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
            d_q.copy_(_mix(d_scores, k).mul_(scale))
            d_k.copy_(_mix(d_scores.mT, q).mul_(scale))
            d_v.copy_(_mix(weights.mT, d_out))
        return d_qkv, d_bias, None


def _attend(qkv: Float[Tensor, "n t c3"], bias: PortionBias) -> Windows:
    """Return softmax(q·kᵀ / √d + bias) · v of some windows, heads side by side."""
    q, k, v = _heads(qkv, bias.shape[-3])
    return torch.matmul(_weights(q, k, bias), v).transpose(1, 2).flatten(2)


def _mix(weights: Tensor, values: Tensor) -> Tensor:
    """Return weights · values; as (valuesᵀ · weightsᵀ)ᵀ if narrow, which BLAS does far faster.

    It is for gradients only: in the forward pass, its rounding would change published symbols.
    """
    if values.shape[-1] < _NARROW:
        return torch.matmul(values.mT, weights.mT).mT
    return torch.matmul(weights, values)


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(-1, -2))
    return torch.add(bias, scores, alpha=q.shape[-1] ** -0.5, out=scores).softmax(-1)


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """View windows (n, N, 3C) as q, k, v, each (n, heads, N, d)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def relative_index(window_size: int) -> Tensor:
    """Return the index of each pair (query, key) of a window in the flattened bias table."""
    y, x = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + window_size - 1
    dx = x[:, None] - x[None, :] + window_size - 1
    return dy * (2 * window_size - 1) + dx
