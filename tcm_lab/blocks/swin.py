"""The Swin transformer layer, alone as the block `swin` and as a branch of others."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount, Ratio
from tcm_lab.blocks.cost import (
    Cost,
    hidden_width,
    layer_norm_cost,
    mlp_cost,
    window_attention_cost,
)
from tcm_lab.blocks.registry import BlockConfig, register_block
from tcm_lab.blocks.window_attention import WindowAttention, check_heads, portions

WindowSide = Annotated[int, Field(ge=2, le=64)]


class SwinLayer(nn.Module):
    """x + MSA(LN(x)), then x + MLP(LN(x)), over the channels of a feature map (Swin, equation 3).

    Args:
        channels: C, a multiple of ``head_dim``.
        head_dim: channels of one attention head.
        window_size: side of a window, in tokens.
        mlp_ratio: width of the MLP's hidden layer relative to C; its GELU is exact (by erf).
        shifted: whether the windows are moved by half a window.
    """

    def __init__(
        self, channels: int, head_dim: int, window_size: int, mlp_ratio: float, *, shifted: bool
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, mlp_ratio)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, head_dim, window_size, shifted=shifted)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transform (B, C, H, W); free of copies if the channels are last in memory."""
        x = x.permute(0, 2, 3, 1)
        if _can_run_in_portions(self, x):
            x = self._in_portions(x)
        else:
            x = x + self.attention(self.norm1(x))
            x = self.mlp(self.norm2(x)).add_(x)
        return x.permute(0, 3, 1, 2)

    def branch_ends(self) -> list[nn.Module]:
        """Return the layers that make the block the identity when their weights are zero."""
        return [self.attention.proj, self.mlp[-1]]

    def _in_portions(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Run a few windows at a time through the whole layer, so that they stay in the cache."""
        attention, rows = self.attention, x.flatten(0, 2)
        plan = attention.plan(x)
        # One more row than the map has, for the padding.
        out = rows.new_empty(len(rows) + 1, rows.shape[1])
        for windows, bias in portions(plan.groups, attention.bias()):
            source, target = plan.rows_of(windows)
            portion = rows.index_select(0, source)
            tokens = self.norm1(portion).unflatten(0, (-1, plan.tokens))
            portion += attention.portion(tokens, bias).flatten(0, 1)
            portion += self.mlp(self.norm2(portion))
            out.index_copy_(0, target, portion)
        return out[:-1].view(x.shape)


def _can_run_in_portions(layer: nn.Module, x: Tensor) -> bool:
    """Return whether no gradient, counter, compiler or hook needs the layer's parts separately."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules())
    )


def swin_cost(
    channels: int, head_dim: int, window_size: int, mlp_ratio: float, height: int, width: int
) -> Cost:
    """Return the cost of a `SwinLayer`."""
    tokens, hidden = height * width, hidden_width(channels, mlp_ratio)
    return (
        2 * layer_norm_cost(channels, tokens)
        + window_attention_cost(channels, head_dim, window_size, height, width)
        + mlp_cost(channels, hidden, tokens)
    )


@register_block("swin")
class SwinConfig(BlockConfig):
    """Swin transformer block: plain windows, and shifted ones in every second block.

    Attributes:
        window_size: side of an attention window, in tokens.
        head_dim: channels of one attention head.
        mlp_ratio: width of the MLP's hidden layer relative to its input.
        alternate_shift: whether every second block of a stage shifts its windows.
    """

    window_size: WindowSide = 8
    head_dim: ChannelCount = 16
    mlp_ratio: Ratio = 4.0
    alternate_shift: bool = True
    shared: ClassVar[tuple[str, ...]] = ("window_size", "mlp_ratio")

    def check(self, channels: int) -> None:
        check_heads(channels, self.head_dim)

    def build(self, channels: int, index: int) -> nn.Module:
        shifted = self.alternate_shift and index % 2 == 1
        return SwinLayer(channels, self.head_dim, self.window_size, self.mlp_ratio, shifted=shifted)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return swin_cost(channels, self.head_dim, self.window_size, self.mlp_ratio, height, width)
