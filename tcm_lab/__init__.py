"""A lab for one question: which architectural choices of a learned image codec are worth it?

The names that most work needs are here, each imported when it is first used, so that importing the
package costs nothing; every room exports the rest of what is its.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tcm_lab.analysis import effective_receptive_field
    from tcm_lab.blocks import (
        AttentionConfig,
        BlockConfig,
        register_attention,
        register_block,
        register_resampler,
    )
    from tcm_lab.codec import (
        Codec,
        VariantConfig,
        build,
        list_models,
        load_checkpoint,
        load_config,
        save_checkpoint,
    )
    from tcm_lab.complexity import measure_complexity, measure_timing
    from tcm_lab.evaluation import RdCurve, bd_rate
    from tcm_lab.metrics import register_metric

_HOMES = {
    "tcm_lab.analysis": ("effective_receptive_field",),
    "tcm_lab.blocks": (
        "AttentionConfig",
        "BlockConfig",
        "register_attention",
        "register_block",
        "register_resampler",
    ),
    "tcm_lab.codec": (
        "Codec",
        "VariantConfig",
        "build",
        "list_models",
        "load_checkpoint",
        "load_config",
        "save_checkpoint",
    ),
    "tcm_lab.complexity": ("measure_complexity", "measure_timing"),
    "tcm_lab.evaluation": ("RdCurve", "bd_rate"),
    "tcm_lab.metrics": ("register_metric",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AttentionConfig",
    "BlockConfig",
    "Codec",
    "RdCurve",
    "VariantConfig",
    "bd_rate",
    "build",
    "effective_receptive_field",
    "list_models",
    "load_checkpoint",
    "load_config",
    "measure_complexity",
    "measure_timing",
    "register_attention",
    "register_block",
    "register_metric",
    "register_resampler",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tcm_lab' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
