"""The mixed transformer-CNN block of TCM (Liu et al. 2023, section 3.2), parallel or sequential."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.blocks.cost import Cost, conv_cost, residual_block_cost
from tcm_lab.blocks.extent import Extent, Extents
from tcm_lab.blocks.registry import register_block
from tcm_lab.blocks.swin import SwinConfig
from tcm_lab.errors import ConfigError, one_of


class ConvBranch(nn.Module):
    """CompressAI's residual block inside another skip, as in the authors' code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = import_compressai().layers.ResidualBlock(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        out: Tensor = self.block(x).add_(x)
        return out


class TcmBlock(nn.Module):
    """1x1, then a convolution and a transformer branch on a share of the channels each, 1x1, skip.

    The branches are parallel (Liu et al. 2023, figure 4), or, for comparison at the same
    cost, one after the other: the convolution branch, the 1x1 that mixes the channels, then the
    transformer branch ``swin``, which works on the last channels. A branch without channels is not
    built.
    """

    def __init__(
        self,
        channels: int,
        transformer_channels: int,
        swin: nn.Module | None,
        *,
        sequential: bool = False,
    ) -> None:
        super().__init__()
        self.widths = (channels - transformer_channels, transformer_channels)
        self.sequential = sequential
        self.mix_in = nn.Conv2d(channels, channels, 1)
        self.conv = ConvBranch(self.widths[0]) if self.widths[0] else None
        self.swin = swin
        self.mix_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        if self.sequential:
            mixed = self._branches(self.mix_in(x), self.conv, None)
            return x + self._branches(self.mix_out(mixed), None, self.swin)
        mixed = self._branches(self.mix_in(x), self.conv, self.swin)
        out: Tensor = self.mix_out(mixed).add_(x)
        return out

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that make the block the identity when their weights are zero."""
        return [self.mix_out]

    def extents(self) -> Extents:
        """Return the extents of the branches' channels between the two 1x1 convolutions."""
        mixed = Extent(self.widths)
        return {
            "mix_in.weight": (mixed, None, None, None),
            "mix_in.bias": (mixed,),
            "mix_out.weight": (None, mixed, None, None),
        }

    def _branches(self, x: Tensor, conv: nn.Module | None, swin: nn.Module | None) -> Tensor:
        """Apply each branch to its channels; those of a branch that is None stay as they are."""
        local: Tensor
        distant: Tensor
        local, distant = x.split(self.widths, 1)
        if conv is not None:
            local = conv(local)
        if swin is not None:
            distant = swin(distant)
        if not self.widths[0]:
            return distant
        return torch.cat((local, distant), 1) if self.widths[1] else local


@register_block("tcm")
class TcmConfig(SwinConfig):
    """TCM block, the paper's parallel split; its stages I and II are a stage's even and odd blocks.

    Attributes:
        split: share of the channels that go to the transformer branch; 0 builds no transformer
            branch, 1 no convolution branch.
    """

    sequential: ClassVar[bool] = False
    shared: ClassVar[tuple[str, ...]] = ("split", *SwinConfig.shared)
    split: Annotated[float, Field(ge=0, le=1)] = 0.5

    def transformer_channels(self, channels: int) -> int:
        """Return how many of ``channels`` go to the transformer branch."""
        return round(self.split * channels)

    def check(self, channels: int) -> None:
        wide = self.transformer_channels(channels)
        if abs(wide - self.split * channels) > 1e-6 or wide % self.head_dim:
            below = int(self.split * channels) // self.head_dim * self.head_dim
            fits = [n for n in (below, below + self.head_dim) if n <= channels]
            raise ConfigError(
                f"split = {self.split:g} of {channels} channels is "
                f"{self.split * channels:g}, not whole heads of {self.head_dim}; "
                f"nearest that work: {one_of(f'{n / channels:.12g}' for n in fits)} "
                "(or another head_dim)"
            )

    def build(self, channels: int, index: int) -> nn.Module:
        wide = self.transformer_channels(channels)
        swin = super().build(wide, index) if wide else None
        return TcmBlock(channels, wide, swin, sequential=self.sequential)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        wide = self.transformer_channels(channels)
        cost = 2 * conv_cost(channels, channels, 1, height, width)
        if wide < channels:
            cost += residual_block_cost(channels - wide, height, width)
        if wide:
            cost += super().cost(wide, height, width)
        return cost


@register_block("tcm-sequential")
class SequentialTcmConfig(TcmConfig):
    """The TCM block's parts one after the other, at exactly the parallel block's cost.

    Attributes:
        split: share of the channels that the transformer branch works on; the convolution
            branch works on the others, and a 1x1 convolution in between mixes all of them.
    """

    sequential: ClassVar[bool] = True
