"""What every package uses: frozen models, files, progress, the environment. No science."""

from tcm_lab._utils.models import (
    NONE_AS_WORD,
    ChannelCount,
    Frozen,
    LayerCount,
    RateLevels,
    Ratio,
)
from tcm_lab._utils.registry import Registry

__all__ = [
    "NONE_AS_WORD",
    "ChannelCount",
    "Frozen",
    "LayerCount",
    "RateLevels",
    "Ratio",
    "Registry",
]
