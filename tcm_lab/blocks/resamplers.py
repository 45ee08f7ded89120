"""Resamplers, first in a stage: they change the channels and, usually, the size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from tcm_lab._compat.onednn import StridedPointwise
from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils import ChannelCount, LayerCount
from tcm_lab.blocks.convolutional import (
    BETWEEN,
    Between,
    ChannelsLast,
    KernelSide,
    ResidualBottleneckConfig,
    set_activation,
)
from tcm_lab.blocks.cost import (
    Cost,
    conv_cost,
    gdn_cost,
    layer_norm_cost,
    linear_cost,
    transposed_conv_cost,
)
from tcm_lab.blocks.registry import ResampleDirection, ResamplerConfig, register_resampler
from tcm_lab.errors import ConfigError

Activation = Literal["none", "relu", "leaky-relu", "gelu", "gdn"]


@register_resampler("none")
class NoResamplerConfig(ResamplerConfig):
    """No resampling: channels and size stay as they are."""

    @property
    def factor(self) -> int:
        return 1

    def check(self, c_in: int, c_out: int) -> None:
        if c_in != c_out:
            raise ConfigError(
                f"resample = none keeps {c_in} channels but the stage has width {c_out}; "
                f"set the width to {c_in} or resample to 'conv' with stride 1"
            )

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        return nn.Identity()

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        return Cost()


@register_resampler("residual")
class ResidualResamplerConfig(ResamplerConfig):
    """CompressAI's residual block with stride (RBS) or with sub-pixel upsampling (RBU), with GDN.

    From Cheng et al. 2020, as TCM uses them.

    Attributes:
        activation: activation after the first convolution.
    """

    activation: Between = "leaky-relu"
    later: ClassVar[tuple[str, ...]] = ("activation",)

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        layers = import_compressai().layers
        if direction == "up":
            block: nn.Module = layers.ResidualBlockUpsample(c_in, c_out, upsample=2)
        else:
            block = layers.ResidualBlockWithStride(c_in, c_out, stride=2)
            block.skip = StridedPointwise(c_in, c_out, 1, stride=2)
        set_activation(block, self.activation)
        return block

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        h, w = self.size_after(direction, height, width)
        second = conv_cost(c_out, c_out, 3, h, w) + gdn_cost(c_out, h, w)
        if direction == "down":
            return conv_cost(c_in, c_out, 3, h, w) + second + conv_cost(c_in, c_out, 1, h, w)
        return 2 * conv_cost(c_in, 4 * c_out, 3, height, width) + second


class EvenConv(nn.Conv2d):
    """A convolution of stride 2 with an even kernel; odd sides are zero-padded to even ones."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W) to (B, C_out, ⌈H/2⌉, ⌈W/2⌉)."""
        return super().forward(_even(input))


def _even(x: Tensor) -> Tensor:
    """Pad odd sides with zeros to even ones, at the right and the bottom."""
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    return x


@register_resampler("conv")
class ConvResamplerConfig(ResamplerConfig):
    """One convolution, strided or sub-pixel or transposed, and an activation after it.

    Attributes:
        kernel: side of the convolution; an even one needs stride 2 and upsample ``transposed``.
        stride: 2 halves or doubles the sides, 1 keeps them.
        upsample: how sides are enlarged: ``subpixel`` or ``transposed``.
        activation: activation after the convolution; ``gdn`` is inverse if sides are enlarged.
    """

    kernel: Annotated[int, Field(ge=1, le=63)] = 3
    stride: Literal[1, 2] = 2
    upsample: Literal["subpixel", "transposed"] = "subpixel"
    activation: Activation = "none"

    @model_validator(mode="before")
    @classmethod
    def _even_kernels_enlarge_transposed(cls, value: Any) -> Any:
        kernel = value.get("kernel") if isinstance(value, Mapping) else None
        if isinstance(kernel, int) and kernel % 2 == 0:
            return {"upsample": "transposed", **value}
        return value

    @model_validator(mode="after")
    def _even_kernels_have_no_centre(self) -> ConvResamplerConfig:
        k = self.kernel
        if k % 2 == 0 and (self.stride == 1 or self.upsample == "subpixel"):
            raise ConfigError(
                f"kernel = {k} is even, which needs stride 2 and upsample transposed; "
                f"{k - 1} or {k + 1} would work"
            )
        return self

    @property
    def factor(self) -> int:
        return self.stride

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        k, s = self.kernel, self.stride
        pad, rest = (k - 1) // 2, k % 2  # an even kernel has no odd rest
        layers: list[nn.Module]
        if direction == "down" or s == 1:
            kind = nn.Conv2d if rest else EvenConv
            if k == 1 and s > 1:
                kind = StridedPointwise
            layers = [kind(c_in, c_out, k, stride=s, padding=pad)]
        elif self.upsample == "subpixel":
            layers = [nn.Conv2d(c_in, s**2 * c_out, k, padding=pad), nn.PixelShuffle(s)]
        else:
            layers = [
                nn.ConvTranspose2d(c_in, c_out, k, stride=s, padding=pad, output_padding=rest)
            ]
        if self.activation == "gdn":
            layers.append(import_compressai().layers.GDN(c_out, inverse=direction == "up"))
        elif self.activation != "none":
            layers.append(BETWEEN[self.activation]())
        return nn.Sequential(*layers)

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        k, s = self.kernel, self.stride
        h, w = self.size_after(direction, height, width)
        if direction == "down" or s == 1:
            cost = conv_cost(c_in, c_out, k, h, w)
        elif self.upsample == "subpixel":
            cost = conv_cost(c_in, s**2 * c_out, k, height, width)
        else:
            cost = transposed_conv_cost(c_in, c_out, k, s, height, width)
        return cost + gdn_cost(c_out, h, w) if self.activation == "gdn" else cost


