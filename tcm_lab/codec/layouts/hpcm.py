"""The layout of the HPCM authors' checkpoints (lyq133/LIC-HPCM): names and inference.

Two lists of renamings map our names to theirs; the architecture is inferred from the tensors' names
and shapes. What no tensor shows (windows and heads of the attention) has its published value.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.generalised_gaussian import SHAPE
from tcm_lab.codec.layouts.base import (
    Layout,
    State,
    count_children,
    place_of,
    rename,
)
from tcm_lab.codec.zoo import load_config
from tcm_lab.errors import LabError

#: Ours to theirs, at the top.
_PARTS = (
    (r"^entropy_bottleneck\.(means|scales)$", r"\1_hyper"),
    (r"^entropy_bottleneck\._(\w+)$", r"\1_z"),
    (r"^gaussian_conditional\._(\w+)$", r"\1_y"),
    (r"^gaussian_conditional\.scale_table$", "scale_table"),
    # They have one bound for y and z.
    (r"^gaussian_conditional\.scale_bound$", "entropy_estimation.scale_lower_bound.bound"),
    (r"^\w+\.lower_bound_scale\.", "entropy_estimation.scale_lower_bound."),
    (r"^\w+\.likelihood_lower_bound\.", "entropy_estimation.likelihood_lower_bound."),
    (r"^context_model\.trunks\.coarse\.", "y_spatial_prior_s1_s2."),
    (r"^context_model\.trunks\.fine\.", "y_spatial_prior_s3."),
    (r"^context_model\.factors\.", "adaptive_params_list."),
    (r"^context_model\.merges\.", "context_net."),
)
#: Ours to theirs, inside any module.
_LAYERS = (
    (r"\.before\.", ".branch_1."),
    (r"\.after\.", ".branch_2."),
    (r"\.body\.", ".branch."),
    (r"\.query\.", ".conv_q."),
    (r"\.key\.", ".conv_k."),
    (r"\.value\.", ".conv_v."),
    (r"\.skip\.", ".conv_out."),
)
#: Their lattice and number of each of our adaptors, in the order of use: the first step of a
#: lattice uses its last adaptor.
_ADAPTORS = ("s1.0", "s2.2", "s2.0", "s2.1", "s3.5", "s3.0", "s3.1", "s3.2", "s3.3", "s3.4")


def recognises(state: State) -> bool:
    """Return whether a state dict, its prefixes stripped, has this layout."""
    return "means_hyper" in state and any(k.startswith("y_spatial_prior_s3.") for k in state)


def entry_name(name: str, config: VariantConfig) -> str:
    """Return the authors' name of our state-dict entry ``name``."""
    if place := place_of(name):
        entry = place.entry
        if place.block is None:
            entry = entry.removeprefix("0.")  # theirs is a bare convolution, ours a sequence
        entry = entry.replace("body.0.", "branch.0.pconv.").replace("body.", "branch.")
        return f"{place.transform}.branch.{place.position(config)}.{entry}"
    if step := re.match(r"^context_model\.adaptors\.(\d+)\.", name):
        return f"y_spatial_prior_adaptor_list_{_ADAPTORS[int(step[1])]}.{name[step.end() :]}"
    if lattice := re.match(r"^context_model\.attentions\.(\d+)\.", name):
        name = f"attn_s{int(lattice[1]) + 1}.{name[lattice.end() :]}"
    return rename(name, *_PARTS, *_LAYERS)


def extra(config: VariantConfig) -> dict[str, Tensor]:
    """Return the entry that only the authors have: the shape of their distribution."""
    return {"entropy_estimation.beta": torch.tensor([SHAPE])}


def _infer(state: State, base: VariantConfig) -> VariantConfig:
    changes: dict[str, Any] = {
        "name": "hpcm",
        "hyper_channels": state["means_hyper"].shape[1],
        "latent_channels": state["context_net.0.weight"].shape[0] // 2,
    }
    for transform in ("g_a", "g_s", "h_a", "h_s"):
        changes |= _infer_transform(state, transform, len(getattr(base, transform).stages))
    for ours, theirs in (("coarse", "s1_s2"), ("fine", "s3")):
        net = f"y_spatial_prior_{theirs}.branch_"
        after = count_children(state, f"{net}2") - 1  # and a convolution
        changes[f"entropy_model.{ours}"] = [count_children(state, f"{net}1"), after]
    config = base.override(changes)
    published = (base, load_config("hpcm-large"))
    return next((each for each in published if each.fingerprint == config.fingerprint), config)


def _infer_transform(state: State, name: str, stages: int) -> dict[str, Any]:
    """Infer depth and width of each stage, which begins with a convolution of its own.

    Only h_a begins with blocks: a stage that does not resample.
    """
    layers = range(count_children(state, f"{name}.branch"))
    firsts = [i for i in layers if f"{name}.branch.{i}.weight" in state]
    if name == "h_a":
        firsts = [-1, *firsts]
    if len(firsts) != stages:
        raise LabError(f"{name} has {len(firsts)} stages instead of {stages}")
    changes: dict[str, Any] = {}
    for i, (first, end) in enumerate(zip(firsts, [*firsts[1:], len(layers)], strict=True)):
        stage = f"{name}.stages.{i}"
        changes[f"{stage}.depth"] = end - first - 1
        if i < stages - 1:
            # Every stage but the last has blocks; their last layer is as wide as the stage.
            changes[f"{stage}.width"] = state[f"{name}.branch.{first + 1}.branch.3.bias"].shape[0]
    return changes


LAYOUT = Layout("HPCM", "hpcm-base", recognises, _infer, entry_name, extra)
