from . import (
    analysis,
    blocks,
    codec,
    complexity,
    data,
    evaluation,
    reporting,
    study,
    testing,
    training,
)
from .analysis import effective_receptive_field
from .blocks import (
    AttentionConfig,
    BlockConfig,
    register_attention,
    register_block,
    register_resampler,
)
from .codec import (
    Codec,
    EntropyModelConfig,
    VariantConfig,
    build,
    list_models,
    load_checkpoint,
    load_config,
    register_entropy_model,
    save_checkpoint,
)
from .complexity import measure_complexity, measure_timing
from .errors import ConfigError, LabError
from .evaluation import RdCurve, bd_rate
from .metrics import register_metric
from .study import register_estimator

__version__: str

__all__ = [
    "AttentionConfig",
    "BlockConfig",
    "Codec",
    "ConfigError",
    "EntropyModelConfig",
    "LabError",
    "RdCurve",
    "VariantConfig",
    "analysis",
    "bd_rate",
    "blocks",
    "build",
    "codec",
    "complexity",
    "data",
    "effective_receptive_field",
    "evaluation",
    "list_models",
    "load_checkpoint",
    "load_config",
    "measure_complexity",
    "measure_timing",
    "register_attention",
    "register_block",
    "register_entropy_model",
    "register_estimator",
    "register_metric",
    "register_resampler",
    "reporting",
    "save_checkpoint",
    "study",
    "testing",
    "training",
]
