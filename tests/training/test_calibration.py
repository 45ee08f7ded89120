import copy
from typing import Any

import pytest
import torch
from stand_in import RandomCrops, TinyCodec
from torch import Tensor, nn

from tcm_lab.blocks.wavelet import HaarLinear
from tcm_lab.codec import build
from tcm_lab.training import Recipe, train
from tcm_lab.training.start import TARGET_STD, calibrate


@pytest.mark.parametrize("preset", ["tcm-nano", "tcm-nano-conv-only", "tcm-nano-transformer-only"])
def test_the_latent_grows_to_the_target_and_the_transforms_stay_the_same_function(
    preset: str,
) -> None:
    codec = build(preset, {"shortcut": "none"})
    x = RandomCrops(64).batch(0, 4)
    with torch.no_grad():
        before = codec.g_s(codec.g_a(x))
        factor = calibrate(codec, x)
        y = codec.g_a(x)
        after = codec.g_s(y)
    assert factor > 1
    assert (y - y.mean((0, 2, 3), keepdim=True)).std().item() == pytest.approx(TARGET_STD, rel=1e-4)
    assert torch.allclose(before, after, atol=1e-5)


def test_a_latent_that_is_wide_enough_is_left_alone() -> None:
    codec = TinyCodec()
    x = RandomCrops(16).batch(0, 4)
    assert calibrate(codec, x) > 1
    state = copy.deepcopy(codec.state_dict())
    with torch.no_grad():
        codec.g_a.weight.mul_(2)
        state["g_a.weight"] *= 2
    assert calibrate(codec, x) == 1
    assert all(torch.equal(value, state[name]) for name, value in codec.state_dict().items())


def test_only_recipes_that_ask_for_it_calibrate() -> None:
    recipe = Recipe(lambdas=(0.01,), steps=1, batch=4, crop=16, lr=1e-9)
    for asked in ("none", "calibrate"):
        codec = TinyCodec()
        before = codec.g_a.weight.norm().item()
        train(codec, recipe.changed(start=asked), RandomCrops(), accelerator="cpu")
        assert (codec.g_a.weight.norm().item() > 1.5 * before) == (asked == "calibrate")


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["patch", "staged", "wavelet"])
def test_calibration_scales_both_ends_of_a_linear_path(shortcut: str) -> None:
    codec = build("tcm-nano", {"shortcut": shortcut, "?_?.depth": 1})
    batch = torch.rand(2, 3, 64, 64)
    before = codec.g_a(batch)
    plain = codec.g_s(before)
    steps = [m for m in codec.g_a.modules() if isinstance(m, HaarLinear)]
    apart = [step.orthogonality() for step in steps]
    factor = calibrate(codec, batch)
    after = codec.g_a(batch)
    assert factor > 1
    torch.testing.assert_close(after, factor * before, rtol=1e-4, atol=1e-5)
    assert (after - after.mean((0, 2, 3), keepdim=True)).std() == pytest.approx(3, rel=1e-3)
    torch.testing.assert_close(codec.g_s(after), plain, rtol=1e-3, atol=1e-4)
    assert [step.orthogonality() for step in steps] == apart


@torch.no_grad()
@pytest.mark.parametrize("end", ["patch", "residual"])
def test_a_codec_whose_analysis_ends_otherwise_keeps_its_weights(end: str) -> None:
    changes = {"shortcut": "patch", "?_?.depth": 1, "g_a.stages.3.resample": end}
    codec = build("tcm-nano", changes)
    before = copy.deepcopy(codec.state_dict())
    assert calibrate(codec, torch.rand(2, 3, 64, 64)) == 1
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())


@pytest.mark.parametrize("given", ["two arguments", "a tuple"])
def test_a_codec_whose_transforms_are_called_otherwise_is_trained_as_it_is(
    given: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Analysis(nn.Conv2d):
        def forward(self, x: Tensor, *rates: int) -> Any:
            y = super().forward(x)
            if given == "a tuple":
                return y, rates
            (_,) = rates
            return y

    class Own(TinyCodec):
        def __init__(self) -> None:
            super().__init__()
            conv, self.g_a = self.g_a, Analysis(3, 6, 5, 4, 2)
            self.g_a.load_state_dict(conv.state_dict())

        def forward(self, x: Tensor, rate: Tensor | None = None) -> dict[str, object]:
            y = self.g_a(x, 1)
            latent = y if isinstance(y, Tensor) else y[0]
            y_hat, likelihoods = self.gaussian_conditional(latent, torch.ones(6, 1, 1))
            return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihoods}}

    recipe = Recipe(lambdas=(0.01,), steps=1, batch=1, crop=16, lr=1e-9, start="calibrate")
    codec = Own()
    before = codec.g_a.weight.detach().clone()
    train(codec, recipe, RandomCrops(), accelerator="cpu")
    torch.testing.assert_close(codec.g_a.weight.detach(), before)
    assert "Own: is not calibrated, since g_s(g_a(x)) fails" in caplog.text
