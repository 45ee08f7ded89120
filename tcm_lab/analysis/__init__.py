"""What trained codecs do inside: receptive fields, attention, latents, what each part is worth.

Everything here computes and returns records; `tcm_lab.reporting` draws them.
"""

from tcm_lab.analysis._estimate import Estimate, paired
from tcm_lab.analysis.attention import (
    AttentionMap,
    AttentionRecord,
    LayerAttention,
    attention_map,
    measure_attention,
)
from tcm_lab.analysis.cost_benefit import (
    KnockOutRecord,
    PartWorth,
    TrainedBenefit,
    compare_trained,
    knock_out,
    removable_parts,
)
from tcm_lab.analysis.erf import (
    ErfMap,
    decoder_fields,
    effective_receptive_field,
    entropy_model_fields,
    mean_field,
    receptive_fields,
)
from tcm_lab.analysis.erf_measures import ErfMeasures, grid_visibility, measure_field, reach_ratio
from tcm_lab.analysis.gates import GateRecord, SliceGate, gate_maps
from tcm_lab.analysis.latents import (
    ImageLatent,
    LatentMaps,
    LatentRecord,
    SliceLatent,
    latent_maps,
    measure_latents,
)
from tcm_lab.analysis.statistics import ErrorStatistics

__all__ = [
    "AttentionMap",
    "AttentionRecord",
    "ErfMap",
    "ErfMeasures",
    "ErrorStatistics",
    "Estimate",
    "GateRecord",
    "ImageLatent",
    "KnockOutRecord",
    "LatentMaps",
    "LatentRecord",
    "LayerAttention",
    "PartWorth",
    "SliceGate",
    "SliceLatent",
    "TrainedBenefit",
    "attention_map",
    "compare_trained",
    "decoder_fields",
    "effective_receptive_field",
    "entropy_model_fields",
    "gate_maps",
    "grid_visibility",
    "knock_out",
    "latent_maps",
    "mean_field",
    "measure_attention",
    "measure_field",
    "measure_latents",
    "paired",
    "reach_ratio",
    "receptive_fields",
    "removable_parts",
]
