"""MLIC++'s entropy model as an axis: contexts left out, options refused, starts, causality."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tcm_lab
from tcm_lab.codec import Channels, Codec, Coder, Places, part_costs
from tcm_lab.errors import ConfigError

WITHOUT: dict[str, dict[str, Any]] = {
    "whole": {},
    "anchors alone": {"channel": "none", "inter": "none", "intra": "none", "local": "none"},
    "no LRP": {"lrp": "none", "slices": 2},
    "one slice": {"slices": 1, "local.window_size": 3},
    "no channel context": {"channel": "none", "hidden": [8], "scale_table": "compressai"},
    "no intra": {"intra": "none", "inter.kernel": 3, "inter.inner": 16, "normalised": False},
}


def _codec(changes: dict[str, Any]) -> Codec:
    of_model = {f"entropy_model.{option}": value for option, value in changes.items()}
    codec = tcm_lab.build("mlicpp-nano", of_model).eval()
    with torch.no_grad():
        for parameter in codec.g_a.stages[-1].resample.parameters():
            parameter.mul_(20)
    return codec


@pytest.mark.parametrize("changes", WITHOUT.values(), ids=WITHOUT)
@torch.no_grad()
def test_whatever_contexts_it_has_it_decodes_what_it_coded(changes: dict[str, Any]) -> None:
    codec = _codec(changes)
    for batch, size, portable in ((1, (1, 1), True), (3, (65, 129), False)):
        x = torch.rand(batch, 3, *size)
        decoded = codec.decompress(**codec.compress(x, portable=portable))["x_hat"]
        if not portable:
            assert (decoded - codec(x)["x_hat"].clamp(0, 1)).abs().max() <= 1e-4
    counted = sum(cost.total_parameters for cost in part_costs(codec.config, (64, 64)).values())
    assert counted == sum(parameter.numel() for parameter in codec.parameters())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("slices", 7, r"slices = 7 does not divide latent_channels = 64; nearest .* 4 or 8"),
        ("intra.head_dim", 12, "intra: head_dim = 12 does not divide 16 channels; values .* 4, 8"),
        ("local.window_size", 4, "window_size.*4 is even"),
        ("local.depth", 4, "no field 'depth' in 'entropy_model.local'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    option: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tcm_lab.load_config("mlicpp-nano").override({f"entropy_model.{option}": value})


class _Recorded:
    """A coder that gives what it is told, and keeps what it is asked."""

    def __init__(self, y: Tensor) -> None:
        self.y = y
        self.asked: list[Tensor] = []

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        assert isinstance(places, Channels)
        self.asked.append(torch.cat((places.masked(mean), places.masked(scale)), 1))
        return places.masked(places.of(self.y))


@torch.no_grad()
def test_nothing_is_predicted_from_what_is_coded_later() -> None:
    model = _codec({"lrp": "none"}).context_model
    features = [torch.randn(1, 128, 6, 7)]
    y = torch.randn(1, 64, 6, 7)
    colour = (torch.arange(6)[:, None] + torch.arange(7)) % 2 == 1
    before = _Recorded(y)
    model(features, Coder(before))
    for step in range(8):  # four slices, each anchors first
        other = y.clone()
        own = slice(16 * (step // 2), 16 * (step // 2) + 16)
        other[:, own] += 5 * (colour if step % 2 == 0 else ~colour)
        after = _Recorded(other)
        model(features, Coder(after))
        changed = [not torch.equal(a, b) for a, b in zip(before.asked, after.asked, strict=True)]
        # All that is coded behind it depends on it: of a slice's others, later slices alone.
        assert changed == [later > step for later in range(8)]


@torch.no_grad()
def test_a_start_predicts_the_means_and_scales_it_is_given() -> None:
    model = _codec({}).context_model
    for coding_pass in (p for part in model for p in (part.anchors, part.others)):
        coding_pass.head[-1].weight.zero_()
    mean, scale = torch.randn(64), torch.rand(64) + 0.5
    model.start_at(mean, scale, torch.nn.Identity())
    recorded = _Recorded(torch.zeros(1, 64, 4, 4))
    model([torch.randn(1, 128, 4, 4)], Coder(recorded))
    found = torch.stack(recorded.asked).sum((1, 3, 4)).view(4, 2, 2, 16).sum(1) / 16
    assert torch.allclose(found[:, 0].flatten(), mean, atol=1e-5)
    assert torch.allclose(found[:, 1].flatten(), scale, atol=1e-5)
