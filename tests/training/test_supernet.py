"""The supernet: codecs as parts of one set of weights, trained together."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in import RandomCrops
from torch.func import functional_call

import tcm_lab
from tcm_lab._compat.onednn import StridedPointwise
from tcm_lab.codec import VariantConfig, build, load_config
from tcm_lab.errors import LabError
from tcm_lab.training import Recipe, SandwichLoss, SuperNet, train, train_supernet

LARGEST = load_config("tcm-nano").override(
    {"rate_levels": 2, "g_*.depth": 1, "h_*.depth": 1, "entropy_model.slices": 2}
)
CHANGES: tuple[dict[str, Any], ...] = (
    {"g_*.width": 16, "entropy_model.support": 0},
    {"g_*.split": 0.25, "entropy_model.attention.squeeze": 8},
    {"g_*.window_size": 4},
    {
        "g_s.stages.1.block.type": "tcm-sequential",
        "entropy_model.slices": 1,
        "entropy_model.attention": "none",
    },
)
CONFIGS = [*(LARGEST.override(change) for change in CHANGES), LARGEST]
RECIPE = Recipe(lambdas=(0.002, 0.02), steps=3, batch=1, crop=64, lr=1e-3, optimizer="muon")


@pytest.fixture(scope="module")
def supernet() -> SuperNet:
    net = SuperNet(CONFIGS)
    for config in reversed(net.covering):
        net.take(build(config, seed=1))
    return net


def test_the_largest_codec_is_all_that_it_covers_bit_for_bit(supernet: SuperNet) -> None:
    ours, own = supernet.codec(LARGEST).state_dict(), build(LARGEST, seed=1).state_dict()
    assert all(torch.equal(ours[name], own[name]) for name in own)
    alone = SuperNet([CONFIGS[0], CONFIGS[2], LARGEST])
    assert alone.covering == (LARGEST,)
    shapes = {name: tuple(value.shape) for name, value in alone.named_parameters()}
    assert shapes == {name: tuple(p.shape) for name, p in build(LARGEST).named_parameters()}


@pytest.mark.parametrize("config", CONFIGS[:-1])
def test_a_codec_computes_what_its_part_does(supernet: SuperNet, config: VariantConfig) -> None:
    codec, x = supernet.codec(config), torch.rand(1, 3, 64, 64)
    weights = supernet.weights(config)
    with torch.no_grad():
        out = functional_call(supernet.module(config).eval(), weights, (x,), {"rate": 1})
        assert torch.equal(out["x_hat"], codec(x, rate=1)["x_hat"])
    coded = codec.compress(x, rate=1)
    assert codec.decompress(**coded)["x_hat"].shape == x.shape


def test_gradients_land_in_the_part_and_are_the_codec_s_own(supernet: SuperNet) -> None:
    config, x = CONFIGS[1], torch.rand(1, 3, 64, 64)
    codec = supernet.codec(config)
    codec(x, rate=0)["x_hat"].square().sum().backward()
    weights = supernet.weights(config)
    out = functional_call(supernet.module(config).eval(), weights, (x,), {"rate": 0})
    supernet.zero_grad()
    out["x_hat"].square().sum().backward()
    own = {n: p.grad for n, p in codec.named_parameters() if p.grad is not None}
    landed = SuperNet(CONFIGS)
    for name in own:
        landed.get_parameter(name).data.zero_()
    parts = landed.weights(config)
    torch.autograd.backward([parts[name] for name in own], list(own.values()))
    for name, shared in supernet.named_parameters():
        expected = landed.get_parameter(name).grad
        if expected is None or name not in own:
            assert shared.grad is None or not shared.grad.any(), name
        else:
            assert shared.grad is not None
            assert torch.allclose(shared.grad, expected, rtol=1e-4, atol=1e-6), name
            assert expected.count_nonzero() == own[name].count_nonzero()


def test_a_linear_phase_without_a_linear_path_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net = SuperNet([LARGEST.override({"shortcut": "none", "?_?.depth": 0})])
    recipe = RECIPE.changed(steps=1, start="linear", linear_steps=2)
    train_supernet(net, recipe, RandomCrops(64), accelerator="cpu")
    assert "linear_steps 2: left out, since a supernet with shortcut none" in caplog.text


def test_a_supernet_of_one_codec_trains_as_that_codec_does() -> None:
    start = {"start": "linear", "linear_steps": 2, "linear_batch": 1}
    codec, recipe = build(LARGEST), RECIPE.changed(steps=2, **start)
    record = train(codec, recipe, RandomCrops(64), accelerator="cpu")
    net = SuperNet([LARGEST])
    found = train_supernet(net, recipe, RandomCrops(64), accelerator="cpu")
    assert found.loss == record.loss
    ours, own = net.codec(LARGEST).state_dict(), codec.state_dict()
    assert all(torch.equal(ours[name], p) for name, p in codec.named_parameters())
    assert own.keys() == ours.keys()


def test_an_interrupted_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    whole, resumed, recipe = SuperNet(CONFIGS), SuperNet(CONFIGS), RECIPE.changed(steps=2)
    train_supernet(whole, recipe, RandomCrops(64), accelerator="cpu")
    stops = RandomCrops(64, signal_at=(1, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train_supernet(resumed, recipe, stops, directory=tmp_path, accelerator="cpu")
    resumed = SuperNet(CONFIGS)
    train_supernet(resumed, recipe, RandomCrops(64), directory=tmp_path, accelerator="cpu")
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_trains_the_largest_the_smallest_and_others_and_distils(supernet: SuperNet) -> None:
    x, levels = torch.rand(1, 3, 64, 64), torch.tensor([1])
    losses = {}
    for share in (0.0, 1.0):
        torch.manual_seed(5)
        loss = SandwichLoss(supernet, RECIPE, share)
        drawn = [config.fingerprint for config in loss.drawn()]
        assert drawn[:2] == [LARGEST.fingerprint, CONFIGS[0].fingerprint]
        losses[share] = loss(x, levels)
    assert losses[0.0]["loss"] == losses[1.0]["loss"]  # the largest learns from the image alone
    assert losses[0.0]["total"] != losses[1.0]["total"]


def test_weights_are_kept_with_their_sizes(supernet: SuperNet, tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    supernet.save(path)
    again = SuperNet.load(path)
    between = LARGEST.override({"g_*.width": 16, "g_*.window_size": 4})  # was not among them
    ours, theirs = again.codec(between).state_dict(), supernet.codec(between).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(LabError, match="is larger than"):
        again.codec(LARGEST.override({"g_*.width": 48}))


@pytest.mark.usefixtures("own_layers")
def test_a_layer_of_the_user_s_keeps_clear_of_onednn_s_strided_1x1_convolutions() -> None:
    kinds: list[type[torch.nn.Module]] = []

    @tcm_lab.register_block("coarse")
    class Coarse(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.coarse = torch.nn.Conv2d(channels, channels, 1, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kinds.append(type(self.coarse))
            return x + torch.nn.functional.interpolate(self.coarse(x), x.shape[-2:])

    changes = {"rate_levels": 0, "?_?.depth": 0, "g_a.depth": 1, "g_a.block": "coarse"}
    config = LARGEST.override({**changes, "g_a.width": 8})
    net = SuperNet([config])
    net.take(build(config, seed=1))
    losses = SandwichLoss(net, RECIPE.changed(lambdas=(0.01,)), 0.5)(torch.rand(1, 3, 64, 64))
    losses["total"].backward()
    assert kinds == 3 * [StridedPointwise]
    assert type(net.module(config).get_submodule("g_a.stages.0.blocks.0.coarse")) is torch.nn.Conv2d


@pytest.mark.usefixtures("own_layers")
def test_a_layer_may_use_a_weight_and_a_whole_module_twice() -> None:
    @tcm_lab.register_block("tied")
    class Tied(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.there, self.back = (torch.nn.Conv2d(channels, channels, 1) for _ in range(2))
            self.back.weight = self.there.weight
            self.norm = torch.nn.BatchNorm2d(channels)
            self.again = self.norm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.again(self.back(self.norm(self.there(x))))

    changes = {"rate_levels": 0, "?_?.depth": 0, "g_s.depth": 1, "g_s.block": "tied"}
    config = LARGEST.override(changes)
    net, own = SuperNet([config]), build(config, seed=1)
    net.take(own)
    codec, x = net.codec(config), torch.rand(2, 3, 64, 64)
    assert torch.equal(codec(x)["x_hat"], own.eval()(x)["x_hat"])
    block = codec.get_submodule("g_s.stages.0.blocks.0")
    assert block.back.weight is block.there.weight
    SandwichLoss(net, RECIPE.changed(lambdas=(0.01,)), 0.5)(x)["total"].backward()
    found = [p.grad is not None for name, p in net.named_parameters() if ".there." in name]
    assert found == 6 * [True]


def test_weights_that_the_largest_codec_lacks_start_at_the_latent_in_its_unit() -> None:
    net = SuperNet(CONFIGS)
    recipe = RECIPE.changed(start="linear", steps=1, lr=1e-9, matrix_lr=1e-9, aux_lr=1e-9)
    train_supernet(net, recipe, RandomCrops(64), accelerator="cpu")
    codec = net.codec(CONFIGS[3])  # its only slice has weights of its own
    assert codec.y_unit is not None
    assert codec.y_unit.max() > 3  # in steps: the unit matters
    ends = [network.last_bias.abs().max().item() for network in codec.slices[0].networks]
    assert 0.5 < max(ends) < 1.5  # 0.7 of the spread, which is the unit
