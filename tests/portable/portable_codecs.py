"""Codecs whose weights any program can reproduce bit for bit from their shapes alone."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn

from tcm_lab.codec import VariantConfig, build

_LAST: dict[str, Any] = {"resample": "conv"}
_SWIN = {"type": "swin", "window_size": 2, "head_dim": 4}
_STAGE = {"resample": "conv", "width": 8}

#: Small codecs that together cover every way of computing ŷ.
SMALL: dict[str, dict[str, Any]] = {
    "plain": {
        "entropy_model": {"slices": 4, "support": 2, "hidden": [8]},
    },
    "rates": {
        "rate_levels": 3,
        "entropy_model": {
            "slices": [2, 6], "support": 1, "hidden": [8], "checkerboard": True,
            "normalised": True, "attention": {"type": "residual-attention"},
        },
    },
    "windows": {
        "h_s": {"stages": [{**_LAST, "depth": 1, "block": _SWIN}]},
        "entropy_model": {
            "slices": 2, "support": 1, "hidden": [8, 8], "lrp": "before-attention",
            "attention": {"type": "swatten", "squeeze": 8, "head_dim": 4, "window_size": 2},
        },
    },
    "hyperprior": {
        "entropy_model": {
            "slices": 1, "support": 0, "hidden": "none", "paths": "shared", "lrp": "none",
            "scale_table": "compressai",
        },
    },
}  # fmt: skip


def small_codec(name: str) -> Any:
    """Build one of `SMALL`."""
    config = VariantConfig.parse(
        {
            "name": name,
            "latent_channels": 8,
            "hyper_channels": 4,
            "g_a": {"stages": [_STAGE, _LAST]},
            "g_s": {"stages": [_STAGE, _LAST]},
            "h_a": {"stages": [_LAST]},
            "h_s": {"stages": [_LAST]},
            **SMALL[name],
        }
    )
    codec = build(config)
    fill(codec)
    with torch.no_grad():
        if codec.y_unit is not None:
            codec.y_unit.copy_(torch.linspace(0.25, 4, 8))
        for transform in (codec.g_a, codec.h_a):
            for parameter in transform.stages[-1].resample.parameters():
                parameter.mul_(16)
    return codec.eval()


def image(height: int, width: int) -> torch.Tensor:
    """Return an image (3, H, W) in multiples of 1/255: waves with a little grain."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (3 + c) + columns / (7 - c)) for c in range(3)]
    grain = np.random.Generator(np.random.Philox(key=7)).integers(-9, 10, (3, height, width))
    pixels = np.clip(np.rint(90 * np.stack(waves) + 127 + grain), 0, 255)
    return torch.from_numpy(pixels.astype(np.float32)).div(255)


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Fill every weight from its own random stream, seeded by its shape and position.

    Names do not matter, so a later version may rename weights.
    """
    seen = Counter[tuple[int, ...]]()
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        key = zlib.crc32(f"{seen[shape]} of {shape}".encode())
        seen[shape] += 1
        normal = np.random.Generator(np.random.Philox(key=key))
        values = _values(name, normal.standard_normal(shape))
        parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def _values(name: str, normal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    kind = name.rpartition(".")[2]
    if kind == "quantiles":
        return 0.3 * normal + (-10, 0, 10)
    if kind == "beta":
        return 1 + 0.05 * np.abs(normal)
    if kind == "gamma":
        return 0.1**0.5 * np.eye(*normal.shape) + 0.02 * np.abs(normal)
    if kind == "bias" and normal.ndim == 1:
        return 0.2 * normal
    if normal.ndim < 2:
        return 1 + 0.1 * normal
    return 0.6 * normal / np.sqrt(np.prod(normal.shape[1:]))
