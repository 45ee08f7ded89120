"""A cheap spatial convolution, then 1x1 convolutions to more channels and back, and a skip.

The blocks of HPCM (Li et al. 2025, "Learned image compression with hierarchical progressive context
modeling"). What makes the spatial convolution cheap is that it leaves out channels, or mixes none.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._utils import Ratio
from tcm_lab.blocks.convolutional import KernelSide, Skip
from tcm_lab.blocks.cost import Cost, conv_cost
from tcm_lab.blocks.registry import BlockConfig, register_block


class PartialConv(nn.Conv2d):
    """Convolves the first channels and passes the others on (FasterNet, Chen et al. 2023).

    Args:
        convolved: how many channels it convolves.
        kernel: side of the convolution.
    """

    def __init__(self, convolved: int, kernel: int) -> None:
        super().__init__(convolved, convolved, kernel, padding=kernel // 2)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        if input.shape[1] == self.in_channels:
            return super().forward(input)
        first = super().forward(input[:, : self.in_channels])
        return torch.cat((first, input[:, self.in_channels :]), 1)


def _inverted(spatial: nn.Module, channels: int, mlp_ratio: float) -> Skip:
    hidden = round(mlp_ratio * channels)
    return Skip(
        spatial,
        nn.Conv2d(channels, hidden, 1),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
    )


def _pointwise_cost(channels: int, mlp_ratio: float, height: int, width: int) -> Cost:
    hidden = round(mlp_ratio * channels)
    return conv_cost(channels, hidden, 1, height, width) + conv_cost(
        hidden, channels, 1, height, width
    )


@register_block("partial-conv")
class PartialConvConfig(BlockConfig):
    """A convolution of some of the channels, 1x1 convolutions to more and back, and a skip (HPCM).

    Attributes:
        share: of the channels, which the spatial convolution works on; rounded down, at least one.
        kernel: side of the spatial convolution.
        mlp_ratio: width between the 1x1 convolutions over the block's; leaky ReLU there.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    kernel: KernelSide = 3
    mlp_ratio: Ratio = 4.0

    def _convolved(self, channels: int) -> int:
        return max(int(self.share * channels), 1)

    def build(self, channels: int, index: int) -> nn.Module:
        spatial = PartialConv(self._convolved(channels), self.kernel)
        return _inverted(spatial, channels, self.mlp_ratio)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        c = self._convolved(channels)
        return conv_cost(c, c, self.kernel, height, width) + _pointwise_cost(
            channels, self.mlp_ratio, height, width
        )


@register_block("depthwise-conv")
class DepthwiseConvConfig(BlockConfig):
    """A depth-wise convolution, 1x1 convolutions to more channels and back, and a skip (HPCM).

    Attributes:
        kernel: side of the depth-wise convolution.
        mlp_ratio: width between the 1x1 convolutions over the block's; leaky ReLU there.
    """

    kernel: KernelSide = 3
    mlp_ratio: Ratio = 2.0

    def build(self, channels: int, index: int) -> nn.Module:
        spatial = nn.Conv2d(
            channels, channels, self.kernel, padding=self.kernel // 2, groups=channels
        )
        return _inverted(spatial, channels, self.mlp_ratio)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return conv_cost(
            channels, channels, self.kernel, height, width, groups=channels
        ) + _pointwise_cost(channels, self.mlp_ratio, height, width)
