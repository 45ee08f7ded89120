"""Estimators: each kind through a study, what records and reports say, and finalists."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau
from surrogate import SPACE, Surrogate, goodness, trained
from test_real_study import TINY

import tcm_lab
from tcm_lab._utils.environment import Environment
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.study.agreement import agreement, percents
from tcm_lab.study.context import StudyContext
from tcm_lab.study.estimators import (
    ESTIMATORS,
    Estimate,
    Estimator,
    Outcome,
    Task,
    Train,
    Watch,
    register_estimator,
)
from tcm_lab.study.plan import load_plan, run_plan
from tcm_lab.study.prepare import prepare
from tcm_lab.study.report import write_report
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.run import run_study
from tcm_lab.study.space import parse_space
from tcm_lab.training import LossCurve, TrainingRecord

PAIRED = SPACE.replace("steps: 40", "steps: 100") + "estimator: {type: paired-loss, steps: 60}\n"


@dataclass(frozen=True)
class WithLosses(Surrogate):
    """A surrogate whose trainings keep a loss curve: a better codec's lies lower."""

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        outcome = super().__call__(task, watch)
        steps = range(10, task.recipe.steps + 1, 10)
        luck = np.random.default_rng(task.recipe.seed).normal(0, 0.1, len(steps))
        losses = [
            -0.1 * goodness(task.config) + 1 / step + e for step, e in zip(steps, luck, strict=True)
        ]
        training = TrainingRecord(
            model=task.config.model_dump(mode="json"), recipe=task.recipe, steps=task.recipe.steps,
            processes=1, loss=1.0, bpp=0.5, psnr_db=28.0, wall_s=1.0, images_per_s=1.0, rollbacks=0,
            curve=LossCurve(steps=tuple(steps), log_loss=tuple(losses)), data_fingerprint="toy",
            skipped=(), environment=Environment(device="toy", threads=1, python="3", versions={}),
        )  # fmt: skip
        return outcome.model_copy(update={"training": training})


def run(
    folder: Path, text: str, trainer: Surrogate | None = None, **options: object
) -> StudyResult:
    space = parse_space(text, "toy.yaml", None)
    context = prepare(
        space, out=folder / "toy", trainer=trainer or WithLosses(folder / "log"), **options
    )  # type: ignore[arg-type]
    return run_study(context, 1)


def test_existing_spaces_train_and_their_records_say_so(tmp_path: Path) -> None:
    space = parse_space(SPACE, "toy.yaml", None)
    assert space.estimator == Train()
    assert "estimator" not in space.to_yaml()
    result = run(tmp_path, SPACE)
    assert {record.estimator.type for record in result.records} == {"train"}
    assert result.finalists == ()
    old = json.loads(result.records[0].model_dump_json())
    for name in ("estimator", "estimate", "cpu_s"):
        del old[name]  # as a record was before there were others
    assert type(result.records[0]).model_validate(old).estimator == Train()


def test_paired_losses_are_compared_step_by_step(tmp_path: Path) -> None:
    result = run(tmp_path, PAIRED)
    assert {r.estimator.type for r in result.records} == {"paired-loss"}
    assert {r.steps for r in result.records} == {60}
    base = result.records[0]
    for record in result.records[1:]:
        gap = 0.1 * (goodness(base.variant) - goodness(record.variant))
        assert record.lagrangian_percent(base) == pytest.approx(100 * gap)  # the luck is common
    write_report(result, "tcm-lab study")
    rows = list(csv.DictReader(io.StringIO((result.out / "table.csv").read_text())))
    assert len(rows) == 5
    page = (result.out / "report.html").read_text()
    assert "Lagrangian cost by paired-loss" in page
    assert "no rounding and no bytes" in page
    assert "How the differences move with the budget" in page


