"""The layout of the HPCM authors' checkpoints (lyq133/LIC-HPCM): names and inference.

Two lists of renamings take our names to theirs; the architecture is read off the tensors' names and
shapes. What no tensor shows (windows and heads of the attention) is taken as published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.generalised_gaussian import SHAPE
from tcm_lab.codec.layouts.flat import flat_place
from tcm_lab.codec.zoo import load_config
from tcm_lab.errors import LabError

State = Mapping[str, Tensor]

#: Ours to theirs, at the top; tried in order, the first that fits.
_PARTS = (
    (r"^entropy_bottleneck\.(means|scales)$", r"\1_hyper"),
    (r"^entropy_bottleneck\._(\w+)$", r"\1_z"),
    (r"^gaussian_conditional\._(\w+)$", r"\1_y"),
    (r"^gaussian_conditional\.scale_table$", "scale_table"),
    # One bound there for y and z.
    (r"^gaussian_conditional\.scale_bound$", "entropy_estimation.scale_lower_bound.bound"),
    (r"^\w+\.lower_bound_scale\.", "entropy_estimation.scale_lower_bound."),
    (r"^\w+\.likelihood_lower_bound\.", "entropy_estimation.likelihood_lower_bound."),
    (r"^context_model\.trunks\.coarse\.", "y_spatial_prior_s1_s2."),
    (r"^context_model\.trunks\.fine\.", "y_spatial_prior_s3."),
    (r"^context_model\.factors\.", "adaptive_params_list."),
    (r"^context_model\.merges\.", "context_net."),
)
#: Ours to theirs, inside any module; each at most once per name.
_LAYERS = (
    (r"\.before\.", ".branch_1."),
    (r"\.after\.", ".branch_2."),
    (r"\.body\.", ".branch."),
    (r"\.query\.", ".conv_q."),
    (r"\.key\.", ".conv_k."),
    (r"\.value\.", ".conv_v."),
    (r"\.skip\.", ".conv_out."),
)
#: Our adaptors, in the order of use, by their lattice and place there: each lattice's first step
#: takes the last one.
_ADAPTORS = ("s1.0", "s2.2", "s2.0", "s2.1", "s3.5", "s3.0", "s3.1", "s3.2", "s3.3", "s3.4")


def recognises(state: State) -> bool:
    """Say whether a state dict, its prefixes stripped, has this layout."""
    return "means_hyper" in state and any(k.startswith("y_spatial_prior_s3.") for k in state)


def entry_name(name: str, config: VariantConfig) -> str:
    """Return the authors' name of our state-dict entry ``name``."""
    layer = re.match(r"^(\w+)(?:\.shared)?\.stages\.(\d+)\.(?:resample|blocks\.(\d+))\.", name)
    if layer:
        block = None if layer[3] is None else int(layer[3])
        at = flat_place(getattr(config, layer[1]), int(layer[2]), block)
        rest = name[layer.end() :]
        if block is None:
            rest = rest.removeprefix("0.")  # a bare convolution there, a sequence of one here
        rest = rest.replace("body.0.", "branch.0.pconv.").replace("body.", "branch.")
        return f"{layer[1]}.branch.{at}.{rest}"
    step = re.match(r"^context_model\.adaptors\.(\d+)\.", name)
    if step:
        return f"y_spatial_prior_adaptor_list_{_ADAPTORS[int(step[1])]}.{name[step.end() :]}"
    lattice = re.match(r"^context_model\.attentions\.(\d+)\.", name)
    if lattice:
        name = f"attn_s{int(lattice[1]) + 1}.{name[lattice.end() :]}"
    for pattern, theirs in _PARTS:
        name, found = re.subn(pattern, theirs, name, count=1)
        if found:
            break
    for pattern, theirs in _LAYERS:
        name = re.sub(pattern, theirs, name, count=1)
    return name


def extra(config: VariantConfig) -> dict[str, Tensor]:
    """Return the authors' entries that we have not: the shape of their distribution."""
    return {"entropy_estimation.beta": torch.tensor([SHAPE])}


def infer_config(state: State) -> VariantConfig:
    """Read the architecture off the names and shapes of the authors' state dict.

    Raises:
        LabError: tensors that determine it are missing, or no codec has such shapes.
    """
    changes: dict[str, Any] = {"name": "hpcm"}
    try:
        changes["hyper_channels"] = state["means_hyper"].shape[1]
        changes["latent_channels"] = state["context_net.0.weight"].shape[0] // 2
        for transform in ("g_a", "g_s", "h_a", "h_s"):
            changes |= _infer_transform(state, transform)
        for ours, theirs in (("coarse", "s1_s2"), ("fine", "s3")):
            net = f"y_spatial_prior_{theirs}.branch_"
            after = _children(state, f"{net}2") - 1  # and a convolution
            changes[f"entropy_model.{ours}"] = [_children(state, f"{net}1"), after]
    except KeyError as error:
        raise LabError(
            "the file looks like a checkpoint of the HPCM authors, but its architecture cannot be "
            f"read off it: {error} is missing"
        ) from None
    config = load_config("hpcm-base").override(changes)
    for name in ("hpcm-base", "hpcm-large"):
        if load_config(name).fingerprint == config.fingerprint:
            return load_config(name)
    return config


def _infer_transform(state: State, name: str) -> dict[str, Any]:
    """Read depth and width of each stage; a stage begins with a convolution of its own.

    Only h_a begins with blocks, which are a stage that does not resample.
    """
    layers = range(_children(state, f"{name}.branch"))
    firsts = [i for i in layers if f"{name}.branch.{i}.weight" in state]
    if name == "h_a":
        firsts = [-1, *firsts]
    stages = len(load_config("hpcm-base").model_dump()[name]["stages"])
    if len(firsts) != stages:
        raise LabError(f"{name} has {len(firsts)} stages and would need {stages}")
    changes: dict[str, Any] = {}
    for i, (first, end) in enumerate(zip(firsts, [*firsts[1:], len(layers)], strict=True)):
        stage = f"{name}.stages.{i}"
        changes[f"{stage}.depth"] = end - first - 1
        if i < stages - 1:
            # Every stage but the last has blocks; their last layer is as wide as the stage.
            changes[f"{stage}.width"] = state[f"{name}.branch.{first + 1}.branch.3.bias"].shape[0]
    return changes


def _children(state: State, prefix: str) -> int:
    """Return how many numbered children the module ``prefix`` has."""
    start = f"{prefix}."
    return len({k[len(start) :].split(".")[0] for k in state if k.startswith(start)})
