"""Rank agreement: against Kendall's own count of pairs, and against orders that are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from surrogate import SPACE, curve

from tcm_lab.codec import load_config
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import LabError
from tcm_lab.evaluation import lagrangian_cost
from tcm_lab.study.agreement import agreement
from tcm_lab.study.compare import compare_studies, rank_agreement, ranking_table
from tcm_lab.study.estimators import Train
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.result import StudyResult
from tcm_lab.study.space import parse_space
from tcm_lab.training import get_recipe

NANO = load_config("tcm-nano")
COUNTED = measure_complexity(NANO, (64, 64))
LAMBDAS = (0.0025, 0.0067, 0.018, 0.05)


def trainings(goods: Sequence[float], seeds: int = 1, noise: float = 0.0) -> list[TrialRecord]:
    """One variant for each quality, trained by several seeds that differ by chance."""
    chance = np.random.default_rng(len(goods))
    return [
        TrialRecord(
            number=len(goods) * seed + n,
            label=str(n),
            params={"n": n},
            config=NANO.model_dump(mode="json"),
            fingerprint=f"{n:016x}",
            identity=f"{n}-{seed}",
            is_baseline=n == 0,
            seed=seed,
            recipe=get_recipe("scratch"),
            lambdas=LAMBDAS,
            state="complete",
            steps=800,
            complexity=COUNTED,
            training=None,
            rd=curve(NANO, bonus=good + noise * chance.normal()),
        )
        for n, good in enumerate(goods)
        for seed in range(seeds)
    ]


def test_tau_counts_the_pairs_that_both_order_alike() -> None:
    first, second = (0.0, 0.1, 0.2, 0.3, 0.4), (0.0, 0.2, 0.1, 0.4, 0.3)
    found = rank_agreement(trainings(first), trainings(second))
    signs = [(first[i] < first[j]) == (second[i] < second[j]) for i, j in combinations(range(5), 2)]
    assert signs.count(False) == 2
    assert found.tau.value == pytest.approx((8 - 2) / 10)
    assert found.tau.low <= found.tau.value <= found.tau.high
    assert (found.variants, found.seeds, found.ceilings) == (5, (1, 1), (None, None))


def test_one_order_and_the_opposite_one() -> None:
    goods = np.linspace(0, 1, 12).tolist()
    same = rank_agreement(trainings(goods), trainings(goods))
    assert (same.tau.value, same.tau.low, same.tau.high) == pytest.approx((1, 1, 1))
    assert rank_agreement(trainings(goods), trainings(goods[::-1])).tau.value == pytest.approx(-1)


def test_noise_lowers_what_one_seed_shares_with_another() -> None:
    goods = np.linspace(0, 1, 12).tolist()
    quiet = rank_agreement(trainings(goods, 3), trainings(goods, 3, noise=0.02))
    loud = rank_agreement(trainings(goods, 3), trainings(goods, 3, noise=1.0))
    assert quiet.ceilings[0] == pytest.approx(1)
    assert quiet.ceilings[1] > 0.9 > 0.6 > loud.ceilings[1]
    assert quiet.tau.value > loud.tau.value
    assert loud.tau.high - loud.tau.low > quiet.tau.high - quiet.tau.low


def test_studies_with_finalists_are_ranked_by_what_they_searched_with() -> None:
    space = parse_space(SPACE, "toy.yaml", None)
    shorter = space.model_copy(update={"estimator": Train(steps=20)})
    goods = (0.0, 0.1, 0.2, 0.3)
    searched = [r.model_copy(update={"estimator": Train(steps=20)}) for r in trainings(goods)]
    finalists = trainings(goods[::-1], 2)[:4]
    plain, with_some = (
        StudyResult(shorter, Path("a"), (*searched, *more), {}) for more in ((), finalists)
    )
    expected = ranking_table({"a": plain, "b": plain}).rows
    assert ranking_table({"a": with_some, "b": with_some}).rows == expected


def test_what_a_seed_adds_to_all_variants_leaves_a_ranking_as_it_is() -> None:
    goods, added = np.linspace(0, 0.1, 12).tolist(), (0.0, 0.7, -0.4)
    moved = [
        record.model_copy(
            update={"rd": curve(NANO, bonus=goods[record.number % 12] + added[record.seed])}
        )
        for record in trainings(goods, 3)
    ]
    found = rank_agreement(moved, trainings(goods, 3))
    assert (found.tau.value, found.tau.low, found.ceilings[0]) == pytest.approx((1, 1, 1))


def test_variants_that_all_tie_have_no_order_and_any_of_them_is_first() -> None:
    goods = (0.0, 0.3, -0.2, 0.1)
    tied, real = trainings([0.0] * 4, 2), trainings(goods, 2)
    found = agreement(tied, real, samples=50)
    assert (found.rank.tau.value, found.rank.ceilings) == (0, (0, pytest.approx(1)))
    costs = [r.lagrangian_percent(real[0]) for r in real if r.seed == 0]
    assert found.regret.value == pytest.approx(np.mean(costs) - min(costs))
    backwards = agreement(tied[::-1], real[::-1], samples=50)
    assert backwards.regret.value == pytest.approx(found.regret.value)


def test_only_what_both_trained_to_the_end_is_ranked() -> None:
    some, others = trainings((0.0, 0.1, 0.2, 0.3)), trainings((0.0, 0.1, 0.3, 0.2))
    stopped = others[3].model_copy(update={"state": "stopped"})
    assert rank_agreement(some, [*others[:3], stopped]).variants == 3
    with pytest.raises(LabError, match="2 variants were trained to the end in both"):
        rank_agreement(some, others[:2])


def test_the_stand_ins_are_ordered_as_they_are_told() -> None:
    costs = [lagrangian_cost(r.rd, r.lambdas) for r in trainings((0.0, 0.1, 0.2))]
    assert costs == sorted(costs, reverse=True)
    assert all(math.isfinite(cost) for cost in costs)


def test_the_hypervolume_is_that_of_the_means_over_the_seeds() -> None:
    space = parse_space(SPACE, "toy.yaml", None)
    records = trainings((0.0, 0.3, -0.3), 2)
    swapped = [r.model_copy(update={"seed": 1 - r.seed}) for r in records]
    a, b = (StudyResult(space, Path(n), tuple(r), {}) for n, r in (("a", records), ("b", swapped)))
    overview = compare_studies(a, b)[0]
    assert [row.values["hypervolume"] for row in overview.rows] == [100.0, 100.0]


def test_percentages_of_different_baselines_have_no_common_volume() -> None:
    space = parse_space(SPACE, "toy.yaml", None)
    records = trainings((0.0, 0.3, -0.3))
    moved = [r.model_copy(update={"is_baseline": r.label == "2"}) for r in records]
    moved[1] = moved[1].model_copy(update={"violations": {"kmacs_per_px": 1.0}})
    a, b = (StudyResult(space, Path(n), tuple(r), {}) for n, r in (("a", records), ("b", moved)))
    same, other = compare_studies(a, a)[0], compare_studies(a, b)[0]
    assert [column.key for column in same.columns][-1] == "hypervolume"
    assert "hypervolume" not in [column.key for column in other.columns]
    assert "different baselines" in other.footer[0]
    marks = {row.values["variant"]: row.marks for row in compare_studies(a, b)[-1].rows}
    assert {label for label, of in marks.items() if "baseline" in of} == {"0", "2"}
    assert "infeasible" in marks["1"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_no_variant_of_two_studies_is_best_by_what_may_be_chance(seeds: int) -> None:
    space = parse_space(SPACE, "toy.yaml", None)
    records = tuple(trainings((0.0, 0.3, -0.3), seeds))
    a, b = (StudyResult(space, Path(name), records, {}) for name in ("a", "b"))
    table = compare_studies(a, b)[-1]
    bold = {
        cell.column.key for _, cells in table.cells(table.rows) for cell in cells if cell.is_best
    }
    assert bold == ({"A_lagrangian_percent", "B_lagrangian_percent"} if seeds > 1 else set())
