"""The wavelet side path against its definition: filters, gains, projections, one after another."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tcm_lab
from tcm_lab.blocks.wavelet import HaarLinear, haar_linear_cost
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import ConfigError

#: LL, LH, HL, HH as the paper's code has them, [row][column], each to be halved.
FILTERS = torch.tensor(
    [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
).double()


def _analysed(x: Tensor, levels: int) -> Tensor:
    """Return all subbands, subband by subband."""
    for _ in range(levels):
        bands = [
            F.conv2d(x, filter.expand(x.shape[1], 1, 2, 2) / 2, stride=2, groups=x.shape[1])
            for filter in FILTERS
        ]
        x = torch.cat(bands, 1)
    return x


def _synthesised(bands: Tensor, levels: int) -> Tensor:
    for _ in range(levels):
        c = bands.shape[1] // 4
        bands = sum(
            F.conv_transpose2d(part, filter.expand(c, 1, 2, 2) / 2, stride=2, groups=c)
            for part, filter in zip(bands.chunk(4, 1), FILTERS, strict=True)
        )
    return bands


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_step_is_subbands_gains_and_a_projection(levels: int) -> None:
    x, f = torch.randn(2, 3, 8, 12).double(), 2**levels
    down = HaarLinear(3, 5, f, "down").double()
    torch.nn.init.normal_(down.log_gain)
    gain = down.log_gain.exp().view(1, -1, 1, 1)
    expected = F.linear((_analysed(x, levels) * gain).movedim(1, -1), down.weight, down.bias)
    torch.testing.assert_close(down(x), expected.movedim(-1, 1), rtol=1e-9, atol=1e-12)
    up = HaarLinear(3, 5, f, "up").double()
    torch.nn.init.normal_(up.log_gain)
    bands = F.linear(x.movedim(1, -1), up.weight, up.bias).movedim(-1, 1)
    expected = _synthesised(bands / up.log_gain.exp().view(1, -1, 1, 1), levels)
    torch.testing.assert_close(up(x), expected, rtol=1e-9, atol=1e-12)


def test_orthogonal_projections_are_at_no_distance_whichever_side_is_shorter() -> None:
    for c_in, c_out in ((3, 5), (3, 40)):
        step = HaarLinear(c_in, c_out, 2, "down")
        assert step.orthogonality() > 0.01
        torch.nn.init.orthogonal_(step.weight)
        assert step.orthogonality() < 1e-10


CHANGES = {"shortcut": "wavelet", "entropy_model.attention": "none"}


def test_it_is_counted_as_torch_does_and_the_size_of_an_image_is_any() -> None:
    config = tcm_lab.load_config("tcm-nano").override(CHANGES)
    formula, counted = (
        measure_complexity(config, (70, 130), counter=counter) for counter in ("formula", "torch")
    )
    for part in ("g_a", "g_s"):
        assert formula.parts[part].parameters == counted.parts[part].parameters
        for kind in ("linear", "convolution"):
            assert formula.parts[part].macs[kind] == counted.parts[part].macs[kind]
    codec = tcm_lab.build(config, {"?_?.depth": 1}).eval()
    for size in ((1, 1), (65, 129)):
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            shown = codec(x)["x_hat"].clamp(0, 1)
        decoded = codec.decompress(**codec.compress(x))["x_hat"]
        torch.testing.assert_close(decoded, shown, rtol=0, atol=1e-4)
    assert HaarLinear(3, 5, 2, "down")(torch.rand(1, 3, 7, 9)).shape == (1, 5, 4, 5)
    assert haar_linear_cost(3, 5, 2, "down", 7, 9).macs == {"linear": 12 * 5 * 20}


def test_steps_join_at_every_stage_of_any_depth_and_feed_on_themselves() -> None:
    stages = [
        {"resample": {"type": "conv", "stride": 2}, "width": 6, "depth": 2, "block": "residual"},
        {"resample": {"type": "conv", "stride": 1}},
    ]
    codec = tcm_lab.build(
        "tcm-nano", {**CHANGES, "g_a": {"stages": stages}, "g_s": {"stages": stages}}
    )
    x = torch.rand(1, 3, 16, 16)
    first, second = codec.g_a.stages
    a, b = codec.g_a.wavelet
    y = second.resample(first.blocks(first.resample(x) + a(x))) + b(a(x))
    torch.testing.assert_close(codec.g_a(x), y)
    first, second = codec.g_s.stages
    a, b = codec.g_s.wavelet
    torch.testing.assert_close(codec.g_s(y), second(first(y) + a(y)) + b(a(y)))


@pytest.mark.usefixtures("own_layers")
def test_strides_that_are_no_power_of_two_are_refused() -> None:
    class Third(nn.Conv2d):
        def __init__(self, c_in: int, c_out: int, factor: int = 3) -> None:
            super().__init__(c_in, c_out, factor, stride=factor)

    tcm_lab.register_resampler("third")(Third)
    third = {"resample": "third"}
    with pytest.raises(ConfigError, match=r"wavelet halves sides, but g_a.stages.0.resample.* 3"):
        tcm_lab.build(
            "tcm-nano", {**CHANGES, "g_a": {"stages": [third]}, "g_s": {"stages": [third]}}
        )


def test_training_is_drawn_to_orthogonal_projections_by_the_weight_given() -> None:
    from tcm_lab.training.objective import RateDistortionLoss

    codec = tcm_lab.build("tcm-nano", {**CHANGES, "?_?.depth": 0})
    x = torch.rand(1, 3, 64, 64)
    totals = []
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        totals.append(RateDistortionLoss(codec, (0.01,), "mse", weight)(x)["total"])
    steps = [*codec.g_a.wavelet, *codec.g_s.wavelet]
    expected = 0.1 * sum(step.orthogonality() for step in steps)
    torch.testing.assert_close(totals[1] - totals[0], expected, rtol=1e-3, atol=1e-5)
