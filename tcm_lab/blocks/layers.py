"""CompressAI's layers, imported when they are first built, and what they cost."""

from __future__ import annotations

from typing import Any

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.blocks.cost import Cost, conv_cost


def compressai() -> Any:
    """Return CompressAI with its layers, imported when something is first built.

    Its import takes longer than torch's, and configurations and cost formulas do without it.
    """
    return import_compressai()


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
