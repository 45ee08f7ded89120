"""Blocks of convolutions alone: the baselines that a transformer branch has to beat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils import ChannelCount, Ratio
from tcm_lab.blocks.cost import (
    Cost,
    bottleneck_cost,
    conv_cost,
    layer_norm_cost,
    mlp_cost,
    residual_block_cost,
)
from tcm_lab.blocks.registry import BlockConfig, register_block


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(
            f"{kernel} is even, and a kernel has a centre: {kernel - 1} or {kernel + 1} would work"
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
    """CompressAI's residual block: two 3x3 convolutions, an activation behind each, and a skip.

    Attributes:
        activation: what follows each convolution.
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
    """Give one of CompressAI's residual blocks, which have a leaky ReLU, another activation."""
    if activation != "leaky-relu":
        block.leaky_relu = BETWEEN[activation]()


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
        """Return the layers whose zero makes the block the identity."""
        last = self.body[-1]
        return [last[-1] if isinstance(last, ChannelsLast) else last]


@register_block("residual-bottleneck")
class ResidualBottleneckConfig(BlockConfig):
    """1x1 to fewer channels, 3x3, 1x1 back, ReLU between, and a skip (ELIC, He et al. 2022).

    Attributes:
        reduction: how many times fewer channels the 3x3 convolution works on.
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
        mlp_ratio: width of the hidden layer over the block's.
    """

    kernel: KernelSide = 7
    mlp_ratio: Ratio = 4.0

    def build(self, channels: int, index: int) -> nn.Module:
        hidden = round(self.mlp_ratio * channels)
        return Skip(
            nn.Conv2d(channels, channels, self.kernel, padding=self.kernel // 2, groups=channels),
            ChannelsLast(
                nn.LayerNorm(channels),
                nn.Linear(channels, hidden),
                nn.GELU(),
                nn.Linear(hidden, channels),
            ),
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        tokens, hidden = height * width, round(self.mlp_ratio * channels)
        return (
            conv_cost(channels, channels, self.kernel, height, width, groups=channels)
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
            nn.Conv2d(channels, channels, self.kernel, padding=self.kernel // 2, groups=channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return 2 * conv_cost(channels, channels, 1, height, width) + conv_cost(
            channels, channels, self.kernel, height, width, groups=channels
        )