class PatchMerge(nn.Module):
    """Merges each 2x2 patch: concatenates its channels, normalises, and projects to C_out."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.merge = ChannelsLast(nn.LayerNorm(4 * c_in), nn.Linear(4 * c_in, c_out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W) to (B, C_out, H/2, W/2); odd sides are padded with zeros."""
        out: Tensor = self.merge(F.pixel_unshuffle(_even(x), 2))
        return out


@register_resampler("patch")
class PatchResamplerConfig(ResamplerConfig):
    """Patch merging and splitting of Swin codecs (Zou et al. 2022; Zhu et al. 2022).

    Splitting normalises each position and spreads it over a 2x2 patch by one linear layer.
    """

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        if direction == "down":
            return PatchMerge(c_in, c_out)
        spread = ChannelsLast(nn.LayerNorm(c_in), nn.Linear(c_in, 4 * c_out))
        return nn.Sequential(spread, nn.PixelShuffle(2))

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        if direction == "down":
            tokens = -(-height // 2) * -(-width // 2)
            return layer_norm_cost(4 * c_in, tokens) + linear_cost(4 * c_in, c_out, tokens)
        tokens = height * width
        return layer_norm_cost(c_in, tokens) + linear_cost(c_in, 4 * c_out, tokens)


class Bottlenecks(nn.Module):
    """Residual bottlenecks at the resampler's smaller side: after a convolution, or before one."""

    def __init__(
        self, conv: nn.Module, blocks: list[nn.Module], direction: ResampleDirection
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = conv  # last: the layer that a linear start sets to zero
        self.direction = direction

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W)."""
        down = self.direction == "down"
        out: Tensor = self.blocks(self.conv(x)) if down else self.conv(self.blocks(x))
        return out


@register_resampler("bottlenecks")
class BottlenecksConfig(ResamplerConfig):
    """A strided or transposed convolution with residual bottlenecks at its smaller side (DCAE).

    Attributes:
        kernel: side of the convolution.
        blocks: number of bottlenecks.
        reduction: factor by which their 3x3 convolutions have fewer channels.
    """

    kernel: KernelSide = 5
    blocks: Annotated[LayerCount, Field(gt=0)] = 3
    reduction: ChannelCount = 2

    @property
    def _parts(self) -> tuple[ConvResamplerConfig, ResidualBottleneckConfig]:
        conv = ConvResamplerConfig(type="conv", kernel=self.kernel, upsample="transposed")
        block = ResidualBottleneckConfig(type="residual-bottleneck", reduction=self.reduction)
        return conv, block

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        conv, block = self._parts
        width = c_out if direction == "down" else c_in
        blocks = [block.build(width, i) for i in range(self.blocks)]
        return Bottlenecks(conv.build(c_in, c_out, direction), blocks, direction)

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        conv, block = self._parts
        cost = conv.cost(c_in, c_out, direction, height, width)
        if direction == "down":
            return cost + self.blocks * block.cost(c_out, *self.size_after("down", height, width))
        return cost + self.blocks * block.cost(c_in, height, width)
