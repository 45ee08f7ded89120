"""Layers and blocks, one idea a file, and the registries that name them."""

from tcm_lab._utils.plugins import import_installed_layers
from tcm_lab.blocks import attention, convolutional, resamplers, swin, tcm  # they register
from tcm_lab.blocks.cost import Cost, Kind
from tcm_lab.blocks.registry import (
    ATTENTIONS,
    BLOCKS,
    RESAMPLERS,
    AttentionConfig,
    BlockConfig,
    Direction,
    LayerConfig,
    NoFormula,
    Registry,
    ResamplerConfig,
    register_attention,
    register_block,
    register_resampler,
)
from tcm_lab.blocks.window_attention import WindowAttention

__all__ = [
    "ATTENTIONS",
    "BLOCKS",
    "RESAMPLERS",
    "AttentionConfig",
    "BlockConfig",
    "Cost",
    "Direction",
    "Kind",
    "LayerConfig",
    "NoFormula",
    "Registry",
    "ResamplerConfig",
    "WindowAttention",
    "attention",
    "convolutional",
    "register_attention",
    "register_block",
    "register_resampler",
    "resamplers",
    "swin",
    "tcm",
]

import_installed_layers()
