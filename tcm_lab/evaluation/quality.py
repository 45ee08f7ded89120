"""Distortion of a decoded image, as a decoder that writes 8-bit files would show it."""

from __future__ import annotations

import math

from torch import Tensor

_LOSSLESS_DB = 100.0  # stands for infinity, which JSON cannot hold
_MS_SSIM_MIN_SIDE = 161  # five scales of an 11-pixel window


def to_bytes(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to the 256 levels that a file keeps, as float32 in [0, 255]."""
    return (image.float() * 255).clamp(0, 255).round()


def psnr_db(x: Tensor, x_hat: Tensor) -> float:
    """PSNR over the pixels and channels of two (1, 3, H, W) in [0, 255]; 100 dB if equal."""
    mse = float((x - x_hat).double().square().mean())
    return _LOSSLESS_DB if mse == 0 else 10 * math.log10(255**2 / mse)


def ms_ssim(x: Tensor, x_hat: Tensor) -> float | None:
    """MS-SSIM of two (1, 3, H, W) in [0, 255], or ``None`` for a side below 161 pixels."""
    if min(x.shape[-2:]) < _MS_SSIM_MIN_SIDE:
        return None
    from pytorch_msssim import ms_ssim as package_ms_ssim

    return float(package_ms_ssim(x, x_hat, data_range=255))


def ms_ssim_db(value: float) -> float:
    """Return -10 log10(1 - MS-SSIM)."""
    return _LOSSLESS_DB if value >= 1 else -10 * math.log10(1 - value)
