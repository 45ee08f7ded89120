"""Multi-head self-attention inside windows (W-MSA and SW-MSA of Swin, Liu et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab._foundation import ConfigError
from tcm_lab.blocks.windows import WindowPlan, window_plan


class WindowAttention(nn.Module):
    """Self-attention among the tokens of each window, with a relative position bias.

    softmax(q·kᵀ / √d + bias[head, qy - ky, qx - kx]) · v, per head of width d, then a linear layer
    over all heads (Swin, equation 4). Maps of any size are accepted: a partial window is padded,
    and padding is never seen.

    Args:
        channels: C, a multiple of ``head_width``.
        head_width: d, channels of one head.
        window: side of a window, in tokens.
        shifted: whether the windows are moved by half a window (SW-MSA).
    """

    relative_index: Tensor

    def __init__(self, channels: int, head_width: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        span = 2 * window - 1
        self.relative_position_bias = nn.Parameter(torch.zeros(self.heads, span, span))
        nn.init.trunc_normal_(self.relative_position_bias, std=0.02)
        self.register_buffer("relative_index", _relative_index(window), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attend within each window of (B, H, W, C)."""
        plan = self._plan(x)
        q, k, v = self._heads(plan.cut(x))
        bias = self.bias()
        attended = torch.cat(
            [
                _attend(
                    q[group.start : group.stop],
                    k[group.start : group.stop],
                    v[group.start : group.stop],
                    _masked(bias, group.allowed).to(q.dtype),
                )
                for group in plan.groups
            ]
        )
        windows: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return plan.join(windows, (x.shape[1], x.shape[2]))

    def weights(
        self, x: Float[Tensor, "b h w c"], *, with_bias: bool = True
    ) -> tuple[Float[Tensor, "n heads t t"], WindowPlan]:
        """Return the attention weights (windows, heads, N, N) of (B, H, W, C), and the plan.

        Rows are queries and sum to one; a masked pair is exactly zero.
        """
        plan = self._plan(x)
        q, k, _ = self._heads(plan.cut(x))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        bias = self.bias() if with_bias else torch.zeros_like(self.bias())
        for group in plan.groups:
            scores[group.start : group.stop] += _masked(bias, group.allowed)
        return scores.softmax(-1), plan

    def bias(self) -> Float[Tensor, "heads t t"]:
        """Return the relative position bias of each pair of tokens, (heads, N, N)."""
        return self.relative_position_bias.flatten(1)[:, self.relative_index]

    def _plan(self, x: Tensor) -> WindowPlan:
        batch, height, width, _ = x.shape
        return window_plan(int(batch), (int(height), int(width)), self.window, self.shift, x.device)

    def _heads(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project windows (n, N, C) to q, k, v, each (n, heads, N, d), without a copy."""
        qkv = self.qkv(windows).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(q·kᵀ / √d + bias) · v for (n, heads, N, d) and a bias (heads, N, N)."""
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # The CPU's fused kernel has no gradient for a bias; what takes its place guards against
        # rows without any key, which windows have not, and costs a tenth of a training step.
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)) + bias
        return torch.matmul(scores.softmax(-1), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])


def check_heads(channels: int, head_width: int, field: str = "head_width") -> None:
    """Refuse a head width that does not divide the channels.

    Raises:
        ConfigError: the message lists the head widths that work.
    """
    if channels % head_width:
        fits = [d for d in (4, 8, 12, 16, 24, 32, 40, 48, 64) if channels % d == 0]
        raise ConfigError(
            f"{field} = {head_width} does not divide {channels} channels; "
            f"head widths that do: {', '.join(map(str, fits or [channels]))}"
        )


def _masked(bias: Tensor, allowed: Tensor | None) -> Tensor:
    """Return the bias with minus infinity where a token may not see another."""
    return bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))


def _relative_index(window: int) -> Tensor:
    """Return, for each pair (query, key) of a window, its place in the flattened bias table."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx
