"""Estimators: each kind through a study, what records and reports say, and finalists."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from real import REAL, interrupting, make_folder
from scipy.stats import kendalltau
from surrogate import SPACE, Surrogate, goodness, trained

import tcm_lab
from tcm_lab._utils.environment import Environment
from tcm_lab.codec import VariantConfig
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.stats import IncompleteInterval
from tcm_lab.study.agreement import agreement, percents
from tcm_lab.study.context import Event, StudyContext
from tcm_lab.study.dry_run import dry_run
from tcm_lab.study.estimators import (
    ESTIMATORS,
    Comparison,
    Estimate,
    Estimator,
    Extrapolated,
    LinearPhase,
    Outcome,
    Task,
    Train,
    Watch,
    register_estimator,
)
from tcm_lab.study.estimators.base import _between_estimates
from tcm_lab.study.estimators.middles import MiddleCost
from tcm_lab.study.plan import load_plan, run_plan
from tcm_lab.study.prepare import prepare
from tcm_lab.study.queue import open_queue
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import findings, write_report
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.run import fill_queue, run_study
from tcm_lab.study.space import parse_space
from tcm_lab.study.summary import summarise
from tcm_lab.study.tables import trial_table
from tcm_lab.study.worker import work
from tcm_lab.training import LossCurve, Recipe, TrainingRecord

PAIRED = SPACE.replace("steps: 40", "steps: 100") + "estimator: {type: paired-loss, steps: 60}\n"


def losses(config: VariantConfig, recipe: Recipe) -> LossCurve:
    """Return a curve that lies lower the better the variant is, with the luck of the seed."""
    steps = range(10, recipe.steps + 1, 10)
    luck = np.random.default_rng(recipe.seed).normal(0, 0.1, len(steps))
    level = -0.1 * goodness(config)
    values = [level + 1 / step + e for step, e in zip(steps, luck, strict=True)]
    return LossCurve(steps=tuple(steps), log_loss=tuple(values))


@dataclass(frozen=True)
class WithLosses(Surrogate):
    """A surrogate whose trainings keep a loss curve: a better codec's lies lower."""

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        outcome = super().__call__(task, watch)
        training = TrainingRecord(
            model=task.config.model_dump(mode="json"), recipe=task.recipe, steps=task.recipe.steps,
            processes=1, loss=1.0, bpp=0.5, psnr_db=28.0, wall_s=1.0, images_per_s=1.0, rollbacks=0,
            curve=losses(task.config, task.recipe), data_fingerprint="toy",
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


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toys")


@pytest.fixture(scope="module")
def by_training(toys: Path) -> StudyResult:
    """A study as they were before there were estimators."""
    text = SPACE.replace("steps: 40", "steps: 60")
    return run(toys / "trained", text, WithLosses(toys / "log"), cache=toys / "cache")


@pytest.fixture(scope="module")
def by_loss(toys: Path, by_training: StudyResult) -> StudyResult:
    """The same variants by an estimator that reads the same trainings."""
    return run(toys / "paired", PAIRED, WithLosses(toys / "log"), cache=toys / "cache")


def test_existing_spaces_train_and_their_records_say_so(by_training: StudyResult) -> None:
    assert by_training.space.estimator == Train()
    assert "estimator" not in by_training.space.to_yaml()
    assert {record.estimator.type for record in by_training.records} == {"train"}
    assert by_training.finalists == ()
    old = json.loads(by_training.records[0].model_dump_json())
    for name in ("estimator", "estimate", "cpu_s"):
        del old[name]  # as a record was before there were others
    assert type(by_training.records[0]).model_validate(old).estimator == Train()


def test_a_training_of_one_study_is_read_by_the_other_estimator(
    toys: Path, by_loss: StudyResult
) -> None:
    assert len(trained(toys / "log")) == 5
    assert {record.estimator.type for record in by_loss.records} == {"paired-loss"}


def test_one_seed_of_an_estimate_establishes_nothing(tmp_path: Path) -> None:
    text = PAIRED.replace("steps: 100", "steps: 100, seeds: 2")
    found = run(tmp_path, text.replace("sampler: grid", "mode: ablation"))
    for seeds in (1, 2):
        records = [record for record in found.records if record.seed < seeds]
        _, *others = summarise(records, found.space)
        assert len(others) == 4
        for other in others:
            interval = other.intervals["lagrangian_percent"]
            assert isinstance(interval, IncompleteInterval) == (seeds == 1)
            assert other.is_established == (interval.excludes_zero and interval.value < 0)
    assert any(s.intervals["lagrangian_percent"].excludes_zero for s in others)
    one, other = (Estimate(log_cost=cost, sd_percent=0.1) for cost in (0.10, 0.05))
    assert isinstance(_between_estimates([one], [other], paired=True), IncompleteInterval)
    two = _between_estimates([one, one], [other, other], paired=True)
    assert two.excludes_zero
    assert two.value == pytest.approx(100 * math.expm1(0.05))


def test_letters_of_estimates_agree_with_the_intervals_against_the_baseline(
    by_training: StudyResult,
) -> None:
    costs = {"split 0": -0.010, "split 0.25": -0.012, "split 0.75": 0.004, "split 1": 0.011}
    estimator = ESTIMATORS.parse("linear-phase")
    rng = np.random.default_rng(0)
    records = []
    for record in by_training.records:
        for seed in range(2):
            log_cost = costs.get(record.label, 0.0) + rng.normal(0, 1e-5)
            estimate = Estimate(log_cost=log_cost, sd_percent=0.0 if record.is_baseline else 0.4)
            changed = {"estimator": estimator, "estimate": estimate, "rd": None, "seed": seed}
            records.append(record.model_copy(update=changed))
    space = by_training.space.model_copy(update={"estimator": estimator})
    summaries = summarise(records, space)
    baseline, *others = summaries
    differ = {s.label: s.intervals["lagrangian_percent"].excludes_zero for s in others}
    assert differ == {"split 0": True, "split 0.25": True, "split 0.75": False, "split 1": True}
    for other in others:
        assert differ[other.label] == (not set(other.group) & set(baseline.group)), other.label
    footer = trial_table(summaries, space).footer
    assert any(line.endswith("intervals: 95 % over images and seeds.") for line in footer)

    def is_of_one(estimate: Estimate) -> bool:
        same = [record.model_copy(update={"estimate": estimate}) for record in records[:2]]
        compared = Comparison(same, [r for r in records if r.is_baseline])
        return isinstance(estimator.difference(compared), IncompleteInterval)

    base = Estimate(log_cost=0.01, sd_percent=0)
    assert is_of_one(Estimate(log_cost=0.02, sd_percent=0))
    records = [r.model_copy(update={"estimate": base}) if r.is_baseline else r for r in records]
    assert not is_of_one(base)  # but ties with the baseline


def test_paired_losses_are_compared_step_by_step(by_loss: StudyResult) -> None:
    assert {r.steps for r in by_loss.records} == {60}
    base = by_loss.records[0]
    for record in by_loss.records[1:]:
        gap = 0.1 * (goodness(base.variant) - goodness(record.variant))
        assert record.lagrangian_percent(base) == pytest.approx(100 * gap)  # the luck is common
    write_report(by_loss, "tcm-lab study")
    rows = list(csv.DictReader(io.StringIO((by_loss.out / "table.csv").read_text())))
    assert len(rows) == 5
    page = (by_loss.out / "report.html").read_text()
    assert "Lagrangian cost by paired-loss" in page
    assert "sees only training crops with noise, without rounding or bytes" in page
    assert "How the differences move with the budget" in page


def test_a_gap_that_stays_is_extrapolated_as_it_is(by_loss: StudyResult) -> None:
    base = by_loss.records[0]
    ahead = Extrapolated(begin=0)
    for record in by_loss.records[1:]:
        own, baseline = ([with_steps(each, 200)] for each in (record, base))
        gap = 0.1 * (goodness(base.variant) - goodness(record.variant))
        found = ahead.difference(Comparison(own, baseline))
        assert found.value == pytest.approx(100 * gap, abs=1e-6)


def with_steps(record: TrialRecord, steps: int) -> TrialRecord:
    """Return a record as if it had been trained for so many steps."""
    assert record.training is not None
    recipe = record.recipe.changed(steps=steps)
    training = record.training.model_copy(update={"curve": losses(record.variant, recipe)})
    return record.model_copy(update={"recipe": recipe, "training": training})


FINALISTS = PAIRED.replace("rate_levels: 4}", "rate_levels: 4, finalists: 2, seeds: 2}")


def test_finalists_are_trained_and_stand_beside_what_was_predicted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):  # in the second finalist
        run(tmp_path, FINALISTS, WithLosses(tmp_path / "log", interrupt_after=7))
    result = run(tmp_path, FINALISTS, WithLosses(tmp_path / "log"))
    done = trained(tmp_path / "log")
    assert len(done) == len(set(done)) == 11
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
    (said,) = [line for line in summary.findings if "of Lagrangian cost" in line]
    rows = list(csv.DictReader(io.StringIO((result.out / "predicted.csv").read_text())))
    by_estimator, by_training = percents(result.searched), percents(finals)
    names = {r.label: r.fingerprint for r in finals}
    best = min(names, key=lambda label: np.mean(by_training[names[label]]))
    assert f"{best} codes better than the baseline" in said
    before = findings(summarise(result.searched, result.space), result.space)
    assert any("takes trainings of the finalists." in line for line in before)
    for row in rows:
        name = names[row["variant"].rstrip(" ★†()")]
        assert float(row["predicted"]) == pytest.approx(by_estimator[name][0], abs=1e-4)
        assert float(row["trained"]) == pytest.approx(np.mean(by_training[name]), abs=0.02)
    rates = list(csv.DictReader(io.StringIO((result.out / "rates.csv").read_text())))
    assert {row["model"].rpartition(", seed ")[::2] for row in rates} == {
        (r.label, str(r.seed)) for r in finals
    }
    assert (result.out / "rd.png").is_file()
    assert open_result(result.out).records == result.records


def test_the_sampler_is_never_told_of_finalists_before_its_search_ends(tmp_path: Path) -> None:
    text = PAIRED.replace("sampler: grid", "sampler: random")
    text = text.replace("rate_levels: 4}", "rate_levels: 4, trials: 3, finalists: 1}")
    result = run(tmp_path, text)
    assert len(result.searched) == 3
    assert max(r.number for r in result.searched) < min(r.number for r in result.finalists)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("estimator: {type: paired-loss, steps: 60}", "estimator: paired-los"), "Did you mean"),
        (("steps: 60", "stps: 60"), "steps"),
        (("steps: 60", "steps: 20"), "40 steps or more, not of 20; raise its steps"),
        (("paired-loss, steps: 60", "extrapolated, steps: 90"), "100 steps or more, not of 90"),
        (("paired-loss, steps: 60", "extrapolated, steps: 40, begin: 1"), "less than 1"),
        (
            ("estimator:", "objectives: [bd_rate_percent, kmacs_per_px]\nestimator:"),
            "estimates lagr",
        ),
        (("{type: paired-loss, steps: 60}", "linear-phase"), "recipe scratch has no linear phase"),
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
        """Assumes that a thousand more parameters save a tenth of a percent."""

        bias = "knows nothing about coding"
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
    assert "knows nothing about coding" in (result.out / "report.html").read_text()
    with pytest.raises(LabError, match="not comparable"):
        others[0].lagrangian_percent(base.model_copy(update={"estimator": Train()}))


