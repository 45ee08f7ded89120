"""Entropy models: how a codec predicts and codes its latent; one kind per file."""

from tcm_lab.codec.entropy_models import (  # register themselves
    dictionary,
    hierarchical,
    multi_context,
    slices,
)
from tcm_lab.codec.entropy_models.base import (
    ENTROPY_MODELS,
    EntropyModel,
    EntropyModelConfig,
    register_entropy_model,
)
from tcm_lab.codec.entropy_models.coder import Channels, Coder, Elements, Places

__all__ = [
    "ENTROPY_MODELS",
    "Channels",
    "Coder",
    "Elements",
    "EntropyModel",
    "EntropyModelConfig",
    "Places",
    "dictionary",
    "hierarchical",
    "multi_context",
    "register_entropy_model",
    "slices",
]
