"""Distortion against its definitions."""

from __future__ import annotations

import math

import pytest
import torch

from tcm_lab.evaluation.measure import ms_ssim, psnr_db, to_bytes


def test_psnr_is_the_mean_squared_error_under_the_peak() -> None:
    x = torch.full((1, 3, 8, 8), 100.0)
    assert psnr_db(x, x) == 100  # infinity
    assert psnr_db(x, x + 1) == pytest.approx(20 * math.log10(255), abs=1e-12)
    half = x.clone()
    half[..., :4] += 10  # a mean squared error of 50
    assert psnr_db(x, half) == pytest.approx(10 * math.log10(255**2 / 50), abs=1e-12)


def test_a_file_keeps_the_nearest_of_256_levels() -> None:
    levels = to_bytes(torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0]))
    assert levels.tolist() == [0, 0, 0, 1, 255, 255]


def test_ms_ssim_needs_five_scales_of_its_window() -> None:
    x = 255 * torch.rand(1, 3, 161, 161)
    assert ms_ssim(x, x) == pytest.approx(1, abs=1e-6)
    assert ms_ssim(x[..., :160], x[..., :160]) is None
    assert ms_ssim(x[..., :160, :], x[..., :160, :]) is None
