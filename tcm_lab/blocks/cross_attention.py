"""Window attention from one map to another, such as an earlier context."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount
from tcm_lab.blocks.cost import Cost, conv_cost, window_products_cost
from tcm_lab.blocks.registry import AttentionConfig, register_attention
from tcm_lab.blocks.swin import WindowSide
from tcm_lab.blocks.window_attention import attend, check_heads
from tcm_lab.blocks.windows import window_plan


class WindowCrossAttention(nn.Module):
    """1x1(x) + softmax(q·kᵀ / √d) · v in each window, q from x, k and v from another map.

    HPCM's context fusion (Li et al. 2025): no position bias, no shift, and no layer after the
    attention. Maps of any size are accepted: the padding of a partial window is never attended to.
    The arguments are those of `WindowAttention`.
    """

    def __init__(self, channels: int, head_dim: int, window_size: int) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.window_size = window_size
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.skip = nn.Conv2d(channels, channels, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Attend from (B, C, H, W) to ``other``, or to itself."""
        other = x if other is None else other
        qkv = torch.cat((self.query(x), self.key(other), self.value(other)), 1)
        qkv = qkv.permute(0, 2, 3, 1)
        batch, height, width, _ = qkv.shape
        plan = window_plan(int(batch), (int(height), int(width)), self.window_size, 0, x.device)
        tokens = self.window_size**2
        bias = qkv.new_zeros(()).expand(self.heads, tokens, tokens)
        attended = plan.join(attend(plan.cut(qkv), bias, plan), (int(height), int(width)))
        out: Tensor = attended.permute(0, 3, 1, 2) + self.skip(x)
        return out


def cross_attention_cost(
    channels: int, head_dim: int, window_size: int, height: int, width: int
) -> Cost:
    """Return the cost of a `WindowCrossAttention` on maps of ``height`` x ``width``."""
    products = window_products_cost(channels, head_dim, window_size, height, width)
    return 4 * conv_cost(channels, channels, 1, height, width) + products


@register_attention("window-cross-attention")
class WindowCrossAttentionConfig(AttentionConfig):
    """HPCM's window attention between two contexts; here from a map to itself.

    Attributes:
        window_size: side of an attention window, in tokens.
        head_dim: channels of one attention head.
    """

    window_size: WindowSide = 8
    head_dim: ChannelCount = 16

    def check(self, channels: int) -> None:
        check_heads(channels, self.head_dim)

    def build(self, channels: int) -> nn.Module:
        return WindowCrossAttention(channels, self.head_dim, self.window_size)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return cross_attention_cost(channels, self.head_dim, self.window_size, height, width)
