"""Layers and blocks, one idea per file, their costs, and the registries that name them."""

from tcm_lab._utils.plugins import import_installed_layers
from tcm_lab.blocks.attention import SwinGatedAttention
from tcm_lab.blocks.convolutional import PartialConv
from tcm_lab.blocks.cost import Cost, Kind, conv_cost, linear_cost
from tcm_lab.blocks.cross_attention import WindowCrossAttention
from tcm_lab.blocks.dictionary import DictionaryAttention
from tcm_lab.blocks.extent import Extent, Extents
from tcm_lab.blocks.gated import GatedStage
from tcm_lab.blocks.linear_attention import GlobalAttention
from tcm_lab.blocks.overlapped_windows import OverlappedWindowAttention
from tcm_lab.blocks.registry import (
    ATTENTIONS,
    BLOCKS,
    FINGERPRINT,
    RESAMPLERS,
    AnyAttention,
    AnyBlock,
    AnyResampler,
    AttentionConfig,
    BlockConfig,
    LayerConfig,
    LayerRegistry,
    NoFormula,
    ResampleDirection,
    ResamplerConfig,
    register_attention,
    register_block,
    register_resampler,
)
from tcm_lab.blocks.resamplers import ConvResamplerConfig
from tcm_lab.blocks.swin import SwinLayer
from tcm_lab.blocks.tcm import ConvBranch, TcmBlock
from tcm_lab.blocks.window_attention import WindowAttention
from tcm_lab.blocks.windows import WindowPlan

__all__ = [
    "ATTENTIONS",
    "BLOCKS",
    "FINGERPRINT",
    "RESAMPLERS",
    "AnyAttention",
    "AnyBlock",
    "AnyResampler",
    "AttentionConfig",
    "BlockConfig",
    "ConvBranch",
    "ConvResamplerConfig",
    "Cost",
    "DictionaryAttention",
    "Extent",
    "Extents",
    "GatedStage",
    "GlobalAttention",
    "Kind",
    "LayerConfig",
    "LayerRegistry",
    "NoFormula",
    "OverlappedWindowAttention",
    "PartialConv",
    "ResampleDirection",
    "ResamplerConfig",
    "SwinGatedAttention",
    "SwinLayer",
    "TcmBlock",
    "WindowAttention",
    "WindowCrossAttention",
    "WindowPlan",
    "conv_cost",
    "linear_cost",
    "register_attention",
    "register_block",
    "register_resampler",
]

import_installed_layers()
