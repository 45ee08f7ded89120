"""Training on a CPU keeps clear of oneDNN's strided 1x1 convolutions."""

from typing import Any

import pytest
import torch
from torch import nn

from tcm_lab._compat.onednn import StridedPointwise, safe_strided_convolutions
from tcm_lab.blocks import RESAMPLERS


@pytest.mark.parametrize("padding", [0, "valid"])
def test_the_replacement_computes_the_same_and_is_undone(padding: Any) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 1, stride=2, padding=padding)
    later = nn.Conv2d(8, 8, 3, stride=2, padding=1)
    model = nn.Sequential(first, later)
    x = torch.rand(2, 3, 33, 32)
    expected = model(x)
    with safe_strided_convolutions(model):
        assert isinstance(first, StridedPointwise)
        assert type(later) is nn.Conv2d
        assert torch.allclose(model(x), expected, atol=1e-6)
    assert type(first) is nn.Conv2d


def test_its_gradient_is_right_where_onednns_is_not() -> None:
    # mb32 ic4 ih64 oc8 kh1 sh2 in channels-last, one of the failing cases of oneDNN's issue 6035
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 1, stride=2)
    x = torch.rand(32, 4, 64, 64).to(memory_format=torch.channels_last)
    with safe_strided_convolutions(conv):
        conv(x).square().sum().backward()
    assert conv.weight.grad is not None
    y = conv(x).detach()
    expected = torch.einsum("bohw,bihw->oi", 2 * y, x[:, :, ::2, ::2])
    assert torch.allclose(conv.weight.grad[:, :, 0, 0], expected, rtol=1e-4)


def test_no_resampler_of_ours_has_such_a_convolution() -> None:
    options: list[dict[str, object]] = [{"type": name} for name in RESAMPLERS if name != "none"]
    options += [{"type": "conv", "kernel": 1}, {"type": "bottlenecks", "kernel": 1}]
    for each in options:
        down = RESAMPLERS.parse(each).build(4, 8, "down")
        layers = [type(layer) for layer in down.modules()]
        with safe_strided_convolutions(down):
            assert [type(layer) for layer in down.modules()] == layers
        assert down(torch.rand(2, 4, 33, 32)).shape == (2, 8, 17, 16)


def test_the_workaround_was_measured_with_this_torch() -> None:
    # oneDNN's kernel crashes the process, so that it cannot be called here. With a later torch,
    # measure again (the case above, in channels-last, without the workaround) and delete
    # _compat/onednn.py or raise this bound.
    assert tuple(map(int, torch.__version__.split(".")[:2])) <= (2, 13)
