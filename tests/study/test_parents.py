"""Estimators that lean on a trained parent: ``stage-swap`` and ``supernet``, in real studies."""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from real import REAL, interrupting, make_folder

from tcm_lab import training
from tcm_lab.codec import check_shared, load_checkpoint, read_extra
from tcm_lab.errors import ConfigError
from tcm_lab.evaluation import evaluate_crops, lagrangian_cost
from tcm_lab.study.context import Event, StudyContext
from tcm_lab.study.estimators.middles import MiddleCost, sd_over_images
from tcm_lab.study.estimators.stage_swap import StageSwap, advantages, checked_pairs
from tcm_lab.study.prepare import prepare
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import write_report
from tcm_lab.study.result import measure_anchor
from tcm_lab.study.run import run_study
from tcm_lab.study.space import load_space, parse_space
from tcm_lab.study.variants import Variants
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


def study_by(kind: str, folder: Path, options: str = "", out: str = "") -> StudyContext:
    text = f"{GRID}estimator: {options or KINDS[kind]}\n"
    space = parse_space(text, "space.yaml", folder)
    images = {"data": folder / "train", "eval_data": folder / "eval"}
    return prepare(space, out=folder / (out or kind), cache=folder / "cache", **images)


@pytest.fixture(scope="module", params=KINDS)
def context(request: pytest.FixtureRequest, folder: Path) -> StudyContext:
    """A study that was interrupted, then run to its end."""
    context = study_by(request.param, folder)
    with pytest.raises(KeyboardInterrupt):
        run_study(context, 1, interrupting(INTERRUPTS[request.param]))
    return context


@pytest.fixture(scope="module")
def spent(context: StudyContext) -> dict[str, float]:
    """CPU seconds by identity of what was interrupted."""
    kept = context.trials_folder.glob("*/cpu_s.txt")
    return {path.parent.name: float(path.read_text()) for path in kept}


@pytest.fixture(scope="module")
def records(context: StudyContext, spent: dict[str, float]) -> dict[str, TrialRecord]:
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
    assert not [*(context.out.parent / "cache").glob("*.json")]  # files beside are part of them


def test_cpu_seconds_are_those_of_all_parts(
    records: dict[str, TrialRecord], spent: dict[str, float]
) -> None:
    found = {record.identity: record.cpu_s for record in records.values()}
    assert spent
    assert all(found[identity] > seconds > 0 for identity, seconds in spent.items())


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
    assert "1 pair of swaps, evaluated together, differs from the sum of the two by" in said[1]


def parts_are_tuned(context: StudyContext, records: dict[str, TrialRecord]) -> None:
    (path,) = (context.out.parent / "cache").glob("supernet-*.safetensors")
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


@pytest.mark.parametrize("context", ["supernet"], indirect=True)
def test_other_tuning_takes_the_same_shared_weights(
    context: StudyContext, records: dict[str, TrialRecord], folder: Path
) -> None:
    (path,) = (folder / "cache").glob("supernet-*")
    trained = path.stat().st_mtime_ns
    again = study_by("supernet", folder, "{type: supernet, crop: 64}", out="untuned")
    result = run_study(again, 1)
    assert {record.label for record in result.records} == set(records)
    assert [*(folder / "cache").glob("supernet-*")] == [path]
    assert path.stat().st_mtime_ns == trained
    assert not [*again.trials_folder.glob("supernet-*")]
    assert not {r.identity for r in result.records} & {r.identity for r in records.values()}


def test_a_supernet_serves_every_axis_of_the_largest_space() -> None:
    variants = Variants(load_space("configs/full.yaml"))
    assert variants.space.estimator.type == "supernet"
    rng = random.Random(0)
    drawn = [variants.build(variants.draw(rng)).config for _ in range(20)]
    check_shared([variants.base, *drawn])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("axis", "choices"), [("latent_channels", "[32, 64]"), ("shortcut", "[patch, staged]")]
)
def test_an_option_that_does_not_fit_is_refused_when_the_space_is_read(
    kind: str, axis: str, choices: str, folder: Path
) -> None:
    text = GRID.replace(SUPPORT, f"{axis}: {choices}") + f"estimator: {kind}\n"
    words = f"axes.{axis}: value (32|patch): estimator {kind}: {axis}.* take another estimator"
    with pytest.raises(ConfigError, match=words):
        parse_space(text, "space.yaml", folder)


@pytest.mark.parametrize("kind", [*KINDS, "linear-phase"])
def test_rates_with_weights_of_their_own_are_refused(kind: str, folder: Path) -> None:
    text = GRID.replace("rate_levels: 2", "rate_levels: 0").replace(
        "changes: {", "changes: {lambdas: [0.002, 0.02], "
    )
    with pytest.raises(ConfigError, match=f"estimator {kind}: needs one .* budget.rate_levels"):
        parse_space(f"{text}estimator: {kind}\n", "space.yaml", folder)


def test_checked_pairs_change_no_estimate() -> None:
    assert StageSwap(pairs=0).identity() == StageSwap(pairs=9).identity()


def test_what_another_study_spent_on_the_shared_weights_counts_for_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spend(supernet: SuperNet, *_: object, directory: Path, **__: object) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        begun = time.process_time()
        while time.process_time() < begun + 1:
            pass

    costs = MiddleCost(log_cost=0.1, by_image=(1.0, 1.0))
    monkeypatch.setattr(training, "train_supernet", spend)
    monkeypatch.setattr("tcm_lab.study.estimators.supernet.middle_cost", lambda *_, **__: costs)
    make_folder(tmp_path)
    studies = [
        run_study(study_by("supernet", tmp_path, options, out), 1)
        for options, out in (("{type: supernet}", "one"), ("{type: supernet, crop: 64}", "two"))
    ]
    (path,) = (tmp_path / "cache").glob("supernet-*")
    spent_s = read_extra(path)["cpu_s"]
    assert spent_s >= 1
    for result in studies:
        baseline, *others = result.records
        assert baseline.is_baseline
        assert spent_s <= baseline.cpu_s < 2 * spent_s  # once, whoever trained them
        assert all(record.cpu_s < spent_s for record in others)


def test_the_parents_own_stages_are_compared_with_the_mean_of_the_parents(tmp_path: Path) -> None:
    def write(name: str, log_cost: float, **more: object) -> None:
        record = {"log_cost": log_cost, "by_image": [1.0], **more}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))

    assert advantages(tmp_path) == {}
    write("parent-0", 0.10)
    write("parent-1", 0.30)
    write("swap-0", 0.21, place="g_s.stages.2", is_own=True)
    write("swap-1", 0.23, place="g_s.stages.2", is_own=True)
    write("swap-2", 0.90, place="g_s.stages.2", is_own=False)
    assert advantages(tmp_path) == {"g_s.stages.2": pytest.approx(100 * math.expm1(0.02))}


def test_one_image_has_no_deviation_and_several_that_of_their_mean() -> None:
    assert sd_over_images(np.array([0.3])) == 0.0
    expected = 100 * statistics.stdev([0.1, 0.4, -0.2]) / math.sqrt(3)
    assert sd_over_images(np.array([0.1, 0.4, -0.2])) == pytest.approx(expected)
