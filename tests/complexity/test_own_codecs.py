"""Codecs as users write them: which direction runs what, and that they are left as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tcm_lab
from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.blocks.cost import Kind
from tcm_lab.complexity import measure_complexity, measure_device_peak, measure_timing
from tcm_lab.errors import LabError

C, SIDE, STRIDE = 8, 64, 16
PLACES = (SIDE // STRIDE) ** 2


class Attention(nn.Module):
    """Attention between all positions, by products between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv2d(C, 3 * C, 1), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).mT.chunk(3, -1)
        out: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).mT.unflatten(2, x.shape[2:]))
        return out


class Own(nn.Module):
    """A codec whose names do not show its directions, with attention in its encoder."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(3, C, 5, STRIDE, 2)
        last = nn.ConvTranspose2d(C, 3, STRIDE, STRIDE)
        self.net = nn.ModuleDict({"in": nn.Sequential(first, Attention()), "out": last})
        self.prior = import_compressai().entropy_models.EntropyBottleneck(C)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y_hat, likelihoods = self.prior(self.net["in"](x))
        return {"x_hat": self.net["out"](y_hat), "likelihoods": {"y": likelihoods}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        y = self.net["in"](x)
        return {"strings": [self.prior.compress(y)], "shape": y.shape[-2:]}

    def decompress(self, strings: Any, shape: Any) -> dict[str, Any]:
        return {"x_hat": self.net["out"](self.prior.decompress(strings[0], shape))}

    def update(self, force: bool = False) -> Any:
        return self.prior.update(force=force)


def test_attention_between_layers_costs_the_direction_that_runs_them() -> None:
    record = measure_complexity(Own(), (SIDE, SIDE))
    by_scope = {
        scope: sum(
            cost.macs.get(Kind.ATTENTION, 0)
            for part, cost in record.parts.items()
            if part not in record.absent[scope]
        )
        for scope in ("encode", "decode")
    }
    assert by_scope == {"encode": 2 * PLACES**2 * C, "decode": 0}


@pytest.mark.parametrize("measure", [measure_complexity, measure_timing])
def test_a_codec_is_left_without_the_tables_that_measuring_it_needs(measure: Any) -> None:
    codec, options = Own(), {"repeats": 1, "warm_up": 0} if measure is measure_timing else {}
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    drawn = torch.get_rng_state()
    measure(codec, (SIDE, SIDE), **options)
    after = codec.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_codec_of_another_type_is_counted_and_timed_as_it_is(dtype: torch.dtype) -> None:
    codec = Own().to(dtype)
    expected = measure_complexity(Own(), (SIDE, SIDE)).total_macs()
    assert measure_complexity(codec, (SIDE, SIDE)).total_macs() == expected
    assert measure_timing(codec, (SIDE, SIDE), repeats=1, warm_up=0).encode.wall.n == 1
    assert {parameter.dtype for parameter in codec.parameters()} == {dtype}


def test_a_wrapped_codec_is_the_codec_inside() -> None:
    codec = tcm_lab.build("tcm-nano")
    codec.g_a.stages[0] = nn.Identity()
    for wrapped in (torch.compile(codec), nn.DataParallel(codec)):
        with pytest.raises(LabError, match="was altered after it was built"):
            measure_complexity(wrapped, (SIDE, SIDE))
    expected = measure_complexity(Own(), (SIDE, SIDE))
    assert measure_complexity(torch.compile(Own()), (SIDE, SIDE)).parts == expected.parts


def test_measuring_a_device_draws_nothing_from_the_callers_generator() -> None:
    drawn = torch.get_rng_state()
    measure_device_peak()
    assert torch.equal(torch.get_rng_state(), drawn)
