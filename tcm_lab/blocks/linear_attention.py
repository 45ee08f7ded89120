"""Attention among all positions of a map, at a cost that is linear in their number.

Queries and keys each have a softmax of their own, so that keys and values can be multiplied first
(Shen et al. 2021, "Efficient attention"). MLIC++ uses it for global contexts (Jiang et al. 2023).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount, Ratio
from tcm_lab.blocks.attention import WithSkip
from tcm_lab.blocks.convolutional import KernelSide, depthwise
from tcm_lab.blocks.cost import Cost, Kind, conv_cost, depthwise_cost, hidden_width
from tcm_lab.blocks.registry import AttentionConfig, register_attention
from tcm_lab.blocks.window_attention import check_heads

Map = Float[Tensor, "b c h w"]
Places = Bool[Tensor, "h w"]


class LinearAttention(nn.Module):
    """softmax(q) · (softmax(k)ᵀ · v) per head, over all positions of a map.

    A key's softmax is over the positions, a query's over the head's channels. Queries, keys and
    values are each computed from a map of their own, by a 1x1 and a depth-wise 3x3 convolution.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.queries, self.keys, self.values = (
            nn.Sequential(nn.Conv2d(channels, channels, 1), depthwise(channels, 3))
            for _ in range(3)
        )

    def forward(self, query: Map, key: Map, value: Map, keys_at: Places | None = None) -> Map:
        """Attend from each position of ``query`` (B, C, H, W) to ``value``.

        ``keys_at`` are the positions of ``key`` that are attended to; None: all.
        """
        q, k, v = self._heads(self.queries(query)), self._heads(self.keys(key)), self.values(value)
        if keys_at is not None:
            k = k.masked_fill(~keys_at.flatten(), torch.finfo(k.dtype).min)
        context = torch.matmul(self._heads(v), k.softmax(-1).transpose(-1, -2))  # (B, heads, d, d)
        return torch.matmul(context, q.softmax(-2)).view(v.shape)

    def _heads(self, x: Map) -> Float[Tensor, "b heads d positions"]:
        heads: Tensor = x.flatten(2).unflatten(1, (self.heads, -1))
        return heads


def linear_attention_cost(channels: int, head_dim: int, height: int, width: int) -> Cost:
    """Return the cost of a `LinearAttention` on maps of ``height`` x ``width``."""
    products = height * width * channels * head_dim
    return (
        3 * conv_cost(channels, channels, 1, height, width)
        + 3 * depthwise_cost(channels, 3, height, width)
        + Cost({Kind.ATTENTION: 2 * products}, {}, channels * (head_dim + height * width))
    )


class GlobalAttention(nn.Module):
    """Linear attention, a convolution of its result, and an MLP of convolutions beside a skip.

    Args:
        channels: C, channels of query, key and value.
        head_dim: channels of one head.
        kernel: side of the convolution after the attention.
        inner: output channels of this convolution.
        hidden: width of the MLP's hidden layer, which has a depth-wise 3x3 convolution.
        c_out: channels of the result; if it is not ``inner``, the skip is a 1x1 convolution.
    """

    def __init__(
        self, channels: int, head_dim: int, kernel: int, inner: int, hidden: int, c_out: int
    ) -> None:
        super().__init__()
        self.attention = LinearAttention(channels, head_dim)
        self.mix = nn.Conv2d(channels, inner, kernel, padding=kernel // 2)
        self.mlp = nn.Sequential(
            nn.Conv2d(inner, hidden, 1),
            nn.GELU(),
            depthwise(hidden, 3),
            nn.GELU(),
            nn.Conv2d(hidden, c_out, 1),
        )
        self.skip = nn.Identity() if inner == c_out else nn.Conv2d(inner, c_out, 1)

    def forward(
        self,
        query: Map,
        key: Map | None = None,
        value: Map | None = None,
        first: Places | None = None,
    ) -> Float[Tensor, "b d h w"]:
        """Transform (B, C, H, W) to (B, C_out, H, W).

        Key and value are the query itself by default. Only ``first`` positions are attended to, and
        only by all others; None: all attend to all.
        """
        key, value = query if key is None else key, query if value is None else value
        attended = self.attention(query, key, value, first)
        mixed = self.mix(attended if first is None else attended * ~first)
        out: Tensor = self.mlp(mixed).add_(self.skip(mixed))
        return out


def global_attention_cost(
    channels: int,
    head_dim: int,
    kernel: int,
    inner: int,
    hidden: int,
    c_out: int,
    height: int,
    width: int,
) -> Cost:
    """Return the cost of a `GlobalAttention` on maps of ``height`` x ``width``."""
    skip = Cost() if inner == c_out else conv_cost(inner, c_out, 1, height, width)
    return (
        linear_attention_cost(channels, head_dim, height, width)
        + conv_cost(channels, inner, kernel, height, width)
        + conv_cost(inner, hidden, 1, height, width)
        + depthwise_cost(hidden, 3, height, width)
        + conv_cost(hidden, c_out, 1, height, width)
        + skip
    )


@register_attention("linear-attention")
class LinearAttentionConfig(AttentionConfig):
    """Attention among all positions of a map, at a cost linear in their number (MLIC++).

    Attributes:
        head_dim: channels of one attention head.
        kernel: side of the convolution after the attention.
        mlp_ratio: width of the MLP's hidden layer relative to the module's.
    """

    head_dim: ChannelCount = 16
    kernel: KernelSide = 5
    mlp_ratio: Ratio = 2.0

    def check(self, channels: int) -> None:
        check_heads(channels, self.head_dim)

    def build(self, channels: int) -> nn.Module:
        c, hidden = channels, hidden_width(channels, self.mlp_ratio)
        attend = GlobalAttention(c, self.head_dim, self.kernel, c, hidden, c)
        return WithSkip(attend, "mix", "mlp.4")

    def cost(self, channels: int, height: int, width: int) -> Cost:
        c, hidden = channels, hidden_width(channels, self.mlp_ratio)
        return global_attention_cost(c, self.head_dim, self.kernel, c, hidden, c, height, width)
