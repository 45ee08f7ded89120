"""Attention modules, used once: in the entropy model's slices, or after a stage."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._utils import NONE_AS_WORD, ChannelCount, Ratio
from tcm_lab.blocks.cost import Cost, bottleneck_cost, conv_cost, window_attention_cost
from tcm_lab.blocks.registry import AttentionConfig, register_attention
from tcm_lab.blocks.swin import SwinLayer, WindowSide, swin_cost
from tcm_lab.blocks.window_attention import WindowAttention, check_heads
from tcm_lab.errors import ConfigError, one_of

_Share = Annotated[float, Field(gt=0, le=1)]


@register_attention("none")
class NoAttentionConfig(AttentionConfig):
    """No attention: the input is the output."""

    def build(self, channels: int) -> nn.Module:
        return nn.Identity()

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return Cost()


class WithSkip(nn.Module):
    """x + attend(x).

    Args:
        attend: an attention module that keeps channels and size.
        ends: names of its layers that make the whole the identity when their weights are zero.
    """

    def __init__(self, attend: nn.Module, *ends: str) -> None:
        super().__init__()
        self.attend = attend
        self.ends = ends

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        out: Tensor = x + self.attend(x)
        return out

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that make the module the identity when their weights are zero."""
        return [self.attend.get_submodule(name) for name in self.ends]


class ResidualUnit(nn.Module):
    """ReLU(x + 1x1(3x3(1x1(x)))), with half the channels between, or one (Cheng et al. 2020).

    CompressAI's own is a class inside a function, which cannot be pickled.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 1),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        out: Tensor = self.relu(self.conv(x).add_(x))
        return out


class GatedAttention(nn.Module):
    """x + conv_a(x) · sigmoid(conv_b(x)): CompressAI's attention block, and the base of others.

    Each branch has three residual units; the gate's ends in a 1x1 convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(
            *(ResidualUnit(channels) for _ in range(3)), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        out: Tensor = x + self.conv_a(x) * self.gate(x)
        return out

    def gate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the gate in (0, 1)."""
        return torch.sigmoid(self.conv_b(x))


def gated_cost(channels: int, height: int, width: int) -> Cost:
    """Return the cost of a `GatedAttention`'s branches."""
    unit = bottleneck_cost(channels, max(channels // 2, 1), height, width)
    return 6 * unit + conv_cost(channels, channels, 1, height, width)


@register_attention("residual-attention")
class ResidualAttentionConfig(AttentionConfig):
    """CompressAI's convolutional attention block (simplified from Cheng et al. 2020)."""

    def build(self, channels: int) -> nn.Module:
        return GatedAttention(channels)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return gated_cost(channels, height, width)


class SwinGatedAttention(GatedAttention):
    """SWAtten: x squeezed to K channels, gated by the output of two Swin layers, and widened.

    t = 1x1(x); t + conv_a(t) · sigmoid(conv_b(swin(t))); 1x1 back (Liu et al. 2023, figure 6;
    conv_a and conv_b are the branches of CompressAI's attention block). There is no skip around
    the squeeze. ``inner`` is K; the other arguments are those of `SwinLayer`.
    """

    def __init__(
        self, channels: int, inner: int, head_dim: int, window_size: int, mlp_ratio: float
    ) -> None:
        super().__init__(inner)
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.swin = nn.Sequential(
            *(
                SwinLayer(inner, head_dim, window_size, mlp_ratio, shifted=shifted)
                for shifted in (False, True)
            )
        )
        self.widen = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W)."""
        out: Tensor = self.widen(super().forward(self.squeeze(x)))
        return out

    def gate(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Return the gate in (0, 1) that the Swin layers compute from the squeezed input."""
        return super().gate(self.swin(x))


@register_attention("swatten")
class SwAttenConfig(AttentionConfig):
    """SWAtten, the channel-squeezed Swin attention of TCM's entropy model.

    Attributes:
        squeeze: the inner width K; or its ratio to the input width, in (0, 1], rounded to whole
            heads; or ``none`` to work at the input's own width.
        window_size: side of an attention window, in tokens.
        head_dim: channels of one attention head.
        mlp_ratio: width of the MLPs' hidden layer relative to K.
    """

    squeeze: Annotated[ChannelCount | _Share | None, NONE_AS_WORD] = 128
    window_size: WindowSide = 8
    head_dim: ChannelCount = 16
    mlp_ratio: Ratio = 4.0
    shared: ClassVar[tuple[str, ...]] = ("squeeze", "window_size", "mlp_ratio")

    def inner(self, channels: int) -> int:
        """Return K for an input of ``channels``."""
        if self.squeeze is None:
            return channels
        if isinstance(self.squeeze, int):
            return self.squeeze
        heads = max(round(self.squeeze * channels / self.head_dim), 1)
        return heads * self.head_dim

    def check(self, channels: int) -> None:
        inner = self.inner(channels)
        if inner % self.head_dim == 0:
            return
        if self.squeeze is None:
            check_heads(inner, self.head_dim)
        below = inner // self.head_dim * self.head_dim
        fits = [n for n in (below, below + self.head_dim) if n]
        raise ConfigError(
            f"squeeze = {self.squeeze} is not whole heads of {self.head_dim}; "
            f"nearest that work: {one_of(fits)} (or another head_dim)"
        )

    def build(self, channels: int) -> nn.Module:
        return SwinGatedAttention(
            channels, self.inner(channels), self.head_dim, self.window_size, self.mlp_ratio
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        inner = self.inner(channels)
        swin = swin_cost(inner, self.head_dim, self.window_size, self.mlp_ratio, height, width)
        return (
            conv_cost(channels, inner, 1, height, width)
            + 2 * swin
            + gated_cost(inner, height, width)
            + conv_cost(inner, channels, 1, height, width)
        )


class WindowGatedAttention(GatedAttention):
    """x + conv_a(x) · sigmoid(conv_b(x + MSA(x))), as WACNN places it (Zou et al. 2022)."""

    def __init__(self, channels: int, head_dim: int, window_size: int, *, shifted: bool) -> None:
        super().__init__(channels)
        self.attention = WindowAttention(channels, head_dim, window_size, shifted=shifted)

    def gate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the gate in (0, 1), computed from the input and its attention."""
        attended = self.attention(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return super().gate(x + attended)


@register_attention("window-attention")
class WindowAttentionConfig(AttentionConfig):
    """Window attention inside a convolutional gate, without normalisation or MLP (WACNN).

    Attributes:
        window_size: side of an attention window, in tokens.
        head_dim: channels of one attention head.
        shift: ``half`` moves the windows by half a window, ``none`` does not.
    """

    window_size: WindowSide = 8
    head_dim: ChannelCount = 16
    shift: Literal["half", "none"] = "half"

    def check(self, channels: int) -> None:
        check_heads(channels, self.head_dim)

    def build(self, channels: int) -> nn.Module:
        return WindowGatedAttention(
            channels, self.head_dim, self.window_size, shifted=self.shift == "half"
        )

    def cost(self, channels: int, height: int, width: int) -> Cost:
        attention = window_attention_cost(channels, self.head_dim, self.window_size, height, width)
        return attention + gated_cost(channels, height, width)
