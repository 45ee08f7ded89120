"""Image metrics on 8-bit RGB of decoded images against their originals, and their networks.

The cheap ones are always measured. LPIPS and DISTS use networks that cost more arithmetic than most
codecs, and are measured on request only; their weights are never downloaded here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab._compat.torchvision import make_torchvision_importable
from tcm_lab._utils.devices import arithmetic
from tcm_lab.errors import LabError, lookup

_LOSSLESS_DB = 100.0  # the maximum, also for infinity, which JSON cannot represent
_SSIM_MIN_SIDE = 11  # its window
_MS_SSIM_MIN_SIDE = 161  # five scales of that window
_NETWORK_MIN_SIDE = 64  # below this, AlexNet has nothing left to pool
_YUV_WEIGHTS = (6, 1, 1)


def measure_quality(
    x: Tensor, x_hat: Tensor, requested: Sequence[str] = ()
) -> dict[str, float | None]:
    """Return the image metrics by name; ``None`` for a metric that needs a larger image.

    Args:
        x: (1, 3, H, W) in [0, 255].
        x_hat: the same, decoded and rounded to integers.
        requested: names of metrics to measure on request.

    Raises:
        LabError: a requested metric's package or weights are missing.
    """
    with arithmetic("float32", x.device):  # in any precision of the codec
        values = {name: measure(x, x_hat) for name, measure in _ALWAYS.items()}
        return values | {name: _ON_REQUEST[name](x, x_hat) for name in requested}


def check_requested(names: Sequence[str]) -> None:
    """Refuse image metrics that can't be measured here, before anything is coded.

    Raises:
        LabError: a name is unknown, a package is missing, or weights are missing; the message says
            where to put them.
    """
    for name in names:
        lookup(_ON_REQUEST, name, "metric that is measured on request")
        _network(name)


def psnr_db(x: Tensor, x_hat: Tensor) -> float:
    """Return the PSNR over pixels and channels of two (1, 3, H, W) in [0, 255]; at most 100 dB."""
    mse = float((x - x_hat).double().square().mean())
    return _LOSSLESS_DB if mse == 0 else min(10 * math.log10(255**2 / mse), _LOSSLESS_DB)


def psnr_yuv_db(x: Tensor, x_hat: Tensor) -> float:
    """Return PSNR-YUV of two (1, 3, H, W) in [0, 255]: (6 Y + U + V) / 8 of the components' PSNRs.

    The components are BT.709's Y, Cb and Cr in full range at full resolution, not rounded, as in
    CompressAI; the weights are those of JVET and JPEG AI.
    """
    from compressai.transforms.functional import rgb2ycbcr

    pairs = zip(*(rgb2ycbcr(rgb.double() / 255).mul(255)[0] for rgb in (x, x_hat)), strict=True)
    weighted = zip(_YUV_WEIGHTS, (psnr_db(*pair) for pair in pairs), strict=True)
    return sum(weight * value for weight, value in weighted) / sum(_YUV_WEIGHTS)


def ssim(x: Tensor, x_hat: Tensor) -> float | None:
    """Return SSIM (Wang et al. 2004) of two (1, 3, H, W) in [0, 255], the mean over channels.

    Gaussian windows of 11 pixels lie entirely inside; ``None`` for a side below that.
    """
    if min(x.shape[-2:]) < _SSIM_MIN_SIDE:
        return None
    from pytorch_msssim import ssim as package_ssim

    return float(package_ssim(x, x_hat, data_range=255))


def ms_ssim(x: Tensor, x_hat: Tensor) -> float | None:
    """Return MS-SSIM of two (1, 3, H, W) in [0, 255]; ``None`` for a side below 161 pixels."""
    if min(x.shape[-2:]) < _MS_SSIM_MIN_SIDE:
        return None
    from pytorch_msssim import ms_ssim as package_ms_ssim

    return float(package_ms_ssim(x, x_hat, data_range=255))


def lpips(x: Tensor, x_hat: Tensor) -> float | None:
    """Return LPIPS 0.1 (Zhang et al. 2018) with AlexNet of two (1, 3, H, W) in [0, 255].

    ``None`` for a side below 64 pixels.
    """
    return _distance("lpips", 2 * x / 255 - 1, 2 * x_hat / 255 - 1)


def dists(x: Tensor, x_hat: Tensor) -> float | None:
    """Return DISTS (Ding et al. 2020) of two (1, 3, H, W) in [0, 255], at full resolution.

    ``None`` for a side below 64 pixels.
    """
    return _distance("dists", x / 255, x_hat / 255)


_Measure = Callable[[Tensor, Tensor], float | None]
_ALWAYS: Mapping[str, _Measure] = {
    "psnr_db": psnr_db,
    "psnr_yuv_db": psnr_yuv_db,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
}
_ON_REQUEST: Mapping[str, _Measure] = {"lpips": lpips, "dists": dists}


def _distance(name: str, x: Tensor, x_hat: Tensor) -> float | None:
    if min(x.shape[-2:]) < _NETWORK_MIN_SIDE:
        return None
    with torch.no_grad():
        return float(_network(name).to(x.device)(x, x_hat))


@cache
def _network(name: str) -> nn.Module:
    """Return a metric's network with its weights.

    The weights of LPIPS and DISTS themselves come with torchmetrics. They build on an ImageNet
    classifier from torchvision, which torchvision would download if it were missing.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise LabError(f'{name}: needs torchmetrics; pip install "tcm-lab[perceptual]".')
    make_torchvision_importable()
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    weights = {"lpips": AlexNet_Weights.DEFAULT, "dists": VGG16_Weights.DEFAULT}[name]
    _check_weights(name, weights.url)
    metric: Any
    if name == "lpips":
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        metric = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
    else:
        from torchmetrics.functional.image.dists import DISTSNetwork

        metric = DISTSNetwork()
    network: nn.Module = metric.eval()
    return network


def _check_weights(name: str, url: str) -> None:
    """Refuse to continue if torchvision would download weights or load a wrong file.

    Raises:
        LabError: the file is not in torch's folder of checkpoints, or has another content than its
            name says.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        raise LabError(
            f"{name}: needs the ImageNet weights {file.stem}, and nothing is downloaded "
            f"automatically. Put {url} into {file.parent}, or set TORCH_HOME to a folder whose "
            "hub/checkpoints has it."
        )
    prefix = file.stem.rpartition("-")[2]  # the first digits of its SHA-256
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(prefix):
        raise LabError(
            f"{name}: {file} is damaged or another file: its SHA-256 begins with "
            f"{digest[: len(prefix)]}. Download {url} again."
        )
