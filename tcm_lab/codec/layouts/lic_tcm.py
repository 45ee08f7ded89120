"""The layout of the TCM authors' checkpoints (jmliu206/LIC_TCM): names and inference.

AuxT's authors (qingshi9974/AuxT) extend it by the steps of the side paths.

Two lists of renamings map our names to theirs; the architecture is inferred from the tensors' names
and shapes.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.layouts.base import (
    OLD_PRIOR,
    Layout,
    State,
    count_children,
    place_of,
    rename,
)

#: Ours to theirs, inside any module.
_LAYERS = (
    (r"\.mix_in\.", ".conv1_1."),
    (r"\.mix_out\.", ".conv1_2."),
    (r"\.conv\.block\.", ".conv_block."),
    (r"\.swin\.0\.", ".non_local_block.block_1."),
    (r"\.swin\.1\.", ".non_local_block.block_2."),
    (r"\.swin\.", ".trans_block."),
    (r"\.norm([12])\.", r".ln\1."),
    (r"\.attention\.qkv\.", ".msa.embedding_layer."),
    (r"\.attention\.proj\.", ".msa.linear."),
    (r"\.attention\.relative_position_bias$", ".msa.relative_position_params"),
    (r"\.squeeze\.", ".in_conv."),
    (r"\.widen\.", ".out_conv."),
)
#: Ours to theirs, at the top.
_PARTS = (
    (r"^slices\.(\d+)\.attention\.0\.", r"atten_mean.\1.0."),
    (r"^slices\.(\d+)\.attention\.1\.", r"atten_scale.\1.0."),
    (r"^slices\.(\d+)\.networks\.0\.", r"cc_mean_transforms.\1."),
    (r"^slices\.(\d+)\.networks\.1\.", r"cc_scale_transforms.\1."),
    (r"^slices\.(\d+)\.lrp\.", r"lrp_transforms.\1."),
    (r"^g_a\.wavelet\.(\d+)\.log_gain$", r"AuxT_enc.\1.scaling_factors"),
    (r"^g_s\.wavelet\.(\d+)\.log_gain$", r"AuxT_dec.\1.scaling_factors"),
    (r"^g_a\.wavelet\.(\d+)\.", r"AuxT_enc.\1.OLP.linear."),
    (r"^g_s\.wavelet\.(\d+)\.", r"AuxT_dec.\1.OLP.linear."),
    *OLD_PRIOR,
)
#: Their names of the hyper synthesis for our outputs.
_HYPER = {"mean": "h_mean_s", "scale": "h_scale_s"}


def recognises(state: State) -> bool:
    """Return whether a state dict, its prefixes stripped, has this layout."""
    return "g_a.0.conv1.weight" in state and any(k.startswith("cc_mean_transforms.") for k in state)


def extra(config: VariantConfig) -> dict[str, Tensor]:
    """Return the entries that are the same in every file: AuxT's Haar filters."""
    if config.shortcut != "wavelet":
        return {}
    signs = [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
    filters = torch.tensor(signs)[:, None] / 2
    analysis = {
        f"AuxT_enc.{i}.dwt.w_{band}": filters[n : n + 1]
        for i in range(len(config.g_a.stages))
        for n, band in enumerate(("ll", "lh", "hl", "hh"))
    }
    synthesis = {
        f"AuxT_dec.{i}.idwt.filters": filters.clone() for i in range(len(config.g_s.stages))
    }
    return analysis | synthesis


def entry_name(name: str, config: VariantConfig) -> str:
    """Return the authors' name of our state-dict entry ``name``."""
    if place := place_of(name):
        entry, last = place.entry, len(place.stages(config).stages) - 1
        if place.stage == last and place.transform in ("g_a", "h_a"):
            entry = entry.removeprefix("0.")  # theirs is a bare convolution, ours a sequence
        top = _HYPER.get(place.output or "", place.transform)
        name = f"{top}.{place.position(config)}.{entry}"
    return rename(name, *_PARTS, *_LAYERS)


def _infer(state: State, base: VariantConfig) -> VariantConfig:
    slices_of_base: Any = base.entropy_model
    width = state["g_a.0.conv1.weight"].shape[0]
    slices = count_children(state, "cc_mean_transforms")
    last = f"cc_mean_transforms.{slices - 1}"
    slice_width = state[f"{last}.4.weight"].shape[0]
    latent = slices * slice_width
    squeezed = "atten_mean.0.0.in_conv.weight"
    auxt = "AuxT_enc.0.OLP.linear.weight" in state
    changes: dict[str, Any] = {
        "name": "tcm" if squeezed in state else "tcm-no-swatten",
        "?_?.width": width,
        "shortcut": "wavelet" if auxt else "none",
        "latent_channels": latent,
        "hyper_channels": state["entropy_bottleneck.quantiles"].shape[0],
        "entropy_model.slices": slices,
        "entropy_model.scale_table": "compressai",
        # With no more slices than the paper's support of 5, that support has the same effect.
        "entropy_model.support": max(
            (state[f"{last}.0.weight"].shape[1] - latent) // slice_width, slices_of_base.support
        ),
        "entropy_model.hidden": [state[f"{last}.{i}.weight"].shape[0] for i in (0, 2)],
    }
    if squeezed in state:
        inner = state[squeezed].shape[0]
        bias = state["atten_mean.0.0.non_local_block.block_1.msa.relative_position_params"]
        changes["entropy_model.attention.squeeze"] = inner
        changes["entropy_model.attention.head_dim"] = inner // bias.shape[0]
        changes["entropy_model.attention.window_size"] = (bias.shape[-1] + 1) // 2
    else:
        changes["entropy_model.attention"] = "none"
    for ours, theirs in (("g_a", "g_a"), ("g_s", "g_s"), ("h_a", "h_a"), ("h_s", "h_mean_s")):
        changes |= _infer_transform(state, ours, theirs)
    names = {128: "small", 192: "medium", 256: "large"}
    if squeezed in state and width in names and slices == slices_of_base.slices:
        changes["name"] = f"tcm-{names[width]}"
        if auxt:
            changes["name"] = "tcm-auxt" if width == 128 else f"tcm-auxt-{names[width]}"
    return base.override(changes)


def _infer_transform(state: State, ours: str, theirs: str) -> dict[str, Any]:
    """Infer depth, window_size and head_dim of each stage with blocks."""
    pattern = re.compile(rf"^{theirs}\.(\d+)\.trans_block\.msa\.relative_position_params$")
    blocks = sorted(int(match[1]) for name in state if (match := pattern.match(name)))
    # Consecutive blocks are one stage.
    firsts = [block for block in blocks if block - 1 not in blocks]
    ends = [block + 1 for block in blocks if block + 1 not in blocks]
    layers = [f"{theirs}.{first}.trans_block" for first in firsts]
    biases = [state[f"{layer}.msa.relative_position_params"] for layer in layers]
    widths = [state[f"{layer}.ln1.weight"].shape[0] for layer in layers]
    return {
        f"{ours}.depth": [end - first for first, end in zip(firsts, ends, strict=True)],
        f"{ours}.window_size": [(bias.shape[-1] + 1) // 2 for bias in biases],
        f"{ours}.head_dim": [w // bias.shape[0] for w, bias in zip(widths, biases, strict=True)],
    }


LAYOUT = Layout("TCM", "tcm-small", recognises, _infer, entry_name, extra)
