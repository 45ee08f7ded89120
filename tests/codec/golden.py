"""Results of the published implementations, and the weights that produced them."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tcm_lab.codec import Codec

_FOLDER = Path(__file__).parent.parent / "golden"

#: Entries that are constant or computed from the weights, so that their stored values are ignored.
_COMPUTED = {
    "_quantized_cdf",
    "_offset",
    "_cdf_length",
    "scale_table",
    "bound",
    "pedestal",
    "target",
    "relative_position_index",  # MLIC++
    *("w_ll", "w_lh", "w_hl", "w_hh", "filters"),  # AuxT's Haar wavelet
    *(
        f"{table}_{latent}"
        for table in ("quantized_cdf", "cdf_length", "offset")
        for latent in "yz"
    ),
}
#: Gains of weights whose gain is not 0.45, chosen so that y and z spread over about ±18.
_GAINS = {
    "g_a.9.weight": 25.0,  # TCM, alone and with AuxT
    "AuxT_enc.3.OLP.linear.weight": 8.0,
    "AuxT_dec.2.OLP.linear.weight": 2.0,
    "AuxT_dec.3.OLP.linear.weight": 2.0,
    "g_a.6.weight": 8.0,  # DCAE
    "h_a.2.weight": 1.5,
    "h_z_s1.2.conv.weight": 2.0,
    "h_z_s2.2.conv.weight": 2.0,
    "g_s.0.weight": 1.0,
    "g_a.branch.11.weight": 25.0,  # HPCM
    "h_a.branch.5.weight": 1.2,
    "g_a.analysis_transform.6.weight": 25.0,  # MLIC++
    "h_a.reduction.8.weight": 50.0,
    "h_s.increase.8.weight": 3.0,
}
#: Biases of scales followed by means, in HPCM and in MLIC++'s parameter networks.
_SCALES_AND_MEANS = re.compile(
    r"h_s\.branch\.5\.branch\.3\.bias|y_spatial_prior_(s1_s2\.branch_2\.1|s3\.branch_2\.2)\.bias"
    r"|entropy_parameters_\w+\.\d+\.fusion\.6\.bias"
)


def published_shapes(codec: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a published checkpoint, such as ``lic_tcm_n64``, by entry name."""
    text = gzip.decompress((_FOLDER / f"{codec}_keys.json.gz").read_bytes())
    return {name: tuple(shape) for name, shape in json.loads(text).items()}


