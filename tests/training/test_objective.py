import math

import pytest
import torch
from stand_in import TinyCodec
from torch import Tensor

from tcm_lab.blocks.wavelet import HaarLinear
from tcm_lab.training import RateDistortionLoss
from tcm_lab.training.objective import SharedNoise, draw_levels, level_weights, seed_step


class Fixed(TinyCodec):
    """Returns what it is told to."""

    def forward(self, x: Tensor, rate: Tensor | None = None) -> dict[str, object]:
        likelihoods = {"y": torch.full((len(x), 8), 0.5), "z": torch.full((len(x), 4), 0.25)}
        return {"x_hat": x + 0.1, "likelihoods": likelihoods}


def test_the_loss_is_lambda_times_255_squared_mse_plus_bits_per_pixel() -> None:
    losses = RateDistortionLoss(Fixed(), (0.02,), "mse")(torch.rand(2, 3, 4, 4))
    assert losses["bpp"].item() == pytest.approx(16 / 16)
    assert losses["mse"].item() == pytest.approx(0.01)
    assert losses["loss"].item() == pytest.approx(1 + 0.02 * 255**2 * 0.01, rel=1e-5)


def test_a_codec_without_a_factorised_prior_has_no_auxiliary_loss() -> None:
    codec = Fixed()
    del codec.entropy_bottleneck  # whose losses CompressAI sums up, to the int 0 without any
    losses = RateDistortionLoss(codec, (0.02,), "mse")(torch.rand(2, 3, 4, 4))
    assert losses["aux"] == 0
    assert losses["total"].item() == pytest.approx(losses["loss"].item())


def test_every_sample_is_judged_by_the_lambda_of_its_level() -> None:
    x, levels = torch.rand(2, 3, 4, 4), torch.tensor([1, 1])
    low_high = (0.01, 0.05)
    losses = RateDistortionLoss(Fixed(levels=2), low_high, "mse")(x, levels)
    assert losses["loss"].item() == pytest.approx(1 + 0.05 * 255**2 * 0.01, rel=1e-5)
    weighted = losses["total"] - losses["aux"]
    assert weighted.item() == pytest.approx(losses["loss"].item() * level_weights(low_high)[1])


def test_ms_ssim_takes_the_place_of_the_squared_error() -> None:
    from pytorch_msssim import ms_ssim

    x = torch.rand(1, 3, 176, 176)
    losses = RateDistortionLoss(Fixed(), (8.0,), "ms-ssim")(x)
    bpp = 16 / 176**2
    expected = 8 * (1 - ms_ssim(x + 0.1, x, data_range=1.0).item()) + bpp
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_ms_ssim_is_that_of_float32_where_the_codec_computes_in_bfloat16() -> None:
    x, objective = torch.rand(1, 3, 176, 176), RateDistortionLoss(Fixed(), (8.0,), "ms-ssim")
    expected = objective(x)["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(x)["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_an_orthogonal_path_costs_nothing_in_bfloat16_either() -> None:
    codec, x = Fixed(), torch.rand(1, 3, 8, 8)
    codec.path = HaarLinear(3, 12, 2, "down")
    with torch.no_grad():
        codec.path.weight.copy_(torch.linalg.qr(torch.randn(12, 12)).Q)
    with torch.autocast("cpu", torch.bfloat16):
        losses = RateDistortionLoss(codec, (0.02,), "mse", orthogonality=1e6)(x)
    assert losses["total"].item() == pytest.approx((losses["loss"] + losses["aux"]).item())


def test_one_backward_pass_gives_quantiles_the_auxiliary_gradient_alone() -> None:
    torch.manual_seed(0)
    codec = TinyCodec()
    x = torch.rand(2, 3, 16, 16)
    RateDistortionLoss(codec, (0.01,), "mse")(x)["total"].backward()
    together = {name: p.grad.clone() for name, p in codec.named_parameters() if p.grad is not None}
    codec.zero_grad()
    codec.aux_loss().backward()
    for name, parameter in codec.named_parameters():
        if name.endswith("quantiles"):
            assert torch.equal(together[name], parameter.grad)
        else:
            assert parameter.grad is None or not parameter.grad.any()


def test_levels_are_balanced_over_any_run_of_steps_and_follow_the_seed() -> None:
    drawn = torch.cat([draw_levels(5, 8, 3, step) for step in range(10)])
    assert drawn.bincount().tolist() == [16] * 5
    assert torch.equal(draw_levels(5, 8, 3, 4), drawn[32:40])
    assert not torch.equal(draw_levels(5, 80, 4, 0), drawn)


def test_level_weights_balance_losses_that_grow_with_the_root_of_lambda() -> None:
    weights = level_weights((0.01, 0.04))
    assert sum(weights) == pytest.approx(2)
    assert weights[0] * math.sqrt(0.01) == pytest.approx(weights[1] * math.sqrt(0.04))
    assert level_weights((0.3,)) == [1]


@pytest.mark.parametrize(("shape", "dim"), [((2, 4, 3, 3), 0), ((4, 1, 10), 2)])
@pytest.mark.parametrize("last", [False, True], ids=["", "channels-last"])
@pytest.mark.parametrize("channels", [slice(None), slice(1, 3)], ids=["all", "some"])
def test_processes_draw_their_parts_of_one_noise(
    shape: tuple[int, ...], dim: int, last: bool, channels: slice
) -> None:
    whole = torch.zeros([2 * size if index == dim else size for index, size in enumerate(shape)])
    if last and whole.ndim == 4:
        whole = whole.to(memory_format=torch.channels_last)

    def drawn(like: Tensor) -> tuple[Tensor, Tensor]:
        seed_step(1, 2, 0)
        return torch.empty_like(like).uniform_(-0.5, 0.5), torch.rand_like(like)

    parts = []
    for rank, share in enumerate(whole.chunk(2, dim)):
        with SharedNoise(rank, 2):
            parts.append(drawn(share[:, channels] if dim == 0 else share))
    alone = drawn(whole[:, channels] if dim == 0 else whole)
    for found, expected in zip(zip(*parts, strict=True), alone, strict=True):
        assert torch.equal(torch.cat(found, dim), expected)


def test_a_step_on_the_cpu_does_not_begin_a_gpu_s_random_numbers_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", begun.append)
    torch.manual_seed(5)
    assert begun == [5]  # so torch seeds every GPU
    seed_step(1, 2, 0, torch.device("cpu"))
    assert begun == [5]
    drawn = torch.rand(3)
    torch.manual_seed(torch.initial_seed())  # of the step
    assert torch.equal(torch.rand(3), drawn)


def test_noise_differs_between_steps_and_between_attempts() -> None:
    drawn = []
    for step, attempt in ((1, 0), (2, 0), (1, 1)):
        seed_step(0, step, attempt)
        drawn.append(torch.rand(1).item())
    assert len(set(drawn)) == 3