@pytest.mark.usefixtures("own_estimator")
def test_finalists_of_an_estimate_that_stays_in_its_study_come_from_the_cache(
    tmp_path: Path,
) -> None:
    text = SPACE.replace("rate_levels: 4}", "rate_levels: 4, finalists: 2}")
    text += "estimator: {type: parameters}\n"
    first = run(tmp_path / "first", text, Surrogate(tmp_path / "log"), cache=tmp_path / "cache")
    again = run(tmp_path / "again", text, Surrogate(tmp_path / "log"), cache=tmp_path / "cache")
    assert len(trained(tmp_path / "log")) == 3  # by the first alone
    assert {r.identity: r.rd for r in again.finalists} == {
        r.identity: r.rd for r in first.finalists
    }
    assert {path.stem for path in (tmp_path / "cache").glob("*.json")} == {
        record.identity for record in first.finalists
    }


@pytest.mark.usefixtures("own_estimator")
def test_finalists_end_without_their_baseline_and_the_next_call_tries_it_again(
    tmp_path: Path,
) -> None:
    text = SPACE.replace("rate_levels: 4}", "rate_levels: 4, finalists: 2}")
    space = parse_space(f"{text}estimator: {{type: parameters}}\n", "toy.yaml", None)
    context = prepare(space, out=tmp_path / "toy", trainer=Surrogate(tmp_path / "log"))
    fill_queue(context)

    def until_the_baseline(event: Event) -> None:
        if event.finalist:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(context, 0, until_the_baseline)
    with open_queue(context.storage, context.name) as queue:
        for trial in iter(queue.ask, None):
            if queue.attributes(trial).baseline:
                break
            queue.requeue(trial)
        queue._tell(trial.number, "FAIL")  # as of a worker that was killed once more
        started: list[str] = []

        def count(event: Event) -> None:
            started.append(event.label)
            assert len(started) < 50  # it would look for the baseline for ever

        with pytest.raises(LabError, match="with this seed: its worker was killed twice"):
            work(context, 0, count)
        assert queue.failures() == {}
    result = run_study(context, 1)
    assert len(result.finalists) == 3
    assert result.failed == {}
    assert len(trained(tmp_path / "log")) == 3


