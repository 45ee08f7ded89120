"""Configuration, assembly, coding to real bytes, and checkpoints of codecs.

What builds a codec imports CompressAI, which takes seconds; it is imported when first used, so
that configurations and cost formulas come without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tcm_lab.codec.config import EntropyModelConfig, StageConfig, TransformConfig, VariantConfig
from tcm_lab.codec.cost import padded_size, part_costs
from tcm_lab.codec.presets import build, list_models, load_config, preset_names

if TYPE_CHECKING:
    from tcm_lab.codec.adapter import CodecAdapter, bits
    from tcm_lab.codec.checkpoint import load_checkpoint, save_checkpoint
    from tcm_lab.codec.model import Codec
    from tcm_lab.codec.reference_models import build_reference_model

_HEAVY = {
    "Codec": "model",
    "CodecAdapter": "adapter",
    "bits": "adapter",
    "build_reference_model": "reference_models",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}

__all__ = [
    "Codec",
    "CodecAdapter",
    "EntropyModelConfig",
    "StageConfig",
    "TransformConfig",
    "VariantConfig",
    "bits",
    "build",
    "build_reference_model",
    "list_models",
    "load_checkpoint",
    "load_config",
    "padded_size",
    "part_costs",
    "preset_names",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(import_module(f"tcm_lab.codec.{_HEAVY[name]}"), name)
    raise AttributeError(f"module 'tcm_lab.codec' has no attribute '{name}'")
