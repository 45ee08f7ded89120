"""The published code's results, and the weights under which it had them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FOLDER = Path(__file__).parent.parent / "golden"

#: What CompressAI computes from the weights; no file's value of it means anything.
_COMPUTED = {
    "_quantized_cdf",
    "_offset",
    "_cdf_length",
    "scale_table",
    "bound",
    "pedestal",
    "target",
}


def published_shapes(n: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every entry of a published checkpoint of width ``n``."""
    text = gzip.decompress((_FOLDER / f"lic_tcm_n{n}_keys.json.gz").read_bytes())
    return {name: tuple(shape) for name, shape in json.loads(text).items()}


def published_results(n: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return what the published code of width ``n`` computed; see the folder's README."""
    with np.load(_FOLDER / f"lic_tcm_n{n}.npz") as file:
        return dict(file)


def photograph(n: int) -> np.ndarray[Any, Any]:
    """Return the image (H, W, 3) that the results of width ``n`` are of."""
    from skimage import data

    whole = {32: data.astronaut, 64: data.coffee}[n]()
    image = np.ascontiguousarray({32: whole[128:384, 128:384], 64: whole[72:328, 108:492]}[n])
    assert zlib.crc32(image.tobytes()) == published_results(n)["image_crc32"]
    return image


def weights_by_name(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Fill every learned entry of the published layout from its name and shape alone.

    Each entry has a random stream of its own, seeded by its name, so that the order of entries
    does not matter and another program gets the same bits.
    """
    return {
        name: torch.from_numpy(_value(name, shape).astype(np.float32))
        for name, shape in shapes.items()
        if name.rpartition(".")[2] not in _COMPUTED
    }


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    stream = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    normal = stream.standard_normal(shape)
    kind = name.rpartition(".")[2]
    if kind in ("beta", "gamma"):  # of a GDN, near what training starts from
        small = np.abs(normal)
        return 1 + 0.05 * small if kind == "beta" else 0.1**0.5 * np.eye(*shape) + 0.02 * small
    if kind == "quantiles":
        return 0.3 * normal + (-10, 0, 10)
    if kind.startswith(("_matrix", "_bias", "_factor")):
        return 0.4 * normal
    if kind == "relative_position_params":
        return 0.5 * normal
    if kind == "bias":
        # The last bias of a scale network spreads the scales, some below the smallest allowed.
        spread = name.startswith("cc_scale_transforms.") and name.endswith(".4.bias")
        return 1.5 + normal if spread else 0.05 * normal
    if len(shape) == 1:
        return 1 + 0.1 * normal
    gain = 25 if name == "g_a.9.weight" else 0.45  # makes y some ±18
    return gain * normal * np.sqrt(1 / np.prod(shape[1:]))
