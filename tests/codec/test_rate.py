"""One set of weights for a whole rate-distortion curve."""

from typing import Any

import pytest
import torch

import tcm_lab
from tcm_lab.codec.gains import RateGains

LEVELS = 4


@pytest.fixture(scope="module")
def codec() -> Any:
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 1, "rate_levels": LEVELS}).eval()
    with torch.no_grad():
        for parameter in codec.g_a.stages[-1].resample.parameters():
            parameter.mul_(50)
    return codec


def test_at_the_start_the_inverse_gain_undoes_the_gain_at_every_rate() -> None:
    gains = RateGains(LEVELS, 5)
    rate = torch.linspace(0, LEVELS - 1, 13)
    product = gains.gain(rate) * gains.inverse(rate)
    assert product.shape == (13, 5, 1, 1)
    torch.testing.assert_close(product, torch.ones_like(product))


def test_at_a_level_the_gain_is_the_learned_one_and_between_two_their_geometric_mean() -> None:
    gains = RateGains(LEVELS, 5)
    torch.nn.init.normal_(gains.log_gain)
    learned = gains.log_gain.detach().exp()
    levels = gains.gain(torch.arange(LEVELS, dtype=torch.float32))[:, :, 0, 0]
    torch.testing.assert_close(levels, learned)
    between = gains.gain(torch.arange(LEVELS - 1) + 0.5)[:, :, 0, 0]
    torch.testing.assert_close(between, (learned[:-1] * learned[1:]).sqrt())


def test_a_higher_rate_has_a_larger_gain_and_takes_more_bits(codec: Any) -> None:
    gains = codec.y_gains.gain(torch.linspace(0, LEVELS - 1, 13))
    assert (gains.diff(dim=0) > 0).all()
    x = torch.rand(1, 3, 64, 64)
    coded = [codec.compress(x, rate) for rate in (0, 0.7, 1.4, 2.1, 3)]
    lengths = [sum(len(strings[0]) for strings in one["strings"]) for one in coded]
    assert lengths == sorted(set(lengths))


def test_a_codec_in_double_precision_has_its_rates_too() -> None:
    rate = torch.tensor([0.0, 1.3])
    gains = RateGains(LEVELS, 5)
    expected = gains.gain(rate)
    doubled = gains.double().gain(rate)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled.float(), expected)


def test_images_of_a_batch_may_have_rates_of_their_own(codec: Any) -> None:
    x = torch.rand(2, 3, 20, 30)
    with torch.no_grad():
        together = codec(x, torch.tensor([0.5, 3.0]))
        for i, rate in enumerate((0.5, 3.0)):
            alone = codec(x[i : i + 1], rate)
            torch.testing.assert_close(
                together["likelihoods"]["y"][i], alone["likelihoods"]["y"][0]
            )


def test_decoding_needs_the_rate_that_it_was_coded_at(codec: Any) -> None:
    x = torch.rand(1, 3, 20, 30)
    coded = codec.compress(x, 1.5)
    assert coded["rate"] == 1.5
    with torch.no_grad():
        shown = codec(x, 1.5)["x_hat"].clamp(0, 1)
    torch.testing.assert_close(codec.decompress(**coded)["x_hat"], shown, rtol=0, atol=1e-4)
    del coded["rate"]
    with pytest.raises(ValueError, match="tcm-nano needs a rate between 0 and 3"):
        codec.decompress(**coded)


@pytest.mark.parametrize("rate", [-0.1, 3.1, float("nan")])
def test_a_rate_out_of_range_is_refused(codec: Any, rate: float) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 3"):
        codec(torch.rand(1, 3, 8, 8), rate)


def test_a_codec_without_levels_takes_no_rate() -> None:
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 1})
    with pytest.raises(ValueError, match="tcm-nano has no rate levels; leave rate out"):
        codec(torch.rand(1, 3, 8, 8), 1.0)
