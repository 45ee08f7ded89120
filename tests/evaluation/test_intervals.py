from functools import partial

import numpy as np
import pytest
import scipy.stats

from tcm_lab._utils.environment import environment
from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    ImageResult,
    Interpolation,
    RdCurve,
    RdPoint,
    RdRecord,
    Seeds,
    bd_rate,
    bd_rate_interval,
    lagrangian_interval,
)
from tcm_lab.evaluation.batched import bd_rates
from tcm_lab.training import Recipe

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
        assert interval.resampled == {"images": 12}
        assert interval.noise > 0  # of the seeds
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
    interval = lagrangian_interval([a], [far], lambdas=LAMBDAS[:1], samples=50)
    assert interval.low <= interval.value <= interval.high


def test_records_of_other_images_or_rates_are_refused() -> None:
    other = record().model_copy(update={"data_fingerprint": "e"})
    with pytest.raises(LabError, match="different sets of images"):
        bd_rate_interval([record()], [other])
    shorter = record()
    shorter = shorter.model_copy(update={"points": shorter.points[:2]})
    with pytest.raises(LabError, match="different rates"):
        bd_rate_interval([record(), shorter], [record()])


def test_seeds_vary_also_against_a_curve_of_more_rates() -> None:
    last = record().points[-1]
    finer = tuple(
        i.model_copy(update={"bits": 2 * i.bits, "psnr_db": i.psnr_db + 3}) for i in last.images
    )
    beyond = last.model_copy(update={"rate": 4, "images": finer})
    more = record().model_copy(update={"points": (*record().points, beyond)})
    curves = [record(0.9, noise=0.1, seed=seed) for seed in (1, 2, 3)]
    interval = bd_rate_interval([more], curves, samples=40)
    logs = [np.log1p(bd_rate(more.curve(), curve.curve()).percent / 100) for curve in curves]
    wider = scipy.stats.t.ppf(0.975, df=2) / scipy.stats.norm.ppf(0.975)
    assert interval.noise == pytest.approx(100 * wider * np.std(logs, ddof=1) / np.sqrt(3))


def test_exchanging_the_sides_gives_the_inverse_ratio_however_uncertain() -> None:
    before = [record(1.5, noise=0.1, seed=1), record(1.0, noise=0.1, seed=2)]
    after = [record(0.6, noise=0.1, seed=3), record(0.4, noise=0.1, seed=4)]
    for compare in (bd_rate_interval, partial(lagrangian_interval, lambdas=LAMBDAS)):
        there, back = (compare(*sides, samples=100) for sides in ((before, after), (after, before)))
        assert -100 < there.low < there.value < there.high
        assert there.high - there.value > 2 * (there.value - there.low)  # factors, not points
        for end, other in (("value", "value"), ("low", "high"), ("high", "low")):
            inverse = 100 / (1 + getattr(back, other) / 100) - 100
            assert getattr(there, end) == pytest.approx(inverse, rel=0.02), end


def rising(rng: np.random.Generator, points: int) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum(rng.exponential(size=points)) + 0.1, 25 + np.cumsum(rng.gamma(2, 1, points))


@pytest.mark.parametrize("points", [(2, 2), (2, 5), (3, 3), (4, 6), (6, 6)])
def test_many_bd_rates_at_once_are_those_of_the_package_one_by_one(points: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(points))
    pairs = [[rising(rng, count) for count in points] for _ in range(200)]
    sides = [
        np.stack([np.stack([bpp, bpp, psnr_db], axis=1) for bpp, psnr_db in side])
        for side in zip(*pairs, strict=True)
    ]
    found = bd_rates(sides[0], sides[1], 0.25)
    compared = 0
    for pair, percent in zip(pairs, found, strict=True):
        curves = [RdCurve(bpp=bpp, psnr_db=psnr_db) for bpp, psnr_db in pair]
        try:
            expected = bd_rate(*curves).percent
        except LabError:
            assert np.isnan(percent)
        else:
            assert percent == pytest.approx(expected, rel=1e-9, abs=1e-9)
            compared += 1
    assert compared > 80


def test_paired_seeds_are_paired_by_number_whatever_their_order() -> None:
    def seeds(*numbers: int, scale: float) -> list[RdRecord]:
        made = [record(scale, noise=0.1, seed=seed) for seed in numbers]
        recipes = [Recipe(steps=1, seed=seed) for seed in numbers]
        return [r.model_copy(update={"recipe": how}) for r, how in zip(made, recipes, strict=True)]

    paired = Seeds(paired=True)
    anchor = seeds(3, 1, 2, scale=1.0)
    for compare in (bd_rate_interval, partial(lagrangian_interval, lambdas=LAMBDAS)):
        # Every seed takes a tenth off its own rates: seeds agree to what bits are rounded by.
        same, shuffled = (
            compare(anchor, seeds(*order, scale=0.9), samples=20, seeds=paired)  # type: ignore[operator]
            for order in ((3, 1, 2), (1, 2, 3))
        )
        assert same == shuffled
        assert same.noise < 0.2


@pytest.mark.parametrize("method", ["pchip", "cubic", "akima"])
def test_every_interpolation_has_its_interval(method: Interpolation) -> None:
    curves = [record(0.9, noise=0.05, seed=seed) for seed in (1, 2, 3)]
    interval = bd_rate_interval([record()], curves, method, samples=60)
    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(-10, abs=4)


def test_the_interval_is_that_of_curves_resampled_one_by_one() -> None:
    anchor, curve = [record()], [record(0.9, noise=0.1, seed=seed) for seed in (1, 2)]
    tables = [
        np.array([[[(i.bpp, i.psnr_db) for i in p.images] for p in r.points] for r in records])
        for records in (anchor, curve)
    ]
    rng = np.random.default_rng(3)
    logs = []
    for _ in range(40):
        images = rng.integers(12, size=12)
        means = [table[:, :, images].mean(axis=(0, 2)) for table in tables]
        percent = bd_rate(*(RdCurve(bpp=m[:, 0], psnr_db=m[:, 1]) for m in means)).percent
        logs.append(np.log1p(percent / 100))
    interval = bd_rate_interval(anchor, curve, samples=40, seed=3)
    few = scipy.stats.t.ppf(0.975, df=11) * np.sqrt(12 / 11)  # of twelve images; see Interval
    ends = np.quantile(logs, scipy.stats.norm.cdf([-few, few]))
    each = [np.log1p(bd_rate(anchor[0].curve(), s.curve()).percent / 100) for s in curve]
    of_seeds = scipy.stats.t.ppf(0.975, df=1) * np.std(each, ddof=1) / np.sqrt(2)
    value = np.log1p(interval.value / 100)
    expected = value + np.array([-1, 1]) * np.hypot(ends - value, of_seeds)
    assert (interval.low, interval.high) == pytest.approx(tuple(100 * np.expm1(expected)), rel=1e-9)
