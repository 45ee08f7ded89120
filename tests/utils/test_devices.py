"""Precisions by name, and float32 that stays float32."""

from __future__ import annotations

import pytest
import torch

from tcm_lab._utils.devices import arithmetic, checked_precision
from tcm_lab.errors import LabError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True)])
def test_products_take_tf32_only_where_it_was_asked_for(precision: str, allowed: bool) -> None:
    before = flags()
    assert before == (True, False)  # torch's own defaults
    with arithmetic(checked_precision(precision, GPU), GPU):
        assert flags() == (allowed, allowed)
    assert flags() == before


def test_an_error_in_the_block_leaves_the_flags_as_they_were() -> None:
    before = flags()
    with pytest.raises(RuntimeError, match="of the block"), arithmetic("tf32", GPU):
        raise RuntimeError("of the block")
    assert flags() == before


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_networks_compute_in_the_precision_that_is_named(
    precision: str, dtype: torch.dtype
) -> None:
    a = torch.rand(4, 4)
    with arithmetic(checked_precision(precision, CPU), CPU):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("tf32", "precision = tf32: only GPUs support it; use float32 on cpu."),
        ("half", "precision = half: unknown. Known: float32, tf32, bfloat16, float16."),
    ],
)
def test_what_a_device_has_not_is_refused(precision: str, message: str) -> None:
    with pytest.raises(LabError) as caught:
        checked_precision(precision, CPU)
    assert str(caught.value) == message
