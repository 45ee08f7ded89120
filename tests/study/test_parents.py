"""Estimators that lean on a trained parent: ``stage-swap`` and ``supernet``, in real studies."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from real import REAL, interrupting, make_folder

from tcm_lab.codec import load_checkpoint
from tcm_lab.errors import ConfigError
from tcm_lab.evaluation import evaluate_crops, lagrangian_cost
from tcm_lab.study.context import Event, StudyContext
from tcm_lab.study.estimators.stage_swap import StageSwap, advantages, checked_pairs
from tcm_lab.study.prepare import prepare
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import write_report
from tcm_lab.study.result import measure_anchor
from tcm_lab.study.run import run_study
from tcm_lab.study.space import parse_space
from tcm_lab.training import SuperNet

SUPPORT = "support: {path: entropy_model.support, choices: [0, 1]}"  # one set serves both
GRID = (
    REAL.replace("mode: ablation", "sampler: grid")
    .replace("slices: {path: entropy_model.slices, choices: [1, 2]}", SUPPORT)
    .replace("steps: 40", "steps: 5")
)
KINDS = {
    "stage-swap": "{type: stage-swap, match_steps: 4, steps: 3}",
    "supernet": "{type: supernet, tune: 3}",
}
INTERRUPTS: dict[str, Callable[[Event], bool]] = {
    "stage-swap": lambda event: "swap 2 of 2" in event.text,
    "supernet": lambda event: "tuning" in event.text,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("parents"))


def study_by(kind: str, folder: Path) -> StudyContext:
    space = parse_space(f"{GRID}estimator: {KINDS[kind]}\n", "space.yaml", folder)
    images = {"data": folder / "train", "eval_data": folder / "eval"}
    return prepare(space, out=folder / kind, cache=folder / "cache", **images)


@pytest.fixture(scope="module", params=KINDS)
def context(request: pytest.FixtureRequest, folder: Path) -> StudyContext:
    """A study that was interrupted, then run to its end."""
    context = study_by(request.param, folder)
    with pytest.raises(KeyboardInterrupt):
        run_study(context, 1, interrupting(INTERRUPTS[request.param]))
    return context


@pytest.fixture(scope="module")
def records(context: StudyContext) -> dict[str, TrialRecord]:
    result = run_study(context, 1)
    measure_anchor(context.out, context.data.evaluation)
    summary = write_report(result, "tcm-lab study")
    assert any("These are estimates" in line for line in summary.findings)
    return {record.label: record for record in result.records}


BASE, SHALLOW, BLIND, BOTH = (
    f"depth {depth}, support {support}" for depth, support in ((1, 1), (0, 1), (1, 0), (0, 0))
)


def test_every_variant_has_an_estimate_and_the_baseline_is_zero(
    context: StudyContext, records: dict[str, TrialRecord]
) -> None:
    assert set(records) == {BASE, SHALLOW, BLIND, BOTH}
    costs = {name: r.lagrangian_percent(records[BASE]) for name, r in records.items()}
    assert costs.pop(BASE) == 0
    assert all(math.isfinite(cost) and cost for cost in costs.values())
    estimates = [record.estimate for record in records.values()]
    assert all(e is not None and math.isfinite(e.sd_percent) for e in estimates)
    assert not [*(context.out.parent / "cache").glob("*")]  # files beside them are part of these


def test_what_is_estimated_is_what_the_method_says(
    context: StudyContext, records: dict[str, TrialRecord]
) -> None:
    check = swaps_add_up if context.space.estimator.type == "stage-swap" else parts_are_tuned
    check(context, records)


def swaps_add_up(context: StudyContext, records: dict[str, TrialRecord]) -> None:
    estimates = {name: r.estimate for name, r in records.items() if r.estimate is not None}
    logs = {name: e.log_cost - estimates[BASE].log_cost for name, e in estimates.items()}
    assert logs[BOTH] == pytest.approx(logs[SHALLOW] + logs[BLIND], abs=1e-12)
    trials = context.trials_folder
    assert len([*trials.glob("swap-*.json")]) == 4  # two stages, each with the parent's own
    assert [pair.places for pair in checked_pairs(trials)] == [("g_s.stages.2", "entropy_model")]
    parent = load_checkpoint(trials / records[BASE].identity / "model.safetensors")
    rd = evaluate_crops(parent, context.data.evaluation)
    cost = lagrangian_cost(rd, records[BASE].lambdas)
    assert estimates[BASE].log_cost == pytest.approx(cost)
    assert set(advantages(trials)) == {"g_s.stages.2", "entropy_model"}
    said = context.space.estimator.findings(trials)
    assert "1 pair of swaps, evaluated together, is off" in said[1]


def parts_are_tuned(context: StudyContext, records: dict[str, TrialRecord]) -> None:
    (path,) = context.trials_folder.glob("supernet-*.safetensors")
    supernet = SuperNet.load(path)
    for record in records.values():
        tuned = load_checkpoint(context.trials_folder / record.identity / "tune/model.safetensors")
        assert tuned.config.fingerprint == record.fingerprint
        cost, untuned = (
            lagrangian_cost(evaluate_crops(codec, context.data.evaluation), record.lambdas)
            for codec in (tuned, supernet.codec(record.variant))
        )
        assert record.estimate is not None
        assert record.estimate.log_cost == pytest.approx(cost)
        assert cost != untuned


@pytest.mark.parametrize("kind", KINDS)
def test_rates_with_weights_of_their_own_are_refused(kind: str, folder: Path) -> None:
    text = GRID.replace("rate_levels: 2", "rate_levels: 0").replace(
        "changes: {", "changes: {lambdas: [0.002, 0.02], "
    )
    with pytest.raises(ConfigError, match=f"estimator {kind}: needs one .* budget.rate_levels"):
        parse_space(f"{text}estimator: {kind}\n", "space.yaml", folder)


def test_checked_pairs_change_no_estimate() -> None:
    assert StageSwap(pairs=0).identity() == StageSwap(pairs=9).identity()
