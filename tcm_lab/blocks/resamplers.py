"""Resamplers, first in a stage: they change the channels and, usually, the size."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab._compat.onednn import StridedPointwise
from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.blocks.convolutional import KernelSide
from tcm_lab.blocks.cost import Cost, conv_cost, gdn_cost, layer_norm_cost, linear_cost
from tcm_lab.blocks.registry import ResampleDirection, ResamplerConfig, register_resampler
from tcm_lab.errors import ConfigError

Activation = Literal["none", "relu", "leaky-relu", "gelu", "gdn"]


@register_resampler("none")
class NoResamplerConfig(ResamplerConfig):
    """Nothing: channels and size stay."""

    @property
    def factor(self) -> int:
        """One: the size stays."""
        return 1

    def check(self, c_in: int, c_out: int) -> None:
        """Refuse to change the channels."""
        if c_in != c_out:
            raise ConfigError(
                f"resample = none keeps {c_in} channels but the stage has width {c_out}; "
                f"set the width to {c_in} or resample to 'conv' with stride 1"
            )

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        """Build nothing that computes."""
        return nn.Identity()

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        """Cost nothing."""
        return Cost()


@register_resampler("residual")
class ResidualResamplerConfig(ResamplerConfig):
    """CompressAI's residual block with stride (RBS) or with sub-pixel upsampling (RBU), with GDN.

    From Cheng et al. 2020, where TCM takes them from.
    """

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        """Build RBS to shrink, RBU to enlarge."""
        layers = import_compressai().layers
        if direction == "up":
            enlarging: nn.Module = layers.ResidualBlockUpsample(c_in, c_out, upsample=2)
            return enlarging
        block: nn.Module = layers.ResidualBlockWithStride(c_in, c_out, stride=2)
        block.skip = StridedPointwise(c_in, c_out, 1, stride=2)
        return block

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        """Cost on an input of ``height`` x ``width``."""
        if direction == "down":
            h, w = -(-height // 2), -(-width // 2)
            return (
                conv_cost(c_in, c_out, 3, h, w)
                + conv_cost(c_out, c_out, 3, h, w)
                + gdn_cost(c_out, h, w)
                + conv_cost(c_in, c_out, 1, h, w)
            )
        h, w = 2 * height, 2 * width
        return (
            2 * conv_cost(c_in, 4 * c_out, 3, height, width)
            + conv_cost(c_out, c_out, 3, h, w)
            + gdn_cost(c_out, h, w)
        )


@register_resampler("conv")
class ConvResamplerConfig(ResamplerConfig):
    """One convolution, strided or sub-pixel or transposed, and an activation behind it.

    Attributes:
        kernel: side of the convolution.
        stride: 2 halves or doubles the sides, 1 keeps them.
        upsample: how sides are enlarged: ``subpixel`` or ``transposed``.
        activation: what follows; ``gdn`` is inverse where sides are enlarged.
    """

    kernel: KernelSide = 3
    stride: Literal[1, 2] = 2
    upsample: Literal["subpixel", "transposed"] = "subpixel"
    activation: Activation = "none"

    @property
    def factor(self) -> int:
        """The stride."""
        return self.stride

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        """Build the convolution and its activation."""
        k, s = self.kernel, self.stride
        layers: list[nn.Module]
        if direction == "down" or s == 1:
            layers = [nn.Conv2d(c_in, c_out, k, stride=s, padding=k // 2)]
        elif self.upsample == "subpixel":
            layers = [nn.Conv2d(c_in, s**2 * c_out, k, padding=k // 2), nn.PixelShuffle(s)]
        else:
            layers = [
                nn.ConvTranspose2d(c_in, c_out, k, stride=s, padding=k // 2, output_padding=s - 1)
            ]
        layers += self._activation(c_out, direction)
        return nn.Sequential(*layers)

    def _activation(self, channels: int, direction: ResampleDirection) -> list[nn.Module]:
        if self.activation == "gdn":
            return [import_compressai().layers.GDN(channels, inverse=direction == "up")]
        modules: dict[str, type[nn.Module]] = {
            "relu": nn.ReLU,
            "leaky-relu": nn.LeakyReLU,
            "gelu": nn.GELU,
        }
        return [modules[self.activation]()] if self.activation != "none" else []

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        """Cost on an input of ``height`` x ``width``."""
        k, s = self.kernel, self.stride
        if direction == "down" or s == 1:
            h, w = -(-height // s), -(-width // s)
            cost = conv_cost(c_in, c_out, k, h, w)
        else:
            h, w = s * height, s * width
            if self.upsample == "subpixel":
                cost = conv_cost(c_in, s**2 * c_out, k, height, width)
            else:  # every input position spreads its kernel over the output
                one = conv_cost(c_in, c_out, k, height, width)
                cost = Cost(one.macs, one.parameters, c_out * h * w)
        return cost + gdn_cost(c_out, h, w) if self.activation == "gdn" else cost


class PatchMerge(nn.Module):
    """Each 2x2 patch's channels side by side, normalised, to C_out by one linear layer."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * c_in)
        self.linear = nn.Linear(4 * c_in, c_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W) to (B, C_out, H/2, W/2); odd sides are padded by zeros."""
        if x.shape[-2] % 2 or x.shape[-1] % 2:
            x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
        patches = F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1)
        out: Tensor = self.linear(self.norm(patches)).permute(0, 3, 1, 2)
        return out


class PatchSplit(nn.Module):
    """Each position normalised, spread by one linear layer over a 2x2 patch."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c_in)
        self.linear = nn.Linear(c_in, 4 * c_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform (B, C_in, H, W) to (B, C_out, 2H, 2W)."""
        spread = self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return F.pixel_shuffle(spread, 2)


@register_resampler("patch")
class PatchResamplerConfig(ResamplerConfig):
    """Patch merging and splitting of Swin codecs (Zou et al. 2022; Zhu et al. 2022)."""

    def build(self, c_in: int, c_out: int, direction: ResampleDirection) -> nn.Module:
        """Build merging to shrink, splitting to enlarge."""
        return PatchMerge(c_in, c_out) if direction == "down" else PatchSplit(c_in, c_out)

    def cost(
        self, c_in: int, c_out: int, direction: ResampleDirection, height: int, width: int
    ) -> Cost:
        """Cost on an input of ``height`` x ``width``."""
        if direction == "down":
            tokens = -(-height // 2) * -(-width // 2)
            return layer_norm_cost(4 * c_in, tokens) + linear_cost(4 * c_in, c_out, tokens)
        tokens = height * width
        return layer_norm_cost(c_in, tokens) + linear_cost(c_in, 4 * c_out, tokens)
