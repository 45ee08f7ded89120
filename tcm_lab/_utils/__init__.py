"""Utilities for every package: frozen models, files, progress, the environment. No science."""

from tcm_lab._utils.models import (
    NONE_AS_WORD,
    ChannelCount,
    Frozen,
    LayerCount,
    RateLevels,
    Ratio,
)
from tcm_lab._utils.registry import ConfigRegistry, Registry, named_config

__all__ = [
    "NONE_AS_WORD",
    "ChannelCount",
    "ConfigRegistry",
    "Frozen",
    "LayerCount",
    "RateLevels",
    "Ratio",
    "Registry",
    "named_config",
]
