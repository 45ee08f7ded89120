"""Cross-attention to a learned dictionary, and the dense aggregation before it (DCAE).

Lu et al. 2025, "Learned Image Compression with Dictionary-based Entropy Model", CVPR, arXiv
2504.00496.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount, LayerCount
from tcm_lab.blocks.convolutional import depthwise
from tcm_lab.blocks.cost import Cost, Kind, conv_cost, depthwise_cost, layer_norm_cost, linear_cost
from tcm_lab.blocks.gated import ConvGlu, conv_glu_cost
from tcm_lab.blocks.registry import AttentionConfig, register_attention
from tcm_lab.blocks.window_attention import check_heads


class DenseAggregation(nn.Module):
    """A chain of layers, each with a 3x3 convolution; all outputs joined, times a spatial gate."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.start = nn.Conv2d(channels, channels, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GELU(),
                nn.Conv2d(channels, channels, 1),
                nn.GELU(),
                depthwise(channels, 3),
                nn.GELU(),
                nn.Conv2d(channels, channels, 1),
            )
            for _ in range(layers)
        )
        self.join = nn.Conv2d((1 + layers) * channels, channels, 1)
        self.gate = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        scales = [self.start(x)]
        for layer in self.layers:
            scales.append(layer(scales[-1]))
        joined: Tensor = self.join(torch.cat(scales, 1))
        pooled = torch.cat((joined.mean(1, keepdim=True), joined.amax(1, keepdim=True)), 1)
        return joined * torch.sigmoid(self.gate(pooled))


def dense_aggregation_cost(channels: int, layers: int, height: int, width: int) -> Cost:
    """Return the cost of a `DenseAggregation`."""
    pointwise = conv_cost(channels, channels, 1, height, width)
    layer = 2 * pointwise + depthwise_cost(channels, 3, height, width)
    joined = conv_cost((1 + layers) * channels, channels, 1, height, width)
    positions = height * width
    gate = Cost({Kind.CONVOLUTION: 98 * positions}, {Kind.CONVOLUTION: 98}, positions)
    return pointwise + layers * layer + joined + gate


class DictionaryAttention(nn.Module):
    """Cross-attention from each position to a dictionary's entries, then a gated unit.

    Keys are a linear layer of the normalised entries, values the normalised entries themselves;
    each head's softmax has a learnt temperature. Each of the three steps is added to its input
    times a learnt scale of each channel.

    Args:
        c_in: channels of the query.
        width: inner channels, and those of an entry; a multiple of ``head_dim``.
        c_out: channels of the result.
        head_dim: channels of one head.
        layers: layers of the dense aggregation.
        mlp_ratio: width of the gated unit's first layer relative to ``width``.
    """

    def __init__(
        self, c_in: int, width: int, c_out: int, head_dim: int, layers: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.widen = nn.Linear(c_in, width)
        self.norm1 = nn.LayerNorm(width)
        self.aggregate = DenseAggregation(width, layers)
        self.scale1 = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.norm_entries = nn.LayerNorm(width)
        self.key = nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.ones(width // head_dim, 1, 1))
        self.proj = nn.Linear(width, width)
        self.scale2 = nn.Parameter(torch.ones(width))
        self.norm3 = nn.LayerNorm(width)
        self.glu = ConvGlu(width, mlp_ratio * width)
        self.scale3 = nn.Parameter(torch.ones(width))
        self.narrow = nn.Linear(width, c_out)

    def forward(
        self, x: Float[Tensor, "b c h w"], entries: Float[Tensor, "n d"]
    ) -> Float[Tensor, "b e h w"]:
        """Attend from each position of a query (B, C_in, H, W) to ``entries`` (N, width)."""
        x = self.widen(x.permute(0, 2, 3, 1))
        gathered = self.aggregate(self.norm1(x).permute(0, 3, 1, 2))
        x = gathered.permute(0, 2, 3, 1) + self.scale1 * x
        x = self.proj(self._attended(self.norm2(x), self.norm_entries(entries))) + self.scale2 * x
        x = self.glu(self.norm3(x)) + self.scale3 * x
        out: Tensor = self.narrow(x)
        return out.permute(0, 3, 1, 2)

    def _attended(self, x: Tensor, entries: Tensor) -> Tensor:
        heads = len(self.temperature)
        # (heads, B H W, d), so that each head is one product over all positions
        query = self.query(x).flatten(0, 2).unflatten(-1, (heads, -1)).transpose(0, 1)
        key = self.key(entries).unflatten(-1, (heads, -1)).transpose(0, 1)
        value = entries.unflatten(-1, (heads, -1)).transpose(0, 1)
        weights = F.softmax(torch.matmul(query, key.mT) * self.temperature, -1)
        attended: Tensor = torch.matmul(weights, value)
        return attended.transpose(0, 1).flatten(1).view(x.shape)


def dictionary_attention_cost(
    c_in: int,
    width: int,
    c_out: int,
    head_dim: int,
    layers: int,
    mlp_ratio: int,
    entries: int,
    height: int,
    columns: int,
) -> Cost:
    """Return the cost of a `DictionaryAttention`, without entries, on ``height`` x ``columns``."""
    tokens, heads = height * columns, width // head_dim
    products = Cost(
        {Kind.ATTENTION: 2 * tokens * entries * width},
        {Kind.OTHER: 3 * width + heads},
        tokens * (heads * entries + width),
    )
    return (
        linear_cost(c_in, width, tokens)
        + dense_aggregation_cost(width, layers, height, columns)
        + 3 * layer_norm_cost(width, tokens)
        + layer_norm_cost(width, entries)
        + 2 * linear_cost(width, width, tokens)
        + linear_cost(width, width, entries)
        + products
        + conv_glu_cost(width, mlp_ratio * width, height, columns)
        + linear_cost(width, c_out, tokens)
    )


class OwnDictionary(nn.Module):
    """x + cross-attention from x to a dictionary of its own."""

    def __init__(self, entries: int, width: int, attention: DictionaryAttention) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(torch.randn(entries, width))
        self.attention = attention

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        out: Tensor = x + self.attention(x, self.dictionary)
        return out

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that make the module the identity when their weights are zero."""
        return [self.attention.narrow]


@register_attention("dictionary")
class DictionaryConfig(AttentionConfig):
    """Cross-attention to a learned dictionary, as in DCAE's entropy model, and a skip.

    Attributes:
        entries: number of entries of the dictionary.
        width: channels of an entry, and of the cross-attention.
        head_dim: channels of one attention head.
        layers: layers of the dense aggregation that computes the query.
        mlp_ratio: width of the gated unit's first layer relative to ``width``.
    """

    entries: ChannelCount = 128
    width: ChannelCount = 64
    head_dim: ChannelCount = 32
    layers: Annotated[LayerCount, Field(gt=0)] = 3
    mlp_ratio: Annotated[int, Field(gt=0, le=1000)] = 4

    def check(self, channels: int) -> None:
        check_heads(self.width, self.head_dim)

    def build(self, channels: int) -> nn.Module:
        attention = DictionaryAttention(
            channels, self.width, channels, self.head_dim, self.layers, self.mlp_ratio
        )
        return OwnDictionary(self.entries, self.width, attention)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        own = Cost({}, {Kind.OTHER: self.entries * self.width})
        return own + dictionary_attention_cost(
            channels, self.width, channels, self.head_dim, self.layers, self.mlp_ratio,
            self.entries, height, width,
        )  # fmt: skip