def published_results(codec: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the results of the published code; see the folder's README."""
    with np.load(_FOLDER / f"{codec}.npz") as file:
        return dict(file)


def assert_same(
    got: Tensor, expected: Mapping[str, np.ndarray], name: str, tolerance: float = 1e-4
) -> None:
    """Compare a tensor of one image with a published one, relative to its largest magnitude."""
    values = got[0].double().numpy()
    maximum = float(expected[f"{name}.maximum"])
    assert values.shape == tuple(expected[f"{name}.shape"])
    there = values.reshape(-1)[expected[f"{name}.at"]]
    assert np.abs(there - expected[f"{name}.values"]).max() <= tolerance * maximum
    assert np.abs(values).max() == pytest.approx(maximum, rel=tolerance)
    assert abs(values.sum() - expected[f"{name}.sum"]) <= tolerance * maximum * values.size
    assert np.square(values).sum() == pytest.approx(
        float(expected[f"{name}.sum_of_squares"]), rel=tolerance
    )


@torch.no_grad()
def forward(
    codec: Codec,
    x: Tensor,
    features: Sequence[str] = (),
    outputs: Iterable[tuple[str, nn.Module, int, int]] = (),
    *,
    every: int = 1,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a forward pass that the published codes report, and the likelihoods.

    Args:
        codec: the codec to run.
        x: (B, 3, H, W) in [0, 1].
        features: names of the outputs of h_s.
        outputs: further outputs to return: name, module, channel stride, and stride of rows and
            columns.
        every: channel stride of ``features``.
    """
    seen: dict[str, Tensor] = {}

    def keep(
        name: str, channels: int, pitch: int, module: nn.Module, inputs: object, output: Tensor
    ) -> None:
        seen[name] = output[:, ::channels, ::pitch, ::pitch]

    def keep_features(module: nn.Module, inputs: object, output: list[Tensor]) -> None:
        seen.update((name, one[:, ::every]) for name, one in zip(features, output, strict=False))

    handles = [
        codec.h_s.register_forward_pre_hook(lambda m, inputs: seen.update(z_hat=inputs[0])),
        codec.h_s.register_forward_hook(keep_features),
        codec.gaussian_conditional.register_forward_pre_hook(
            lambda m, inputs: seen.update(scales=inputs[1], means=inputs[2])
        ),
        codec.g_s.register_forward_pre_hook(lambda m, inputs: seen.update(y_hat=inputs[0])),
    ]
    for name, module, *steps in (("y", codec.g_a, 1, 1), ("z", codec.h_a, 1, 1), *outputs):
        handles.append(module.register_forward_hook(partial(keep, name, *steps)))
    output = codec(x)
    for handle in handles:
        handle.remove()
    return {**seen, "x_hat": output["x_hat"]}, output["likelihoods"]


def assert_same_in_double(codec: Codec, name: str) -> None:
    """Compare a codec with the published code in double precision, to one part in 1e9.

    The codec is converted to double precision for the comparison; its weights are exact in both.
    """
    expected = published_results(f"{name}_double")
    height, width = expected["x_hat.shape"][1:]
    x = kodak_crop(dtype=torch.float64)[..., :height, :width]
    seen, likelihoods = forward(codec.double(), x)
    codec.float()
    assert set(seen) == {key.removesuffix(".at") for key in expected if key.endswith(".at")}
    for quantity, values in seen.items():
        assert values.dtype == torch.float64
        assert_same(values, expected, quantity, tolerance=1e-9)
    for latent, values in likelihoods.items():
        bits = -values.log2().sum().item()
        assert bits == pytest.approx(float(expected[f"bits_{latent}"]), rel=1e-9)


def kodak_crop(name: str = "kodim03_256x256", dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the image (1, 3, H, W) behind the results of the codecs after TCM."""
    with Image.open(_FOLDER / f"{name}.png") as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(dtype) / 255


def photograph(n: int) -> np.ndarray[Any, Any]:
    """Return the image (H, W, 3) behind the results of TCM with width ``n``."""
    from skimage import data

    whole = {32: data.astronaut, 64: data.coffee}[n]()
    image = np.ascontiguousarray({32: whole[128:384, 128:384], 64: whole[72:328, 108:492]}[n])
    assert zlib.crc32(image.tobytes()) == published_results(f"lic_tcm_n{n}")["image_crc32"]
    return image


def weights_by_name(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return values for every learned entry of the published layout, from name and shape alone.

    Each entry has its own random stream, seeded by its name, so the order of entries does not
    matter and another program gets the same bits.
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
    if name == "entropy_estimation.beta":
        return np.full(shape, 1.5)  # the shape of HPCM's generalised Gaussian
    if kind in ("beta", "gamma"):  # of a GDN, close to their initial values
        small = np.abs(normal)
        return 1 + 0.05 * small if kind == "beta" else 0.1**0.5 * np.eye(*shape) + 0.02 * small
    if kind == "quantiles":
        return 0.3 * normal + (-10, 0, 10)
    if kind.startswith(("_matrix", "_bias", "_factor")):
        return 0.4 * normal
    if kind in ("relative_position_params", "relative_position_table", "means_hyper"):
        return 0.5 * normal
    if kind == "scaling_factors":  # AuxT's bands: LL, LH and HL, and HH
        return np.repeat([0.5, 0.5, 0.5, 0.0], shape[-1] // 4) + 0.1 * normal
    if kind == "dt":  # DCAE's dictionary
        return normal
    if kind == "scales_hyper":
        return 1 + 0.5 * np.abs(normal)
    if name.startswith("adaptive_params_list.") or (kind == "scale" and len(shape) == 3):
        return 1 + 0.2 * normal
    if _SCALES_AND_MEANS.fullmatch(name):
        half = shape[0] // 2
        return np.concatenate([1.5 + normal[:half], 0.3 * normal[half:]])
    if kind == "bias":
        # The last bias of a scale network spreads the scales, some below the lower bound.
        spread = name.startswith("cc_scale_transforms.") and name.endswith(".4.bias")
        return 1.5 + normal if spread else 0.05 * normal
    if len(shape) == 1:
        return 1 + 0.1 * normal
    return _GAINS.get(name, 0.45) * normal * np.sqrt(1 / np.prod(shape[1:]))
