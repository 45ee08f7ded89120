"""Multi-head self-attention inside windows (W-MSA and SW-MSA of Swin, Liu et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab.blocks.cached_attention import attend, attend_in_portions
from tcm_lab.blocks.windows import WindowPlan, window_plan
from tcm_lab.errors import ConfigError


class WindowAttention(nn.Module):
    """Self-attention among the tokens of each window, with a relative position bias.

    softmax(q·kᵀ / √d + bias[head, qy - ky, qx - kx]) · v, per head of width d, then a linear layer
    over all heads (Swin, equation 4). Maps of any size are accepted: a partial window is padded,
    and padding is never seen.

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
        self.register_buffer("relative_index", _relative_index(window_size), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attend within each window of (B, H, W, C)."""
        plan = self.plan(x)
        qkv = self.qkv(plan.cut(x))
        if x.device.type == "cpu":
            attended = attend_in_portions(qkv, self.bias().to(qkv.dtype), plan.groups)
        else:
            attended = self._fused(qkv, plan)
        return plan.join(self.proj(attended), (x.shape[1], x.shape[2]))

    def portion(
        self, windows: Float[Tensor, "n t c"], bias: Float[Tensor, "heads t t"]
    ) -> Float[Tensor, "n t c"]:
        """Attend within a few windows (n, N, C) that share a bias (heads, N, N); no gradient."""
        attended: Tensor = self.proj(attend(self.qkv(windows), bias))
        return attended

    def weights(
        self, x: Float[Tensor, "b h w c"], *, with_bias: bool = True
    ) -> tuple[Float[Tensor, "n heads t t"], WindowPlan]:
        """Return the attention weights (windows, heads, N, N) of (B, H, W, C), and the plan.

        Rows are queries and sum to one; a masked pair is exactly zero.
        """
        plan = self.plan(x)
        q, k, _ = self._heads(self.qkv(plan.cut(x)))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        bias = self.bias() if with_bias else torch.zeros_like(self.bias())
        for group in plan.groups:
            scores[group.start : group.stop] += group.masked(bias)
        return scores.softmax(-1), plan

    def bias(self) -> Float[Tensor, "heads t t"]:
        """Return the relative position bias of each pair of tokens, (heads, N, N)."""
        return self.relative_position_bias.flatten(1)[:, self.relative_index]

    def plan(self, x: Float[Tensor, "b h w c"]) -> WindowPlan:
        """Return how maps (B, H, W, C) are cut into windows."""
        batch, height, width, _ = x.shape
        return window_plan(
            int(batch), (int(height), int(width)), self.window_size, self.shift, x.device
        )

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """View windows (n, N, 3C) as q, k, v, each (n, heads, N, d)."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _fused(self, qkv: Tensor, plan: WindowPlan) -> Tensor:
        """Attend by torch's fused kernel, once for each mask."""
        q, k, v = self._heads(qkv)
        bias = self.bias().to(qkv.dtype)
        attended = []
        for group in plan.groups:
            windows = slice(group.start, group.stop)
            masked = group.masked(bias)[None]
            attended.append(
                F.scaled_dot_product_attention(q[windows], k[windows], v[windows], attn_mask=masked)
            )
        return torch.cat(attended).transpose(1, 2).flatten(2)


def check_heads(channels: int, head_dim: int, field: str = "head_dim") -> None:
    """Refuse a head width that does not divide the channels.

    Raises:
        ConfigError: the message lists the head widths that work.
    """
    if channels % head_dim:
        fits = [d for d in (4, 8, 12, 16, 24, 32, 40, 48, 64) if channels % d == 0]
        raise ConfigError(
            f"{field} = {head_dim} does not divide {channels} channels; "
            f"head widths that do: {', '.join(map(str, fits or [channels]))}"
        )


def _relative_index(window_size: int) -> Tensor:
    """Return, for each pair (query, key) of a window, its place in the flattened bias table."""
    y, x = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + window_size - 1
    dx = x[:, None] - x[None, :] + window_size - 1
    return dy * (2 * window_size - 1) + dx
