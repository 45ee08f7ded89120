"""Purely convolutional blocks: the baselines that a transformer branch has to beat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils import ChannelCount, Ratio
from tcm_lab.blocks.cost import (
    Cost,
    bottleneck_cost,
    conv_cost,
    depthwise_cost,
    hidden_width,
    layer_norm_cost,
    mlp_cost,
    residual_block_cost,
)
from tcm_lab.blocks.registry import BlockConfig, register_block


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(
            f"{kernel} is even, but a kernel has a centre: {kernel - 1} or {kernel + 1} would work"
        )
    return kernel


Between = Literal["leaky-relu", "relu", "gelu"]
BETWEEN: dict[Between, type[nn.Module]] = {
    "leaky-relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}

KernelSide = Annotated[int, Field(ge=1, le=63), AfterValidator(_odd)]


@register_block("residual")
class ResidualConfig(BlockConfig):
    """CompressAI's residual block: two 3x3 convolutions, an activation after each, and a skip.

    Attributes:
        activation: activation after each convolution.
    """

    activation: Between = "leaky-relu"
    later: ClassVar[tuple[str, ...]] = ("activation",)

    def build(self, channels: int, index: int) -> nn.Module:
        block: nn.Module = import_compressai().layers.ResidualBlock(channels, channels)
        set_activation(block, self.activation)
        return block

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return residual_block_cost(channels, height, width)


def set_activation(block: Any, activation: Between) -> None:
    """Replace the leaky ReLU in one of CompressAI's residual blocks by another activation."""
    if activation != "leaky-relu":
        block.leaky_relu = BETWEEN[activation]()


def depthwise(channels: int, kernel: int) -> nn.Conv2d:
    """Build a depth-wise convolution that keeps the size."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


class Skip(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        out: Tensor = x + self.body(x)
        return out

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that make the block the identity when their weights are zero."""
        last = self.body[-1]
        return [last[-1] if isinstance(last, ChannelsLast) else last]


@register_block("residual-bottleneck")
class ResidualBottleneckConfig(BlockConfig):
    """1x1 to fewer channels, 3x3, 1x1 back, ReLU between, and a skip (ELIC, He et al. 2022).

    Attributes:
        reduction: factor by which the 3x3 convolution has fewer channels.
    """

    reduction: ChannelCount = 2

    def _inner(self, channels: int) -> int:
        return max(channels // self.reduction, 1)

    def build(self, channels: int, index: int) -> nn.Module:
        inner = self._inner(channels)
        return Skip(
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return bottleneck_cost(channels, self._inner(channels), height, width)


class ChannelsLast(nn.Sequential):
    """Layers that work on the last dimension, such as `nn.Linear`, over a map's channels."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Transform (B, C, H, W) to (B, D, H, W)."""
        last = x.permute(0, 2, 3, 1)
        for layer in self:
            last = layer(last)
        return last.permute(0, 3, 1, 2)


@register_block("convnext")
class ConvNextConfig(BlockConfig):
    """Depth-wise convolution, layer normalisation, MLP, and a skip (ConvNeXt, Liu et al. 2022).

    Attributes:
        kernel: side of the depth-wise convolution.
        mlp_ratio: width of the hidden layer relative to the block's.
    """

    kernel: KernelSide = 7
    mlp_ratio: Ratio = 4.0

    def build(self, channels: int, index: int) -> nn.Module:
        hidden = hidden_width(channels, self.mlp_ratio)
        return Skip(
            depthwise(channels, self.kernel),
            ChannelsLast(
                nn.LayerNorm(channels),
                nn.Linear(channels, hidden),
                nn.GELU(),
                nn.Linear(hidden, channels),
            ),
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        tokens, hidden = height * width, hidden_width(channels, self.mlp_ratio)
        return (
            depthwise_cost(channels, self.kernel, height, width)
            + layer_norm_cost(channels, tokens)
            + mlp_cost(channels, hidden, tokens)
        )


@register_block("large-kernel")
class LargeKernelConfig(BlockConfig):
    """1x1, a large depth-wise convolution, 1x1, GELU between, and a skip (RepLKNet, Ding 2022).

    Attributes:
        kernel: side of the depth-wise convolution.
    """

    kernel: KernelSide = 13

    def build(self, channels: int, index: int) -> nn.Module:
        return Skip(
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
            depthwise(channels, self.kernel),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        spatial = depthwise_cost(channels, self.kernel, height, width)
        return 2 * conv_cost(channels, channels, 1, height, width) + spatial


class PartialConv(nn.Conv2d):
    """Convolves the first channels and passes the others on (FasterNet, Chen et al. 2023)."""

    def __init__(self, convolved: int, kernel: int) -> None:
        super().__init__(convolved, convolved, kernel, padding=kernel // 2)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        if input.shape[1] == self.in_channels:
            return super().forward(input)
        first = super().forward(input[:, : self.in_channels])
        return torch.cat((first, input[:, self.in_channels :]), 1)


def _inverted(spatial: nn.Module, channels: int, mlp_ratio: float) -> Skip:
    """Return one of HPCM's blocks (Li et al. 2025): a cheap convolution, 1x1 ones, and a skip."""
    hidden = hidden_width(channels, mlp_ratio)
    return Skip(
        spatial,
        nn.Conv2d(channels, hidden, 1),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
    )


def _pointwise_cost(channels: int, mlp_ratio: float, height: int, width: int) -> Cost:
    hidden = hidden_width(channels, mlp_ratio)
    widened = conv_cost(channels, hidden, 1, height, width)
    return widened + conv_cost(hidden, channels, 1, height, width)


@register_block("partial-conv")
class PartialConvConfig(BlockConfig):
    """A convolution of some of the channels, 1x1 convolutions to more and back, and a skip (HPCM).

    Attributes:
        share: share of channels that the spatial convolution works on; rounded down, at least one.
        kernel: side of the spatial convolution.
        mlp_ratio: width between the 1x1 convolutions, relative to the block's; leaky ReLU there.
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
        spatial = conv_cost(c, c, self.kernel, height, width)
        return spatial + _pointwise_cost(channels, self.mlp_ratio, height, width)


@register_block("depthwise-conv")
class DepthwiseConvConfig(BlockConfig):
    """A depth-wise convolution, 1x1 convolutions to more channels and back, and a skip (HPCM).

    Attributes:
        kernel: side of the depth-wise convolution.
        mlp_ratio: width between the 1x1 convolutions, relative to the block's; leaky ReLU there.
    """

    kernel: KernelSide = 3
    mlp_ratio: Ratio = 2.0

    def build(self, channels: int, index: int) -> nn.Module:
        return _inverted(depthwise(channels, self.kernel), channels, self.mlp_ratio)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        spatial = depthwise_cost(channels, self.kernel, height, width)
        return spatial + _pointwise_cost(channels, self.mlp_ratio, height, width)
