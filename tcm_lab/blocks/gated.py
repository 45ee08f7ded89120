"""Gated transformer stages: window attention and a convolutional gated unit (DCAE).

Lu et al. 2025, "Learned Image Compression with Dictionary-based Entropy Model", CVPR, arXiv
2504.00496; the gated unit is that of TransNeXt (Shi 2024).
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount, LayerCount, Ratio
from tcm_lab.blocks.convolutional import depthwise
from tcm_lab.blocks.cost import (
    Cost,
    Kind,
    conv_cost,
    depthwise_cost,
    hidden_width,
    layer_norm_cost,
    linear_cost,
    window_attention_cost,
)
from tcm_lab.blocks.extent import Extent, Extents
from tcm_lab.blocks.registry import BlockConfig, register_block
from tcm_lab.blocks.swin import WindowSide
from tcm_lab.blocks.window_attention import WindowAttention, check_heads


class ConvGlu(nn.Module):
    """GELU(depth-wise 3x3(u)) · v, u and v the halves of a linear layer; then a linear layer back.

    ``hidden`` is the width of u and v together; each has at least one channel.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        half = max(hidden // 2, 1)
        self.expand = nn.Linear(channels, 2 * half)
        self.depthwise = depthwise(half, 3)
        self.gelu = nn.GELU()
        self.project = nn.Linear(half, channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Transform (B, H, W, C)."""
        u, v = self.expand(x).chunk(2, -1)
        gate = self.depthwise(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.project(self.gelu(gate) * v)
        return out

    def extents(self) -> Extents:
        """Return the extents of u and v, one after the other."""
        both = Extent((self.project.in_features,) * 2)
        return {"expand.weight": (both, None), "expand.bias": (both,)}


def conv_glu_cost(channels: int, hidden: int, height: int, width: int) -> Cost:
    """Return the cost of a `ConvGlu`."""
    half, tokens = max(hidden // 2, 1), height * width
    return (
        linear_cost(channels, 2 * half, tokens)
        + depthwise_cost(half, 3, height, width)
        + linear_cost(half, channels, tokens)
    )


class GatedLayer(nn.Module):
    """a ⊙ x + MSA(LN(x)), then b ⊙ x + GLU(LN(x)), a and b learnt for each channel.

    ``hidden`` is the width of the gated unit's first layer; the rest is as in `WindowAttention`.
    """

    def __init__(
        self, channels: int, head_dim: int, window_size: int, hidden: int, *, shifted: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, head_dim, window_size, shifted=shifted)
        self.scale1 = nn.Parameter(torch.ones(channels))
        self.norm2 = nn.LayerNorm(channels)
        self.glu = ConvGlu(channels, hidden)
        self.scale2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Transform (B, H, W, C)."""
        x = self.scale1 * x + self.attention(self.norm1(x))
        out: Tensor = self.scale2 * x + self.glu(self.norm2(x))
        return out


class GatedStage(nn.Module):
    """x + 3x3 convolution of gated layers, every second of which has shifted windows."""

    def __init__(
        self, channels: int, layers: int, head_dim: int, window_size: int, hidden: int
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                GatedLayer(channels, head_dim, window_size, hidden, shifted=i % 2 == 1)
                for i in range(layers)
            )
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W); free of copies if the channels are last in memory."""
        out: Tensor = x + self.conv(self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return out

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that make the block the identity when their weights are zero."""
        return [self.conv]


@register_block("gated-stage")
class GatedStageConfig(BlockConfig):
    """Layers of window attention and gated convolution, then a 3x3 convolution, and a skip.

    Attributes:
        layers: number of layers; every second one shifts its windows.
        window_size: side of an attention window, in tokens.
        head_dim: channels of one attention head.
        mlp_ratio: width of the gated unit's first layer, half of which is the gate, relative to the
            block's.
    """

    layers: Annotated[LayerCount, Field(gt=0)] = 2
    window_size: WindowSide = 8
    head_dim: ChannelCount = 16
    mlp_ratio: Ratio = 4.0

    def check(self, channels: int) -> None:
        check_heads(channels, self.head_dim)

    def build(self, channels: int, index: int) -> nn.Module:
        hidden = hidden_width(channels, self.mlp_ratio)
        return GatedStage(channels, self.layers, self.head_dim, self.window_size, hidden)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        layer = (
            2 * layer_norm_cost(channels, height * width)
            + window_attention_cost(channels, self.head_dim, self.window_size, height, width)
            + conv_glu_cost(channels, hidden_width(channels, self.mlp_ratio), height, width)
            + Cost({}, {Kind.OTHER: 2 * channels})
        )
        return self.layers * layer + conv_cost(channels, channels, 3, height, width)