@pytest.mark.usefixtures("own_estimator")
def test_finalists_whose_baseline_lacked_memory_are_trained_by_the_next_call(
    tmp_path: Path,
) -> None:
    class Hungry(Surrogate):
        def __call__(self, task: Task, watch: Watch) -> Outcome:
            if task.config.name.endswith("split=0.5"):
                raise MemoryError
            return super().__call__(task, watch)

    text = SPACE.replace("rate_levels: 4}", "rate_levels: 4, finalists: 2}")
    text += "estimator: {type: parameters}\n"
    with pytest.raises(LabError, match="can't be trained with this seed: out of memory"):
        run(tmp_path, text, Hungry(tmp_path / "log"))
    result = run(tmp_path, text, Surrogate(tmp_path / "log"))
    assert len(result.finalists) == 3
    assert result.failed == {}


def test_a_linear_phase_is_run_and_evaluated_once_for_variants_that_tie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPACE.replace("recipe: scratch, steps: 40", "recipe: minute")
    phase = "estimator: {type: linear-phase, steps: 7}\n"
    space = parse_space(f"{text}{phase}", "toy.yaml", None)
    context, ran = prepare(space, out=tmp_path / "toy"), list[int]()

    def evaluate(self: LinearPhase, task: Task, *_: object) -> MiddleCost:
        ran.append(task.recipe.linear_steps)
        return MiddleCost(log_cost=0.1 * len(ran), by_image=(1.0, 1.0))

    monkeypatch.setattr(LinearPhase, "_evaluate", evaluate)
    tasks = [context.task(variant, 0, space.estimator) for variant in context.variants.all()]
    outcomes = [space.estimator.run(task, context, Surrogate(tmp_path / "log")) for task in tasks]
    costs = [outcome.estimate.log_cost for outcome in outcomes if outcome.estimate is not None]
    slices = [task.config.entropy_model.slices for task in tasks]  # depth ties, slices do not
    assert ran == [7] * len(set(slices))
    assert len(set(zip(slices, costs, strict=True))) == len(set(costs)) == len(set(slices))
    assert {outcome.steps for outcome in outcomes} == {7}


def test_what_is_not_an_estimator_cannot_be_registered() -> None:
    with pytest.raises(ConfigError, match="not a subclass of Estimator"):
        register_estimator("nothing")(int)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must implement run"):
        register_estimator("nothing")(type("Idle", (Estimator,), {"__module__": __name__}))
    with pytest.raises(ConfigError, match="taken"):
        register_estimator("train")(Train)


def test_agreement_is_that_of_the_numbers(by_training: StudyResult, by_loss: StudyResult) -> None:
    found = agreement(by_loss.records, by_training.records, samples=100)
    guess, gained = percents(by_loss.records), percents(by_training.records)
    a, b = ([side[name][0] for name in gained] for side in (guess, gained))
    assert found.rank.tau.value == pytest.approx(kendalltau(a, b).statistic) == pytest.approx(1)
    assert found.regret.value == 0
    gaps = np.array(a) - np.array(b)  # the baseline has none
    assert found.bias.value == pytest.approx(gaps.sum() / 4)
    assert found.error_percent == pytest.approx(np.sqrt((gaps**2).sum() / 4))


