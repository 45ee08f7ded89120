import numpy as np
import pytest

from tcm_lab._utils.environment import environment
from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    ImageResult,
    RdPoint,
    RdRecord,
    bd_rate,
    bd_rate_interval,
    lagrangian_interval,
)

LAMBDAS = [0.005, 0.01, 0.02, 0.04]


def record(scale: float = 1.0, *, noise: float = 0.0, seed: int = 0, images: int = 12) -> RdRecord:
    """Images that differ widely in rate; ``scale`` multiplies all rates, ``noise`` each one."""
    hard = np.random.default_rng(9).lognormal(0, 0.8, images)
    rng = np.random.default_rng(seed)
    points = []
    for level, rate in enumerate((0.1, 0.2, 0.4, 0.8)):
        found = []
        for index in range(images):
            bpp = rate * scale * hard[index] * np.exp(noise * rng.standard_normal())
            found.append(
                ImageResult(
                    name=str(index), height=1000, width=1000, bits=round(1e6 * bpp),
                    estimated_bits=None, psnr_db=28 + 3 * level - hard[index],
                    ms_ssim=None, encode_ms=1, decode_ms=1,
                )
            )  # fmt: skip
        points.append(RdPoint(rate=level, images=tuple(found)))
    return RdRecord(
        name="x", model="x", points=tuple(points), data_fingerprint="d", environment=environment()
    )


def test_pairing_takes_the_difficulty_of_the_images_out_of_the_interval() -> None:
    interval = bd_rate_interval([record()], [record(0.9)], samples=100)
    assert interval.value == pytest.approx(-10, abs=0.01)
    assert interval.high - interval.low < 0.01


def test_the_interval_holds_the_figure_and_widens_with_the_noise() -> None:
    widths = []
    for noise in (0.02, 0.1):
        curves = [record(0.9, noise=noise, seed=seed) for seed in (1, 2, 3)]
        interval = bd_rate_interval([record()], curves, samples=200)
        assert interval.low < interval.value < interval.high
        assert interval.seeds == (1, 3)
        widths.append(interval.high - interval.low)
    assert widths[1] > 2 * widths[0]


def test_the_figure_on_all_images_is_that_of_the_mean_curves() -> None:
    a, b = record(), record(0.8, noise=0.1)
    interval = bd_rate_interval([a], [b], samples=20)
    assert interval.value == pytest.approx(bd_rate(a.curve(), b.curve()).percent)
    assert interval == bd_rate_interval([a], [b], samples=20)


def test_the_lagrangian_has_its_interval_even_where_bd_rate_has_none() -> None:
    a, far = record(), record(0.9)
    far = far.model_copy(update={"points": far.points[3:]})
    a = a.model_copy(update={"points": a.points[:1]})
    with pytest.raises(LabError, match="too few"):
        bd_rate_interval([a], [far])
    interval = lagrangian_interval([a], [far], LAMBDAS[:1], samples=50)
    assert interval.low <= interval.value <= interval.high


def test_records_of_other_images_or_rates_are_refused() -> None:
    other = record().model_copy(update={"data_fingerprint": "e"})
    with pytest.raises(LabError, match="different sets of images"):
        bd_rate_interval([record()], [other])
    shorter = record()
    shorter = shorter.model_copy(update={"points": shorter.points[:2]})
    with pytest.raises(LabError, match="different rates"):
        bd_rate_interval([record(), shorter], [record()])
