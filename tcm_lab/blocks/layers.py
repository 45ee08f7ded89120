"""CompressAI's layers, from the one place that imports them, and what they cost."""

from __future__ import annotations

from tcm_lab._foundation.torchvision_shim import declare_missing_operators
from tcm_lab.blocks.cost import Cost, conv_cost

declare_missing_operators()

from compressai.layers import (  # noqa: E402  # the shim must come first
    GDN,
    AttentionBlock,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv3x3,
    subpel_conv3x3,
)

__all__ = [
    "GDN",
    "AttentionBlock",
    "ResidualBlock",
    "ResidualBlockUpsample",
    "ResidualBlockWithStride",
    "conv3x3",
    "gated_branch_costs",
    "residual_block_cost",
    "subpel_conv3x3",
]


def residual_block_cost(channels: int, height: int, width: int) -> Cost:
    """Cost of a `ResidualBlock` that keeps its channels: two 3x3 convolutions."""
    return 2 * conv_cost(channels, channels, 3, height, width)


def gated_branch_costs(channels: int, height: int, width: int) -> tuple[Cost, Cost]:
    """Costs of `AttentionBlock`'s two branches: three units, and three units with a 1x1 on top."""
    half = channels // 2
    unit = (
        conv_cost(channels, half, 1, height, width)
        + conv_cost(half, half, 3, height, width)
        + conv_cost(half, channels, 1, height, width)
    )
    return 3 * unit, 3 * unit + conv_cost(channels, channels, 1, height, width)
