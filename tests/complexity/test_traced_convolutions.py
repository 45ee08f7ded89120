"""The convolutions that fvcore's tracer gets instead of torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tcm_lab.complexity.fvcore_counter import _convolve, _convolve_transposed


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"padding": "same"},
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
        {"padding": 2, "stride": 2},
        {"groups": 2, "dilation": 3},
    ],
)
def test_a_convolution_is_torchs_own(axes: int, how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(2, 4, *[9] * axes), torch.randn(6)
    weight = torch.randn(6, 4 // how.get("groups", 1), *[3] * axes)
    expected = getattr(torch, f"conv{axes}d")(x, weight, bias, **how)
    torch.testing.assert_close(_convolve(x, weight, bias, **how), expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "how", [{}, {"stride": 2, "output_padding": 1, "padding": 1}, {"groups": 2, "dilation": 2}]
)
def test_a_transposed_convolution_is_torchs_own(axes: int, how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(2, 4, *[5] * axes), torch.randn(6)
    weight = torch.randn(4, 6 // how.get("groups", 1), *[3] * axes)
    expected = getattr(torch, f"conv_transpose{axes}d")(x, weight, bias, **how)
    torch.testing.assert_close(_convolve_transposed(x, weight, bias, **how), expected)


def test_several_sizes_of_one_convolution_may_differ() -> None:
    x, weight = torch.randn(1, 2, 9, 11), torch.randn(2, 2, 3, 5)
    how: dict[str, Any] = {"padding": "same", "dilation": (2, 1)}
    torch.testing.assert_close(
        _convolve(x, weight, **how), torch.conv2d(x, weight, None, 1, "same", (2, 1))
    )
