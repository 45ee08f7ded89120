"""The layout of the DCAE authors' checkpoints (LabShuHangGU/DCAE): names and inference."""

from __future__ import annotations

import re
from typing import Any

from tcm_lab.codec.config import TransformConfig, VariantConfig
from tcm_lab.codec.layouts.base import (
    OLD_PRIOR,
    Layout,
    State,
    count_children,
    flat_index,
    place_of,
    rename,
)

#: Ours to theirs, inside any module.
_LAYERS = (
    (r"\.attention\.qkv\.", ".msa.embedding_layer."),
    (r"\.attention\.proj\.", ".msa.linear."),
    (r"\.attention\.relative_position_bias$", ".msa.relative_position_params"),
    (r"\.layers\.(\d+)\.norm([12])\.", r".layers.\1.ln\2."),
    (r"\.glu\.expand\.", ".mlp.fc1."),
    (r"\.glu\.depthwise\.", ".mlp.dwconv.dwconv."),
    (r"\.glu\.project\.", ".mlp.fc2."),
    (r"\.scale([123])$", r".res_scale_\1.scale"),
    (r"\.conv\.0\.", ".conv."),
)
_BOTTLENECK = re.compile(r"^blocks\.(\d+)\.body\.([024])\.")
#: Ours to theirs, in a slice's cross-attention.
_DICTIONARY = (
    (r"^widen\.", "x_trans."),
    (r"^norm1\.", "ln_scale."),
    (r"^norm2\.", "lnx."),
    (r"^norm3\.", "ln_mlp."),
    (r"^norm_entries\.", "dict_ln."),
    (r"^query\.", "q_trans."),
    (r"^key\.", "k."),
    (r"^proj\.", "linear."),
    (r"^narrow\.", "output_trans.0."),
    (r"^temperature$", "scale"),
    (r"^scale([123])$", r"res_scale_\1.scale"),
    (r"^glu\.expand\.", "mlp.fc1."),
    (r"^glu\.depthwise\.", "mlp.dwconv.dwconv."),
    (r"^glu\.project\.", "mlp.fc2."),
    (r"^aggregate\.start\.", "msa.s."),
    (r"^aggregate\.join\.", "msa.dense.proj."),
    (r"^aggregate\.gate\.", "msa.spatial_atte.conv1."),
    (r"^aggregate\.layers\.(\d+)\.1\.", r"msa.dense.conv_layers.\1.1.in_trans."),
    (r"^aggregate\.layers\.(\d+)\.3\.", r"msa.dense.conv_layers.\1.1.dw_conv."),
    (r"^aggregate\.layers\.(\d+)\.5\.", r"msa.dense.conv_layers.\1.1.out_trans."),
)
#: Ours to theirs, at the top.
_PARTS = (
    (r"^context_model\.entries$", "dt"),
    (r"^context_model\.slices\.(\d+)\.mean\.", r"cc_mean_transforms.\1."),
    (r"^context_model\.slices\.(\d+)\.scale\.", r"cc_scale_transforms.\1."),
    (r"^context_model\.slices\.(\d+)\.lrp\.", r"lrp_transforms.\1."),
    *OLD_PRIOR,
)
_CROSS = re.compile(r"^context_model\.slices\.(\d+)\.dictionary\.")
#: Their names of the hyper synthesis for our outputs.
_HYPER = {"scale": "h_z_s1", "mean": "h_z_s2"}


def recognises(state: State) -> bool:
    """Return whether a state dict, its prefixes stripped, has this layout."""
    return "dt" in state and "dt_cross_attention.0.x_trans.weight" in state


def entry_name(name: str, config: VariantConfig) -> str:
    """Return the authors' name of our state-dict entry ``name``."""
    if cross := _CROSS.match(name):
        return f"dt_cross_attention.{cross[1]}.{rename(name[cross.end() :], *_DICTIONARY)}"
    place = place_of(name)
    if place is None:
        return rename(name, *_PARTS)
    entry = place.entry
    if match := _BOTTLENECK.match(entry):
        layer = f"res{int(match[1]) + 1}.conv{int(match[2]) // 2 + 1}"
        entry = f"{layer}.{entry[match.end() :]}"
    top = _HYPER.get(place.output or "", place.transform)
    # Theirs is a bare convolution, ours a sequence of one.
    return rename(f"{top}.{place.position(config)}.{entry.removeprefix('0.')}", *_LAYERS)


def _infer(state: State, base: VariantConfig) -> VariantConfig:
    cross, head = "dt_cross_attention.0", "cc_mean_transforms.0"
    entries, width = state["dt"].shape
    changes: dict[str, Any] = {
        "latent_channels": state[f"{cross}.output_trans.0.weight"].shape[0],
        "hyper_channels": state["entropy_bottleneck.quantiles"].shape[0],
        "entropy_model.slices": count_children(state, "cc_mean_transforms"),
        "entropy_model.hidden": [state[f"{head}.{i}.weight"].shape[0] for i in (0, 2)],
        "entropy_model.entries": entries,
        "entropy_model.width": width,
        "entropy_model.head_dim": width // state[f"{cross}.scale"].shape[0],
        "entropy_model.layers": count_children(state, f"{cross}.msa.dense.conv_layers"),
        "entropy_model.mlp_ratio": state[f"{cross}.mlp.fc1.weight"].shape[0] // width,
        "entropy_model.scale_table": "compressai",
    }
    for ours, theirs in (("g_a", "g_a"), ("g_s", "g_s"), ("h_a", "h_a"), ("h_s", "h_z_s1")):
        changes |= _infer_transform(state, base, ours, theirs)
    return base.override(changes)


def _infer_transform(state: State, base: VariantConfig, ours: str, theirs: str) -> dict[str, Any]:
    """Infer width, layers, windows and heads of each gated stage."""
    transform: TransformConfig = getattr(base, ours)
    changes: dict[str, Any] = {}
    for i, stage in enumerate(transform.stages):
        if not stage.depth:
            continue
        block = f"{theirs}.{flat_index(transform, i, 0)}"
        bias = state[f"{block}.layers.0.msa.relative_position_params"]
        width = state[f"{block}.conv.weight"].shape[0]
        place = f"{ours}.stages.{i}"
        changes |= {
            f"{place}.width": width,
            f"{place}.block.layers": count_children(state, f"{block}.layers"),
            f"{place}.block.window_size": (bias.shape[-1] + 1) // 2,
            f"{place}.block.head_dim": width // bias.shape[0],
        }
    return changes


LAYOUT = Layout("DCAE", "dcae", recognises, _infer, entry_name)
