"""Paired curves and what is said of larger budgets: simulated where the truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import curve_fit

from tcm_lab.errors import ConfigError, LabError
from tcm_lab.study.budget import Course, budget_table
from tcm_lab.study.estimators.extrapolation import Extrapolation, extrapolate
from tcm_lab.study.estimators.paired_curve import PairedRows, paired_curve
from tcm_lab.study.estimators.paired_loss import Extrapolated
from tcm_lab.training import get_recipe

STEPS = np.arange(10, 501, 10)
DRAWS = 100


def rows(truth: np.ndarray, sd: float, seed: int, *, alike: float = 0.0, seeds: int = 1):
    """Return a curve with noise of which neighbours share a part."""
    rng = np.random.default_rng(seed)
    white = rng.normal(0, sd * np.sqrt(1 - alike**2), (seeds, len(truth)))
    noise = np.zeros_like(white)
    for place in range(len(truth)):
        before = noise[:, place - 1] if place else white[:, 0]
        noise[:, place] = alike * before + white[:, place]
    percent = tuple(tuple(row) for row in (truth + noise).tolist())
    return PairedRows(steps=tuple(STEPS.tolist()), percent=percent)


def power_law(steps: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return a + b * (steps / STEPS[-1]) ** -c


@pytest.mark.parametrize(("level", "alike"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.4), (-0.3, 0.4)])
def test_noise_about_a_constant_hardly_ever_looks_like_a_crossing(
    level: float, alike: float
) -> None:
    false = ahead = 0
    for seed in range(DRAWS):
        drawn = rows(np.full(len(STEPS), level), 0.4, seed, alike=alike)
        false += paired_curve(drawn).crossed is not None
        ahead += extrapolate(drawn).turns(100 * STEPS[-1]) is not None
    assert false <= 0.05 * DRAWS
    assert ahead <= 0.05 * DRAWS


def test_a_crossing_in_the_data_is_found_where_it_is() -> None:
    truth = power_law(STEPS, -1.5, 1.0, 0.7)  # 0 at 280 steps
    found = [paired_curve(rows(truth, 0.1, seed)).crossed for seed in range(40)]
    assert paired_curve(rows(truth, 0.1, 0)).steps == STEPS[-1]
    known = [step for step in found if step is not None]
    assert len(known) >= 0.9 * len(found)
    assert 250 <= np.median(known) <= 400


def test_a_crossing_after_the_data_is_predicted_where_it_will_be() -> None:
    truth = power_law(STEPS, -1.0, 1.3, 0.5)  # 0 at 845 steps, of which 500 are seen
    found = [extrapolate(rows(truth, 0.05, seed)).turns(10 * STEPS[-1]) for seed in range(60)]
    known = [turn for turn in found if turn is not None]
    assert len(known) >= 0.9 * len(found)
    assert np.mean([turn.low <= 845 <= turn.high for turn in known]) >= 0.85


@pytest.mark.parametrize("seed_sd", [0.05, 0.1])
def test_what_seeds_add_moves_the_turn_that_is_predicted(seed_sd: float) -> None:
    truth, found = power_law(STEPS, -1.0, 1.3, 0.5), []
    for seed in range(120):
        added = np.random.default_rng(1000 + seed).normal(0, seed_sd)
        drawn = rows(truth + added, 0.05, seed)
        found.append(extrapolate(drawn, seed_sd=seed_sd).turns(100 * STEPS[-1]))
    known = [turn for turn in found if turn is not None]
    assert len(known) >= 0.7 * len(found)
    assert np.mean([turn.low <= 845 <= turn.high for turn in known]) >= 0.9


@pytest.mark.parametrize("law", [(-1.0, 1.3, 0.5), (0.4, -0.6, 1.0), (0.5, 0.0, 0.3)])
@pytest.mark.parametrize("alike", [0.0, 0.4])
def test_predictions_hold_the_truth_as_often_as_they_promise(
    law: tuple[float, float, float], alike: float
) -> None:
    inside = 0
    for seed in range(DRAWS):
        found = extrapolate(rows(power_law(STEPS, *law), 0.3, seed, alike=alike))
        then = found.at(10 * STEPS[-1])
        truth = power_law(np.array([10.0 * STEPS[-1]]), *law)[0]
        inside += then.low <= truth <= then.high
    assert inside >= 0.9 * DRAWS


@pytest.mark.parametrize("law", [(-1.0, 1.3, 0.5), (0.4, -0.6, 1.0), (0.5, 0.9, 0.3)])
def test_the_fit_is_that_of_scipy(law: tuple[float, float, float]) -> None:
    drawn = rows(power_law(STEPS, *law), 0.02, 3)
    late = 0.2 * STEPS[-1] < STEPS
    y = np.array(drawn.percent[0])[late]
    theirs, _ = curve_fit(power_law, STEPS[late].astype(float), y, p0=law, maxfev=20000)
    ours = extrapolate(drawn)
    for times in (1, 3, 10):
        then = ours.at(times * STEPS[-1])
        expected = power_law(np.array([float(times * STEPS[-1])]), *theirs)[0]
        assert abs(then.value - expected) < 0.5 * (then.high - then.low) + 0.01


def test_what_a_cooldown_does_to_the_curve_is_left_out() -> None:
    truth, until = power_law(STEPS, -1.0, 1.3, 0.5), int(0.8 * STEPS[-1])
    cooled = np.where(until < STEPS, truth + 2.0, truth)
    plain, left_out = (
        extrapolate(rows(curve, 0.02, 3), end=until).at(10 * STEPS[-1]) for curve in (truth, cooled)
    )
    assert plain == left_out
    expected = power_law(np.array([10.0 * STEPS[-1]]), -1.0, 1.3, 0.5)[0]
    assert left_out.low <= expected <= left_out.high
    assert extrapolate(rows(cooled, 0.02, 3)).at(10 * STEPS[-1]).value > left_out.high


@pytest.mark.parametrize("begin", [0.0, 0.2, 0.33, 0.7])
def test_the_shortest_training_that_is_taken_has_losses_enough_before_its_cooldown(
    begin: float,
) -> None:
    recipe = get_recipe("study")
    fewest = Extrapolated(begin=begin).fewest(recipe)
    until = recipe.changed(steps=fewest).comparable_until
    steps = range(10, fewest + 1, 10)
    noisy = np.random.default_rng(0).normal(1, 0.1, len(steps))
    curve = PairedRows(steps=tuple(steps), percent=(tuple(noisy.tolist()),))
    assert extrapolate(curve, begin=begin, end=until).at(fewest).value == pytest.approx(1, abs=0.3)
    with pytest.raises(ConfigError, match=r"cooldown, which begins at 0\.8 of the steps"):
        Extrapolated(begin=0.8).fewest(recipe)


def test_more_noise_widens_what_is_said_of_larger_budgets_until_nothing_is() -> None:
    truth = power_law(STEPS, -1.0, 1.3, 0.5)
    widths = []
    for sd in (0.02, 0.1, 0.5):
        then = extrapolate(rows(truth, sd, 1)).at(10 * STEPS[-1])
        widths.append(then.high - then.low)
    assert widths == sorted(widths)
    lost = extrapolate(rows(truth, 3.0, 1))
    assert lost.turns(10 * STEPS[-1]) is None
    assert lost.widest() == 0


def test_the_noise_of_seeds_widens_every_window_and_prediction() -> None:
    drawn = rows(np.full(len(STEPS), 0.4), 0.2, 0)
    plain, wide = (paired_curve(drawn, seed_sd=sd).last for sd in (0.0, 0.5))
    assert wide.high - wide.low > 1.9 > plain.high - plain.low
    near, far = (extrapolate(drawn, seed_sd=sd).at(5000) for sd in (0.0, 0.5))
    assert far.high - far.low > near.high - near.low


def test_codecs_that_begin_alike_are_not_compared_without_noise() -> None:
    late = np.random.default_rng(0).normal(0, 0.3, 48)
    percent = tuple([0.0] * 12 + late.tolist())
    steps = tuple(range(10, 601, 10))
    found = paired_curve(PairedRows(steps=steps, percent=(percent,)))
    alone = paired_curve(PairedRows(steps=steps[:48], percent=(tuple(late.tolist()),)))
    assert found.last.noise == pytest.approx(alone.last.noise, rel=0.5)
    assert found.crossed is None
    never = paired_curve(PairedRows(steps=steps, percent=((0.0,) * 60,)))
    assert (never.last.low, never.last.high) == (0, 0)


def test_where_a_curve_settles_is_the_first_window_that_agrees_with_the_last() -> None:
    truth = np.where(STEPS <= 200, 3.0, 1.0)
    assert paired_curve(rows(truth, 0.1, 0)).unchanged_since == 250
    # Windows that differ from the last, though not from the one before it, don't count as settled.
    slow = np.select([STEPS <= 400, STEPS <= 450], [1.12, 1.06], 1.0)
    assert paired_curve(rows(slow, 0.05, 0)).unchanged_since == 450
    rising = np.linspace(0, 10, len(STEPS))
    assert paired_curve(rows(rising, 0.1, 0)).unchanged_since is None


def test_a_sign_is_certain_up_to_the_budget_at_which_it_turns() -> None:
    spread = np.linspace(0.99, 1.01, 100)
    turning = Extrapolation(steps=100, a=-spread, b=1.5 * spread, c=spread)  # 0 at 150 steps
    assert 1.3 < turning.widest() <= 1.5
    staying = Extrapolation(steps=100, a=spread, b=1.5 * spread, c=spread)
    assert staying.widest(50) == pytest.approx(50)


def test_too_few_rows_say_nothing() -> None:
    few = PairedRows(steps=(10, 20, 30), percent=((0.1, 0.2, 0.3),))
    with pytest.raises(LabError, match="3 losses"):
        extrapolate(few, begin=0)
    with pytest.raises(LabError, match="0 losses"):  # of a training that is all cooldown
        extrapolate(rows(np.zeros(len(STEPS)), 0.1, 0), end=0)


@pytest.mark.parametrize(("count", "first"), [(12, 40), (16, 80), (50, 250)])
def test_the_column_of_the_first_half_says_where_its_window_ends(count: int, first: int) -> None:
    percent = tuple(float(n) for n in range(count))
    curve = paired_curve(PairedRows(steps=tuple(STEPS[:count].tolist()), percent=(percent,)))
    summary = SimpleNamespace(called="a", name="a", intervals={}, records=(0,))
    table = budget_table([Course(summary, curve, None, {})])
    column = next(column for column in table.columns if column.key == "half")
    assert column.header == f"at {first} steps"
    shown = table.rows[0].values["half"].value
    window = next(w for end, w in zip(curve.ends, curve.windows, strict=True) if end == first)
    assert shown == window.value