def test_a_plan_refuses_an_estimator_of_a_metric_that_it_does_not_give(tmp_path: Path) -> None:
    by_bd_rate = "objectives: [bd_rate_percent, kmacs_per_px]\n"
    (tmp_path / "variants.yaml").write_text(SPACE + by_bd_rate)
    (tmp_path / "plan.yaml").write_text("space: variants.yaml\nestimators: [linear-phase]\n")
    with pytest.raises(ConfigError, match="estimates lagrangian_percent, not bd_rate_percent"):
        load_plan(tmp_path / "plan.yaml").studies(tmp_path)


def test_a_dry_run_promises_the_seeds_of_finalists_to_no_other_variant(tmp_path: Path) -> None:
    space = parse_space(FINALISTS.replace("sampler: grid", "mode: ablation"), "toy.yaml", None)
    text = dry_run(prepare(space, out=tmp_path / "out")).text()
    assert "5 variants by paired-loss of 60 steps" in text
    assert "then 2 finalists and the baseline trained for 100 steps (scratch), 2 seeds" in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("estimators"))


def test_a_plan_runs_every_estimator_and_the_truth_and_goes_on_after_ctrl_c(folder: Path) -> None:
    (folder / "variants.yaml").write_text(REAL)
    (folder / "plan.yaml").write_text(
        "space: variants.yaml\nestimators: [linear-phase, paired-loss, {type: train, steps: 20}]\n"
    )
    plan, out = load_plan(folder / "plan.yaml"), folder / "plan"
    where = {"folder": folder, "data": folder / "train", "eval_data": folder / "eval"}
    where |= {"cache": folder / "kept"}
    phase = interrupting(lambda event: "linear phase" in event.text)
    training = interrupting(lambda event: event.step == 20)
    for kind, display in (("linear-phase", phase), ("paired-loss", training)):
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, out, **where, workers=1, displays={kind: display})  # type: ignore[arg-type]
    (kept,) = (out / "paired-loss" / "trials").glob("*/cpu_s.txt")
    spent_s = float(kept.read_text())
    table = run_plan(plan, out, **where, workers=1)  # type: ignore[arg-type]
    found = {name: open_result(out / name) for name in ("linear-phase", "paired-loss", "truth")}
    for kind, result in found.items():
        assert {r.estimator.type for r in result.records} == {kind.replace("truth", "train")}
        base = next(record for record in result.records if record.is_baseline)
        costs = {record.label: record.lagrangian_percent(base) for record in result.records}
        assert costs.pop("depth 1, slices 2") == 0
        assert set(costs) == {"depth 0, slices 2", "depth 1, slices 1"}
        if kind == "linear-phase":
            assert costs["depth 0, slices 2"] == 0  # a tie, exactly
            assert costs["depth 1, slices 1"] != 0
            continue
        assert all(math.isfinite(cost) and cost for cost in costs.values())
        curves = [r.training.curve.steps for r in result.records if r.training]
        assert curves == [(10, 20, 30, 40)] * 3
    cpu_s = {record.identity: record.cpu_s for record in found["paired-loss"].records}
    assert cpu_s[kept.parent.name] > spent_s > 0  # of both parts
    rows = {row.values["estimator"]: row.values for row in table.rows}
    assert set(rows) == {"linear-phase", "paired-loss", "train, steps 20"}
    assert {values["variants"] for values in rows.values()} == {3}
    shorter = open_result(out / "train-steps-20").records
    assert {(r.steps, r.training.steps) for r in shorter if r.training} == {(20, 20)}
    assert all(r.rd is not None for r in shorter)
    assert (out / "agreement.md").is_file()
    assert all(record.cpu_s > 0 for record in found["truth"].records)
    assert rows["paired-loss"]["share"] == pytest.approx(100)  # the very same trainings
    trained = {r.identity for r in (*shorter, *found["truth"].records)}
    assert {path.stem for path in (folder / "kept").glob("*.json")} >= trained
    assert not (out / "records").exists()
