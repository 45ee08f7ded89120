"""The convolutions that fvcore's tracer gets instead of torch's own."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from tcm_lab.complexity.counters.fvcore import convolve

FORWARD: list[dict[str, Any]] = [
    {},
    {"padding": "same"},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"padding": 2, "stride": 2},
    {"groups": 2, "dilation": 3},
]
TRANSPOSED: list[dict[str, Any]] = [
    {},
    {"stride": 2, "output_padding": 1, "padding": 1},
    {"groups": 2, "dilation": 2},
]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("transposed", "how"),
    [*((False, how) for how in FORWARD), *((True, how) for how in TRANSPOSED)],
)
def test_a_convolution_is_torchs_own(axes: int, transposed: bool, how: dict[str, Any]) -> None:
    c_in, c_out, groups = 4, 6, how.get("groups", 1)
    x, bias = torch.randn(2, c_in, *[9] * axes), torch.randn(c_out)
    filters = (c_in, c_out // groups) if transposed else (c_out, c_in // groups)
    weight = torch.randn(*filters, *[3] * axes)
    theirs = getattr(torch, f"conv_transpose{axes}d" if transposed else f"conv{axes}d")
    torch.testing.assert_close(
        convolve(theirs, x, weight, bias, **how), theirs(x, weight, bias, **how)
    )


def test_several_sizes_of_one_convolution_may_differ() -> None:
    x, weight = torch.randn(1, 2, 9, 11), torch.randn(2, 2, 3, 5)
    how: dict[str, Any] = {"padding": "same", "dilation": (2, 1)}
    torch.testing.assert_close(
        convolve(torch.conv2d, x, weight, **how), torch.conv2d(x, weight, None, 1, "same", (2, 1))
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_an_even_kernel_gives_as_many_places_as_it_takes(axes: int) -> None:
    x, weight = torch.randn(1, 2, *[9] * axes), torch.randn(2, 2, *[4, 3, 2][:axes])
    how: dict[str, Any] = {"padding": "same", "dilation": 3}
    theirs = getattr(torch, f"conv{axes}d")
    with warnings.catch_warnings(action="ignore"):  # torch warns of the padding that it adds
        torch.testing.assert_close(convolve(theirs, x, weight, **how), theirs(x, weight, **how))
