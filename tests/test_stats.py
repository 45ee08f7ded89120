"""Intervals against another implementation and against distributions whose answers are known."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from tcm_lab.errors import LabError
from tcm_lab.stats import (
    Draw,
    Interval,
    bootstrap,
    group_letters,
    mean_interval,
    percent_change,
    shares,
    within,
)

DATA = np.random.default_rng(4).lognormal(size=20)


@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std, np.max, scipy.stats.skew])
@pytest.mark.parametrize("level", [0.95, 0.68])
def test_the_interval_is_scipys_percentile_interval_of_the_same_draws_at_a_wider_level(
    statistic: object, level: float
) -> None:
    assert callable(statistic)
    # Hesterberg's expanded percentiles: Student's quantile, and n - 1 in place of n.
    student = scipy.stats.t.ppf((1 + level) / 2, df=19) * math.sqrt(20 / 19)
    theirs = scipy.stats.bootstrap(
        (DATA,), statistic, n_resamples=500, method="percentile",
        confidence_level=1 - 2 * scipy.stats.norm.sf(student),
        rng=np.random.default_rng(7), vectorized=False,
    ).confidence_interval  # fmt: skip
    ours = bootstrap(
        lambda draw: statistic(DATA[draw["images"]]), {"images": 20},
        samples=500, level=level, seed=7,
    )  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), rel=1e-12)
    assert ours.value == pytest.approx(statistic(DATA))
    assert (ours.resampled, ours.samples, ours.refused) == ({"images": 20}, 500, 0)


def test_all_draws_at_once_give_the_interval_of_one_by_one() -> None:
    table = np.random.default_rng(1).normal(size=(3, 12))  # seeds, images

    def one(draw: Draw) -> float:
        return float(table[draw["seeds"]][:, draw["images"]].mean())

    def all_at_once(draw: Draw) -> np.ndarray:
        return np.einsum("rs,ri,si->r", shares(draw["seeds"]), shares(draw["images"]), table)

    units = {"images": 12, "seeds": 3}
    slow, fast = bootstrap(one, units), bootstrap(all_at_once, units, vectorized=True)
    for end in ("value", "low", "high"):
        assert getattr(fast, end) == pytest.approx(getattr(slow, end), rel=1e-12)
    assert fast.resampled == slow.resampled == units


# Plain percentiles cover 50 % with two values, 75 % with three and 83 % with five.
@pytest.mark.parametrize("count", [2, 3, 5, 12, 60])
def test_a_95_percent_interval_of_a_mean_covers_it_in_95_percent_of_experiments(
    count: int,
) -> None:
    rng = np.random.default_rng(0)
    experiments = 400
    covered = 0
    for seed in range(experiments):
        data = rng.normal(3.0, 2.0, size=count)
        interval = bootstrap(
            lambda draw, data=data: shares(draw["images"]) @ data,
            {"images": count}, samples=400, seed=seed, vectorized=True,
        )  # fmt: skip
        covered += interval.low <= 3.0 <= interval.high
    assert covered / experiments == pytest.approx(0.95, abs=0.033)  # three standard errors


def test_the_width_is_that_of_the_normal_distribution() -> None:
    data = np.random.default_rng(3).normal(size=400)
    interval = bootstrap(
        lambda draw: shares(draw["images"]) @ data, {"images": 400}, samples=4000, vectorized=True
    )
    expected = 2 * 1.95996 * data.std() / 20
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)


def test_nothing_to_resample_leaves_the_value_alone() -> None:
    interval = bootstrap(lambda draw: 1.5, {"images": 1, "seeds": 1})
    assert (interval.low, interval.value, interval.high) == (1.5, 1.5, 1.5)
    assert interval.resampled == {}


def test_what_else_varies_widens_the_interval_as_independent_parts_add() -> None:
    alone = bootstrap(lambda draw: 1.5, {"images": 1}, noise=0.2)
    assert (alone.low, alone.high) == pytest.approx((1.5 - 0.391993, 1.5 + 0.391993), abs=1e-6)
    without = bootstrap(lambda draw: DATA[draw["images"]].mean(), {"images": 20})
    both = bootstrap(lambda draw: DATA[draw["images"]].mean(), {"images": 20}, noise=0.2)
    assert both.high - both.value == pytest.approx(np.hypot(without.high - both.value, 0.391993))
    assert both.value - both.low == pytest.approx(np.hypot(both.value - without.low, 0.391993))
    assert both.noise == 0.2


@pytest.mark.parametrize("vectorized", [False, True])
def test_few_refused_draws_are_counted_and_many_refuse_the_interval(vectorized: bool) -> None:
    def refusing(least: int) -> object:
        def values(draw: Draw) -> object:
            distinct = [len(set(row)) for row in np.atleast_2d(draw["images"]).tolist()]
            found = [float(n) if n >= least else float("nan") for n in distinct]
            return found if vectorized else found[0]

        return values

    some = bootstrap(refusing(10), {"images": 20}, vectorized=vectorized)  # type: ignore[arg-type]
    assert 0 < some.refused < 50
    assert some.samples + some.refused == 1000
    with pytest.raises(LabError, match="of 1000 resamples gave no value"):
        bootstrap(refusing(13), {"images": 20}, vectorized=vectorized)  # type: ignore[arg-type]
    with pytest.raises(LabError, match="the data themselves give no value"):
        bootstrap(refusing(21), {"images": 20}, vectorized=vectorized)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "excludes"), [(-2, -1, True), (-1, 1, False), (0, 1, False), (0.1, 2, True)]
)
def test_an_interval_excludes_zero_only_if_both_ends_are_on_one_side(
    low: float, high: float, excludes: bool
) -> None:
    interval = bootstrap(lambda draw: (low + high) / 2, {"images": 1})
    assert interval.model_copy(update={"low": low, "high": high}).excludes_zero == excludes


def test_means_and_paired_changes_are_those_of_the_drawn_images() -> None:
    before, after = DATA, 1.5 * DATA + np.random.default_rng(2).normal(scale=0.1, size=20)

    def change(draw: Draw) -> float:
        images = draw["images"]
        return float(100 * (after[images].mean() / before[images].mean() - 1))

    for fast, slow in (
        (
            mean_interval(before.tolist()),
            bootstrap(lambda d: DATA[d["images"]].mean(), {"images": 20}),
        ),
        (percent_change(before.tolist(), after.tolist()), bootstrap(change, {"images": 20})),
    ):
        for end in ("value", "low", "high"):
            assert getattr(fast, end) == pytest.approx(getattr(slow, end), rel=1e-9)
        assert fast.resampled == {"images": 20}
    # Paired: the images' own spread, larger than the change's, is not in it.
    paired = percent_change(before.tolist(), after.tolist())
    assert 45 < paired.low < paired.value < paired.high < 55


def test_one_image_establishes_nothing() -> None:
    for interval in (mean_interval([3.0]), percent_change([1.0], [1.2])):
        assert interval.low == interval.value == interval.high
        assert not interval.excludes_zero


@pytest.mark.parametrize("seed", range(40))
def test_two_share_a_letter_exactly_if_they_are_not_distinguishable(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 9))
    differ = rng.random((count, count)) < rng.random()
    letters = group_letters(count, lambda i, j: bool(differ[i, j]))
    for i, j in combinations(range(count), 2):
        assert bool({*letters[i]} & {*letters[j]}) != differ[i, j]
    # No letter more than there are largest sets of which no two differ.
    alike = [
        set(group)
        for size in range(1, count + 1)
        for group in combinations(range(count), size)
        if not any(differ[i, j] for i, j in combinations(group, 2))
    ]
    largest = [group for group in alike if not any(group < other for other in alike)]
    assert len({*"".join(letters)}) == len(largest)
    assert letters[0].startswith("a")


def test_ends_stay_within_the_range_of_the_statistic() -> None:
    wide = Interval(value=0.7, low=-1.4, high=1.3)
    assert within(wide, -1, 1) == Interval(value=0.7, low=-1, high=1)
    assert within(wide, -math.inf, math.inf) == wide
