"""The layout of the MLIC++ authors' checkpoints (JiangWeibeta/MLIC): names and inference.

Lists of renamings map our names to theirs; the architecture is inferred from the tensors' shapes.
The checkpoints of 2023 belong to other classes; they are recognised by a tensor's name and refused.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from tcm_lab.blocks.window_attention import relative_index
from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.entropy_models.multi_context import MultiContextConfig
from tcm_lab.codec.layouts.base import (
    OLD_PRIOR,
    Layout,
    Place,
    State,
    count_children,
    place_of,
    rename,
)
from tcm_lab.errors import LabError

#: Ours to theirs, within slice ``i`` of the entropy model.
_SLICE = (
    (r"^(local|intra|inter|channel)\.", r"\1_context.{i}."),
    (r"^(intra|inter)_context\.", r"global_\1_context."),
    (r"^(global_\w+_context\.\d+\.)attention\.", r"\1"),
    (r"^(global_\w+_context\.\d+\.)mix\.", r"\1reprojection."),
    (r"^(channel_context\.\d+\.)", r"\1fushion."),
    (r"^(local_context\.\d+\.)qkv\.", r"\1qkv_proj."),
    (r"^(local_context\.\d+\.)fuse\.", r"\1fusion."),
    (r"^(local_context\.\d+\.)mlp\.0\.", r"\1mlp.fc1."),
    (r"^(local_context\.\d+\.)mlp\.2\.", r"\1mlp.fc2."),
    (r"^(local_context\.\d+\.)relative_position_bias$", r"\1relative_position_table"),
    (r"^anchors\.head\.", "entropy_parameters_anchor.{i}.fusion."),
    (r"^others\.head\.", "entropy_parameters_nonanchor.{i}.fusion."),
    (r"^anchors\.lrp\.", "lrp_anchor.{i}.lrp_transform."),
    (r"^others\.lrp\.", "lrp_nonanchor.{i}.lrp_transform."),
)
#: Their name of the sequence that makes up each transform.
_SEQUENCES = {
    "g_a": "analysis_transform",
    "g_s": "synthesis_transform",
    "h_a": "reduction",
    "h_s": "increase",
}


def recognises(state: State) -> bool:
    """Return whether a state dict, its prefixes stripped, has this layout."""
    return "g_a.analysis_transform.0.conv1.weight" in state and any(
        name.startswith("lrp_anchor.") for name in state
    )


def entry_name(name: str, config: VariantConfig) -> str:
    """Return the authors' name of our state-dict entry ``name``."""
    if inside := re.match(r"^context_model\.(\d+)\.(.*)$", name):
        return rename(inside[2], *((ours, theirs.format(i=inside[1])) for ours, theirs in _SLICE))
    if place := place_of(name):
        at = place.position(config)
        if place.transform in ("h_a", "h_s"):
            at *= 2  # they have a GELU after each
        entry = place.entry.removeprefix("0.") if _is_bare(place, config) else place.entry
        return f"{place.transform}.{_SEQUENCES[place.transform]}.{at}.{entry}"
    return rename(name, *OLD_PRIOR)


def _is_bare(place: Place, config: VariantConfig) -> bool:
    """Return whether their convolution is bare, where ours is the first of a sequence."""
    resample = place.stages(config).stages[place.stage].resample
    analysis = place.transform in ("g_a", "h_a")
    return place.block is None and resample.type == "conv" and (analysis or resample.factor == 1)


def extra(config: VariantConfig) -> dict[str, Tensor]:
    """Return the window index of each slice, which they save with the weights."""
    entropy_model = config.entropy_model
    if not isinstance(entropy_model, MultiContextConfig) or entropy_model.local is None:
        return {}
    index = relative_index(entropy_model.local.window_size)
    return {
        f"local_context.{i}.relative_position_index": index for i in range(entropy_model.slices)
    }


def _infer(state: State, base: VariantConfig) -> VariantConfig:
    if "lrp_anchor.0.lrp_transform.6.weight" in state:
        raise LabError(
            "the file looks like one of the MLIC++ checkpoints of 2023, whose classes the authors "
            "have replaced: its residual prediction has four layers, that of the model three. "
            "Use one of their checkpoints from April 2024 or later."
        )

    def width(name: str) -> int:
        return int(state[f"{name}.weight"].shape[0])

    def side(name: str) -> int:
        return int(state[f"{name}.weight"].shape[-1])

    slices = count_children(state, "lrp_anchor")
    latent = width("g_a.analysis_transform.6")
    s = latent // slices
    local, inter, intra = "local_context.0", "global_inter_context.1", "global_intra_context.1"
    heads = state[f"{local}.relative_position_table"].shape[1]
    changes: dict[str, Any] = {
        "latent_channels": latent,
        "hyper_channels": state["entropy_bottleneck.quantiles"].shape[0],
        "g_a.width": [width(f"g_a.analysis_transform.{i}.conv1") for i in (0, 2, 4)],
        "g_s.width": [latent, *(width(f"g_s.synthesis_transform.{i}.conv") for i in (1, 3, 5))],
        "h_a.width": [width(f"h_a.reduction.{i}") for i in (0, 2, 4, 6)],
        "h_s.width": [
            width("h_s.increase.0"),
            width("h_s.increase.2.0") // 4,
            width("h_s.increase.4"),
            width("h_s.increase.6.0") // 4,
        ],
        "entropy_model.slices": slices,
        "entropy_model.hidden": [
            width(f"entropy_parameters_anchor.0.fusion.{i}") for i in (0, 2, 4)
        ],
        "entropy_model.lrp": [width(f"lrp_anchor.0.lrp_transform.{i}") for i in (0, 2)],
        "entropy_model.channel.hidden": [width(f"channel_context.1.fushion.{i}") for i in (0, 2)],
        "entropy_model.channel.width": width("channel_context.1.fushion.4"),
        "entropy_model.local.width": width(f"{local}.proj"),
        "entropy_model.local.head_dim": s // heads,
        "entropy_model.local.window_size": side(f"{local}.fusion"),
        "entropy_model.local.mlp_ratio": width(f"{local}.mlp.fc1") / width(f"{local}.proj"),
    }
    for kind, name in (("inter", inter), ("intra", intra)):
        changes |= {
            f"entropy_model.{kind}.kernel": side(f"{name}.reprojection"),
            f"entropy_model.{kind}.inner": width(f"{name}.reprojection"),
            f"entropy_model.{kind}.hidden": width(f"{name}.mlp.0"),
            f"entropy_model.{kind}.width": width(f"{name}.mlp.4"),
        }
    return base.override(changes)


LAYOUT = Layout("MLIC++", "mlicpp", recognises, _infer, entry_name, extra)
