"""Attention in a window around every position: the windows overlap, while Swin's tile the map.

Each window's result becomes one vector, that of the position in its middle (MLIC++'s local context,
Jiang et al. 2023). Every place of the map is attended to in each window that holds it. The windows
are cut a few rows at a time, so that they are never all in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount, Ratio
from tcm_lab.blocks.attention import WithSkip
from tcm_lab.blocks.convolutional import KernelSide
from tcm_lab.blocks.cost import (
    Cost,
    Kind,
    conv_cost,
    hidden_width,
    layer_norm_cost,
    linear_cost,
    mlp_cost,
)
from tcm_lab.blocks.extent import Extent, Extents
from tcm_lab.blocks.registry import AttentionConfig, register_attention
from tcm_lab.blocks.window_attention import check_heads, relative_index

_CACHED_SCORES = 2**18  # 1 MB in float32
#: MLIC++ adds this to the score of a pair that should not see each other.
_UNSEEN = -100.0


class OverlappedWindowAttention(nn.Module):
    """Attention among the places of a window around each position, and an MLP.

    Layer normalisation; softmax(q·kᵀ / √d + bias[qy - ky, qx - kx, head]) · v among the places of
    each window, which is filled with zeros beyond the map; a convolution as large as the window,
    which turns it into one vector; a linear layer; and an MLP beside a skip.

    If only some places hold values, these see only each other. All others, including those beyond
    the map, see the whole window, as in the authors' code: a mask that is the same in a whole row
    of scores cancels in the softmax.

    Args:
        channels: C, a multiple of ``head_dim``.
        head_dim: d, channels of one head; heads are interleaved in q, k and v.
        window_size: side of a window, odd.
        c_out: channels of the result.
        mlp_ratio: width of the MLP's hidden layer relative to ``c_out``.
    """

    relative_index: Tensor

    def __init__(
        self, channels: int, head_dim: int, window_size: int, c_out: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        hidden = hidden_width(c_out, mlp_ratio)
        self.heads = channels // head_dim
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.relative_position_bias = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, self.heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias, std=0.02)
        self.register_buffer("relative_index", relative_index(window_size), persistent=False)
        self.fuse = nn.Conv2d(channels, c_out, window_size)
        self.proj = nn.Linear(c_out, c_out)
        self.norm2 = nn.LayerNorm(c_out)
        self.mlp = nn.Sequential(nn.Linear(c_out, hidden), nn.GELU(), nn.Linear(hidden, c_out))

    def forward(
        self, x: Float[Tensor, "b c h w"], seen: Bool[Tensor, "h w"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """Transform (B, C, H, W) to (B, C_out, H, W); ``seen`` are the places that hold values."""
        qkv = self.qkv(self.norm1(x.permute(0, 2, 3, 1))).unflatten(-1, (3, -1, self.heads))
        around = self.window_size // 2
        padded = F.pad(qkv, (0,) * 6 + (around,) * 4)
        mask = None if seen is None else F.pad(seen, (around,) * 4)
        bias = self.relative_position_bias[self.relative_index].permute(2, 0, 1)
        rows = [
            self._fused(
                self._windows(padded[:, strip]),
                bias,
                None if mask is None else self._windows(mask[None, strip])[0],
            )
            for strip in self._strips(x.shape[0], x.shape[2], x.shape[3])
        ]
        fused = self.proj(torch.cat(rows, 1))
        out: Tensor = self.mlp(self.norm2(fused)).add_(fused)
        return out.permute(0, 3, 1, 2)

    def extents(self) -> Extents:
        """Return the extents of queries, keys and values: for each channel of a head, all heads."""
        heads = Extent((self.heads,) * (3 * self.fuse.in_channels // self.heads))
        return {"qkv.weight": (heads, None), "qkv.bias": (heads,)}

    def _strips(self, batch: int, height: int, width: int) -> Iterator[slice]:
        """Yield slices of padded rows, each with as many windows as fit into the cache."""
        scores = batch * width * self.heads * self.window_size**4
        count = max(_CACHED_SCORES // scores, 1)
        for start in range(0, height, count):
            yield slice(start, min(start + count, height) + self.window_size - 1)

    def _windows(self, rows: Tensor) -> Tensor:
        """View padded rows (B, r + n - 1, W + n - 1, ...) as (B, r, W, ..., n, n)."""
        n = self.window_size
        windows: Tensor = rows.unfold(1, n, 1).unfold(2, n, 1)
        return windows

    def _fused(
        self, windows: Tensor, bias: Tensor, seen: Bool[Tensor, "r w n n"] | None
    ) -> Float[Tensor, "b r w d"]:
        """Attend within windows of qkv (B, r, W, 3, d, heads, n, n) and turn each into a vector."""
        shape, side = windows.shape[:3], self.window_size
        q, k, v = windows.permute(3, 0, 1, 2, 5, 4, 6, 7).flatten(-2).flatten(1, 3)
        scores = torch.matmul(q.transpose(-1, -2) * q.shape[-2] ** -0.5, k) + bias
        if seen is not None:
            mask = _mask(seen.flatten(2).flatten(0, 1)).to(scores.dtype)
            scores.view(shape[0], -1, *scores.shape[1:]).add_(mask[:, None])
        attended = torch.matmul(v, scores.softmax(-1).transpose(-1, -2))
        vectors = self.fuse(attended.flatten(1, 2).unflatten(-1, (side, side)))
        fused: Tensor = vectors.flatten(1).unflatten(0, shape)
        return fused


def _mask(seen: Bool[Tensor, "n t"]) -> Float[Tensor, "n t t"]:
    """Return the term added to each pair's score, so that no known place sees an unknown one."""
    return (seen[:, :, None] & ~seen[:, None, :]) * _UNSEEN


def overlapped_window_cost(
    channels: int, window_size: int, c_out: int, mlp_ratio: float, head_dim: int, h: int, w: int
) -> Cost:
    """Return the cost of an `OverlappedWindowAttention` on a map of ``h`` x ``w``."""
    positions, places, heads = h * w, window_size**2, channels // head_dim
    products = Cost(
        {Kind.ATTENTION: 2 * positions * places**2 * channels},
        {Kind.POSITION: heads * (2 * window_size - 1) ** 2},
        positions * (heads * places**2 + places * channels),
    )
    return (
        layer_norm_cost(channels, positions)
        + linear_cost(channels, 3 * channels, positions)
        + products
        + conv_cost(channels, c_out, window_size, h, w)
        + linear_cost(c_out, c_out, positions)
        + layer_norm_cost(c_out, positions)
        + mlp_cost(c_out, hidden_width(c_out, mlp_ratio), positions)
    )


@register_attention("overlapped-windows")
class OverlappedWindowsConfig(AttentionConfig):
    """Attention in a window around every position (MLIC++).

    Attributes:
        window_size: side of a window, odd.
        head_dim: channels of one attention head.
        mlp_ratio: width of the MLP's hidden layer relative to the module's.
    """

    window_size: KernelSide = 5
    head_dim: ChannelCount = 16
    mlp_ratio: Ratio = 2.0

    def check(self, channels: int) -> None:
        check_heads(channels, self.head_dim)

    def build(self, channels: int) -> nn.Module:
        attend = OverlappedWindowAttention(
            channels, self.head_dim, self.window_size, channels, self.mlp_ratio
        )
        return WithSkip(attend, "proj", "mlp.2")

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return overlapped_window_cost(
            channels, self.window_size, channels, self.mlp_ratio, self.head_dim, height, width
        )