def test_a_training_of_one_study_is_read_by_the_other_estimator(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(tmp_path, SPACE.replace("steps: 40", "steps: 60"), cache=cache)
    (tmp_path / "toy").rename(tmp_path / "trained")
    result = run(tmp_path, PAIRED, cache=cache)
    assert len(trained(tmp_path / "log")) == 5
    assert {r.estimator.type for r in result.records} == {"paired-loss"}


FINALISTS = PAIRED.replace("rate_levels: 4}", "rate_levels: 4, finalists: 2, seeds: 2}")


def test_finalists_are_trained_and_stand_beside_what_was_predicted(tmp_path: Path) -> None:
    result = run(tmp_path, FINALISTS)
    assert len(result.searched) == 5
    finals = result.finalists
    assert {r.estimator for r in finals} == {Train()}
    assert {r.steps for r in finals} == {100}
    assert {(r.label, r.seed) for r in finals if r.is_baseline} == {
        ("split 0.5", 0),
        ("split 0.5", 1),
    }
    assert len(finals) == 2 * 3  # the baseline and two others, two seeds each
    summary = write_report(result, "tcm-lab study")
    assert any("Kendall's τ between predicted and trained" in line for line in summary.findings)
    rows = list(csv.DictReader(io.StringIO((result.out / "predicted.csv").read_text())))
    by_estimator, by_training = percents(result.searched), percents(finals)
    names = {r.label: r.fingerprint for r in finals}
    for row in rows:
        name = names[row["variant"].rstrip(" ★†()")]
        assert float(row["predicted"]) == pytest.approx(by_estimator[name][0], abs=1e-4)
        assert float(row["trained"]) == pytest.approx(np.mean(by_training[name]), abs=0.02)
    assert run(tmp_path, FINALISTS).records == result.records
    assert open_result(result.out).records == result.records


def test_a_search_interrupted_among_its_finalists_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, FINALISTS, WithLosses(tmp_path / "log", interrupt_after=7))
    result = run(tmp_path, FINALISTS)
    assert len(result.finalists) == 6
    done = trained(tmp_path / "log")
    assert len(done) == len(set(done)) == 11


def test_the_sampler_is_never_told_of_finalists_before_its_search_ends(tmp_path: Path) -> None:
    text = PAIRED.replace("sampler: grid", "sampler: random")
    text = text.replace("rate_levels: 4}", "rate_levels: 4, trials: 4, finalists: 1}")
    result = run(tmp_path, text)
    assert len(result.searched) == 4
    assert max(r.number for r in result.searched) < min(r.number for r in result.finalists)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("estimator: {type: paired-loss, steps: 60}", "estimator: paired-los"), "Did you mean"),
        (("steps: 60", "stps: 60"), "steps"),
        (("steps: 60", "steps: 20"), "40"),
        (
            ("estimator:", "objectives: [bd_rate_percent, kmacs_per_px]\nestimator:"),
            "estimates lagr",
        ),
        (("{type: paired-loss, steps: 60}", "linear-phase"), "recipe scratch has none"),
        (("{type: paired-loss, steps: 60}\n", "train\n"), None),
    ],
)
def test_an_estimator_that_does_not_suit_the_space_is_refused(
    change: tuple[str, str], words: str | None
) -> None:
    text = PAIRED.replace(*change)
    if words is None:
        assert parse_space(text, "toy.yaml", None).estimator == Train()
        return
    with pytest.raises(ConfigError, match=words) as caught:
        parse_space(text, "toy.yaml", None)
    assert str(caught.value).startswith("toy.yaml: ")
    assert "\n" not in str(caught.value)


def test_finalists_without_another_estimator_are_refused() -> None:
    text = SPACE.replace("rate_levels: 4", "rate_levels: 4, finalists: 3")
    with pytest.raises(ConfigError, match="finalists = 3: estimator train trains every variant"):
        parse_space(text, "toy.yaml", None)


@pytest.fixture
def own_estimator() -> Iterator[None]:
    @register_estimator("parameters")
    class Parameters(Estimator):
        """Takes a tenth of a percent for every thousand parameters."""

        bias = "knows nothing of coding"
        baseline_first = True
        per_thousand: float = 0.1

        def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
            count = sum(p.numel() for p in tcm_lab.build(task.config).parameters())
            cost = -self.per_thousand / 100 * count / 1000
            return Outcome(estimate=Estimate(log_cost=cost, sd_percent=1.0), steps=0)

    yield
    ESTIMATORS.unregister("parameters")


@pytest.mark.usefixtures("own_estimator")
def test_an_estimator_of_ones_own_is_usable_at_once(tmp_path: Path) -> None:
    text = SPACE + "estimator: {type: parameters, per_thousand: 0.2}\n"
    result = run(tmp_path, text)
    base, *others = result.records
    for record in others:
        thousands = (record.complexity.total_parameters - base.complexity.total_parameters) / 1000
        expected = 100 * math.expm1(-0.002 * thousands)
        assert record.lagrangian_percent(base) == pytest.approx(expected)
        assert record.rd is None
    summary = write_report(result, "tcm-lab study")
    assert not trained(tmp_path / "log")
    assert "rd.svg" not in {path.name for path in summary.files["Plots"]}
    assert "knows nothing of coding" in (result.out / "report.html").read_text()
    with pytest.raises(LabError, match="not comparable"):
        others[0].lagrangian_percent(base.model_copy(update={"estimator": Train()}))


def test_what_is_not_an_estimator_cannot_be_registered() -> None:
    with pytest.raises(ConfigError, match="not a subclass of Estimator"):
        register_estimator("nothing")(int)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must implement run"):
        register_estimator("nothing")(type("Idle", (Estimator,), {"__module__": __name__}))
    with pytest.raises(ConfigError, match="taken"):
        register_estimator("train")(Train)


def test_agreement_is_that_of_the_numbers(tmp_path: Path) -> None:
    estimated = run(tmp_path, PAIRED)
    (tmp_path / "toy").rename(tmp_path / "first")
    truth = run(tmp_path, SPACE.replace("steps: 40", "steps: 100"))
    found = agreement(estimated.records, truth.records, samples=100)
    guess, gained = percents(estimated.records), percents(truth.records)
    a, b = ([side[name][0] for name in gained] for side in (guess, gained))
    assert found.rank.tau.value == pytest.approx(kendalltau(a, b).statistic) == pytest.approx(1)
    assert found.regret.value == 0
    gaps = np.array(a) - np.array(b)  # the baseline has none
    assert found.bias.value == pytest.approx(gaps.sum() / 4)
    assert found.error_percent == pytest.approx(np.sqrt((gaps**2).sum() / 4))


REAL = """
name: real
base: tiny.yaml
axes:
  split: {path: "g_*.split", choices: [0.0, 0.5]}
  slices: {path: entropy_model.slices, choices: [1, 2]}
mode: ablation
size: [64, 64]
budget:
  recipe: minute
  steps: 100
  rate_levels: 2
  changes: {crop: 64, linear_steps: 12, linear_batch: 1, checkpoint_every: 5}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("estimators")
    (folder / "tiny.yaml").write_text(TINY)
    rng = np.random.default_rng(0)
    for name in ("train", "eval"):
        (folder / name).mkdir()
        for index in range(2):
            pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((70, 66), Image.Resampling.BICUBIC)
            image.save(folder / name / f"{index}.png")
    return folder


CHEAP = {
    "paired-loss": "{type: paired-loss, steps: 40}",
    "extrapolated": "{type: extrapolated, steps: 100, begin: 0}",
    "linear-phase": "linear-phase",
}


def begin(folder: Path, kind: str) -> subprocess.Popen[str]:
    (folder / f"{kind}.yaml").write_text(f"{REAL}estimator: {CHEAP[kind]}\n")
    words = ["--space", f"{kind}.yaml", "--data", "train", "--eval-data", "eval", "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "tcm_lab.study", *words, "--out", f"runs/{kind}"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("kind", CHEAP)
def test_a_real_study_by_each_estimator_survives_ctrl_c_and_a_kill(folder: Path, kind: str) -> None:
    first = begin(folder, kind)
    assert first.stdout is not None
    while "training" not in first.stdout.readline():
        assert first.poll() is None
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    second = begin(folder, kind)
    assert second.stdout is not None
    while "done" not in second.stdout.readline():
        assert second.poll() is None
    second.kill()
    second.communicate()
    third = begin(folder, kind)
    _, errors = third.communicate(timeout=120)
    assert third.returncode == 0, errors
    result = open_result(folder / "runs" / kind)
    assert {record.label for record in result.records} == {
        "split 0.5, slices 2",
        "split 0, slices 2",
        "split 0.5, slices 1",
    }
    assert all(record.estimator.type == kind for record in result.records)
    base = next(record for record in result.records if record.is_baseline)
    costs = {record.label: record.lagrangian_percent(base) for record in result.records}
    assert costs.pop("split 0.5, slices 2") == 0
    if kind == "linear-phase":
        assert costs["split 0, slices 2"] == 0  # a tie, exactly
        assert costs["split 0.5, slices 1"] != 0
    else:
        assert all(map(math.isfinite, costs.values()))
        assert all(
            len(r.training.curve.steps) == r.steps // 10 for r in result.records if r.training
        )


def test_a_plan_runs_every_estimator_and_the_truth_and_says_how_they_agree(
    folder: Path, tmp_path: Path
) -> None:
    changes = {"steps: 100": "steps: 40", "linear_steps: 12": "linear_steps: 4"}
    text = REAL
    for before, after in changes.items():
        text = text.replace(before, after)
    (folder / "variants.yaml").write_text(text)
    plan = folder / "plan.yaml"
    plan.write_text("space: variants.yaml\nestimators: [linear-phase, paired-loss]\n")
    table = run_plan(
        load_plan(plan), tmp_path / "plan", folder=folder, data=folder / "train",
        eval_data=folder / "eval", workers=1,
    )  # fmt: skip
    by_name = {row.values["estimator"]: row.values for row in table.rows}
    assert set(by_name) == {"linear-phase", "paired-loss"}
    assert by_name["linear-phase"]["variants"] == 3
    assert (tmp_path / "plan" / "agreement.md").is_file()
    truth = open_result(tmp_path / "plan" / "truth")
    assert all(record.cpu_s > 0 for record in truth.records)
    assert by_name["paired-loss"]["share"] == pytest.approx(100)  # the very same trainings
