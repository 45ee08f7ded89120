"""The engine: no wasted training, none lost, whoever is interrupted, killed or first."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from surrogate import SPACE, Surrogate, curve, trained

from tcm_lab import training
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, bd_rate, lagrangian_percent
from tcm_lab.study.context import Event
from tcm_lab.study.dry_run import dry_run
from tcm_lab.study.estimators import Outcome, Task, Watch
from tcm_lab.study.folder import sqlite_url
from tcm_lab.study.pool import _interrupt, _start
from tcm_lab.study.prepare import prepare
from tcm_lab.study.proposals import Job
from tcm_lab.study.queue import TrialQueue, open_queue
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.run import fill_queue, run_study
from tcm_lab.study.space import Space, load_space, parse_space
from tcm_lab.study.storage import close_storage, is_dead, this_process
from tcm_lab.study.summary import summarise
from tcm_lab.study.trainer import CodecTrainer
from tcm_lab.study.trial import StudyTrial, key_of
from tcm_lab.study.variants import Variants
from tcm_lab.study.worker import Training, work
from tcm_lab.training import Recipe, TrainingProgress

GRID = {0.0, 0.25, 0.5, 0.75, 1.0}


def parse(text: str) -> Space:
    return parse_space(text, "toy.yaml", None)


def run(tmp_path: Path, text: str = SPACE, trainer: Surrogate | None = None, **options: object):
    trainer = trainer or Surrogate(tmp_path / "log")
    space = parse(text)
    options = {"workers": 1, "out": tmp_path / "toy", **options}
    workers, display = options.pop("workers"), options.pop("display", None)
    return run_study(prepare(space, trainer=trainer, **options), workers, display)  # type: ignore[arg-type]


def splits(result: StudyResult) -> set[object]:
    return {record.params["split"] for record in result.records}


def test_a_grid_trains_every_variant_once_the_baseline_first(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert splits(result) == GRID
    assert len(trained(tmp_path / "log")) == 5
    assert result.records[0].is_baseline
    assert [r.is_baseline for r in result.records[1:]] == [False] * 4


def test_a_grids_costliest_variants_begin_first_and_the_table_keeps_the_grids_order(
    tmp_path: Path,
) -> None:
    result = run(tmp_path)
    costs = [record.complexity.kmacs_per_px for record in result.records[1:]]
    assert costs == sorted(costs, reverse=True)
    shown = [summary.first.params["split"] for summary in summarise(result.records, result.space)]
    assert shown == [shown[0], *sorted(GRID - {shown[0]})]


def test_lambdas_that_do_not_suit_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two = SPACE.replace("[0.0, 0.25, 0.5, 0.75, 1.0]", "[0.5, 0.75]")
    assert len(run(tmp_path, two).records) == 2
    (warning,) = (r.getMessage() for r in caplog.records if "channels suit" in r.getMessage())
    assert warning.startswith("lambdas up to 0.05: 64 latent channels suit up to about 0.0045")


def test_the_sampler_is_told_the_counted_and_the_measured_figures(tmp_path: Path) -> None:
    result = run(tmp_path)
    rows = sqlite3.connect(tmp_path / "toy" / "study.db").execute(
        "select t.number, v.objective, v.value from trials t join trial_values v using (trial_id)"
    )
    told = {(number, objective): value for number, objective, value in rows}
    for record in result.records:
        percent = lagrangian_percent(result.records[0].rd, record.rd, lambdas=record.lambdas)
        assert told[record.number, 0] == percent
        assert told[record.number, 1] == record.complexity.kmacs_per_px


def test_a_second_call_trains_nothing_again(tmp_path: Path) -> None:
    first, second = run(tmp_path), run(tmp_path)
    assert second.records == first.records
    assert len(trained(tmp_path / "log")) == 5


def test_ctrl_c_loses_nothing_and_a_second_call_goes_on(tmp_path: Path) -> None:
    trainer = Surrogate(tmp_path / "log", interrupt_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, trainer=trainer)
    assert len(trained(tmp_path / "log")) == 2
    result = run(tmp_path)
    assert splits(result) == GRID
    names = [name for name, _, _ in trained(tmp_path / "log")]
    assert len(names) == len(set(names)) == 5


def test_what_was_interrupted_goes_on_first_and_the_baseline_before_it(tmp_path: Path) -> None:
    for done in (0, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, trainer=Surrogate(tmp_path / "log", interrupt_after=done))
    events: list[Event] = []
    run(tmp_path, display=lambda todo, done: _listening(events))
    begun = [e.label for e in events if e.kind == "started"]
    names = [name.split("=")[1] for name, _, _ in trained(tmp_path / "log")]
    assert names == ["0.5", "0", "1", "0.25", "0.75"]  # the costliest first behind the baseline
    assert begun == ["split 0.25", "split 0.75"]


def test_a_bd_rate_objective_waits_for_the_baseline_without_training_twice(tmp_path: Path) -> None:
    text = SPACE + "objectives: [bd_rate_percent, kmacs_per_px]"
    result = run(tmp_path, text)
    database = sqlite3.connect(tmp_path / "toy" / "study.db")
    rows = database.execute(
        "select t.number, v.value from trials t join trial_values v using (trial_id) "
        "where v.objective = 0"
    )
    told = dict(rows.fetchall())
    anchor = result.records[0].rd.curve()
    for record in result.records:
        expected = bd_rate(anchor, record.rd.curve()).percent if record.number else 0.0
        assert told[record.number] == pytest.approx(expected)
    assert len(trained(tmp_path / "log")) == 5


def test_a_variant_that_cannot_be_trained_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    events: list[Event] = []
    trainer = Surrogate(tmp_path / "log", fails_on="split=1")
    result = run(tmp_path, trainer=trainer, display=lambda todo, done: _listening(events))
    assert splits(result) == GRID - {1.0}
    assert result.failed == {"split 1": "diverged for the 4th time"}
    assert [e.label for e in events if e.kind == "failed"] == ["split 1"]


def test_a_baseline_that_cannot_be_trained_ends_the_study(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="the baseline can't be trained: diverged"):
        run(tmp_path, trainer=Surrogate(tmp_path / "log", fails_on="split=0.5"))


def test_a_variant_over_a_constraint_is_never_trained(tmp_path: Path) -> None:
    # Of tcm-nano's splits, 0 and 1 cost more than 40 kMAC/px.
    result = run(tmp_path, SPACE + "constraints: {kmacs_per_px: 40}")
    assert splits(result) == {0.25, 0.5, 0.75}
    assert len(trained(tmp_path / "log")) == 3
    assert all(record.complexity.kmacs_per_px <= 40 for record in result.records)


@pytest.mark.parametrize(
    ("bound", "words"),
    [(20, ["kmacs_per_px = 20", "34.0824", "baseline"]), (34.1, ["leave no variant", "relax"])],
)
def test_a_constraint_that_nothing_meets_is_named_and_nothing_is_written(
    tmp_path: Path, bound: float, words: list[str]
) -> None:
    with pytest.raises(LabError) as caught:
        run(tmp_path, SPACE + f"constraints: {{kmacs_per_px: {bound}}}")
    assert all(word in str(caught.value) for word in words), caught.value
    assert list(tmp_path.iterdir()) == []


def test_choices_that_change_nothing_are_named_and_no_constraint_is(tmp_path: Path) -> None:
    text = SPACE.replace("[0.0, 0.25, 0.5, 0.75, 1.0]", "[0.5]").replace("grid", "grid")
    for attempt in (lambda: run(tmp_path, text), lambda: dry_run(prepare(parse(text)))):
        with pytest.raises(LabError, match=r"^axes: no variant besides the baseline.*add choices"):
            attempt()


def test_shorter_trainings_are_evaluated_like_longer_ones(tmp_path: Path) -> None:
    more = "objectives: [psnr_db, kmacs_per_px]\nestimator: "
    result = run(tmp_path, SPACE + more + "{type: train, steps: 20}")
    assert {record.steps for record in result.records} == {20}
    with pytest.raises(LabError, match="estimator paired-loss estimates lagrangian_percent, not p"):
        parse(SPACE + more + "{type: paired-loss, steps: 200}")


def test_a_search_counts_no_more_finished_trainings_than_it_has(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(tmp_path, cache=cache)
    text = SAMPLED.replace("trials: 10", "trials: 2, rate_levels: 4")
    text = "".join(line for line in text.splitlines(True) if "slices" not in line)
    text = text.replace("  window", "  # window")
    context = prepare(parse(text), out=tmp_path / "other", cache=cache)
    line = next(line for line in dry_run(context).lines if line.startswith("Budget"))
    assert line.endswith("2 trainings of 40 steps (scratch); up to 2 are already finished.")


def test_another_space_in_the_same_folder_is_refused_by_what_changed(tmp_path: Path) -> None:
    run(tmp_path)
    changed = SPACE.replace("0.75, 1.0", "1.0").replace("steps: 40", "steps: 50")
    with pytest.raises(LabError) as caught:
        run(tmp_path, changed)
    message = str(caught.value)
    assert "axes.split.choices was [0.0, 0.25, 0.5, 0.75, 1.0] and is [0.0, 0.25, 0.5, 1.0]" in (
        message
    )
    assert "budget.steps was 40 and is 50" in message
    assert "--out" in message


def test_a_published_study_is_not_written_over(tmp_path: Path) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (published / "space.yaml").write_text(SPACE)
    (published / "records.jsonl").write_text("{}")
    with pytest.raises(LabError, match=r"records\.jsonl: belongs to a published study.*--out"):
        run(tmp_path, out=published)
    assert {path.name for path in published.iterdir()} == {"space.yaml", "records.jsonl"}


def test_a_space_file_in_the_studys_folder_stays_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "toy" / "space.yaml"
    file.parent.mkdir()
    written = f"# What I think of it.\n{SPACE}"
    file.write_text(written)
    assert splits(run(tmp_path)) == GRID
    assert file.read_text() == written
    run(tmp_path)
    assert file.read_text() == written


def test_another_space_file_in_a_new_studys_folder_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "toy" / "space.yaml"
    file.parent.mkdir()
    file.write_text(SPACE.replace("steps: 40", "steps: 41"))
    with pytest.raises(LabError, match=r"space\.yaml: is not the study's space\. Choose"):
        run(tmp_path)
    assert "steps: 41" in file.read_text()
    assert [path.name for path in file.parent.iterdir()] == ["space.yaml"]


def test_other_images_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    run(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "images" / "a.png")
    with pytest.raises(LabError, match="evaluation images was"):
        run(tmp_path, eval_data=tmp_path / "images")


def test_studies_that_share_a_cache_share_trainings(tmp_path: Path) -> None:
    run(tmp_path, cache=tmp_path / "cache")
    result = run(tmp_path, out=tmp_path / "other", cache=tmp_path / "cache")
    assert splits(result) == GRID
    assert len(trained(tmp_path / "log")) == 5
    named = SPACE.replace("split: {", "share: {")
    result = run(tmp_path, named, out=tmp_path / "named", cache=tmp_path / "cache")
    assert len(trained(tmp_path / "log")) == 5
    assert {r.config["name"].partition("=")[0] for r in result.records} == {"tcm-nano share"}
    other = SPACE.replace("steps: 40", "steps: 50")
    run(tmp_path, other, out=tmp_path / "longer", cache=tmp_path / "cache")
    assert len(trained(tmp_path / "log")) == 10


def test_a_training_that_another_studys_root_seed_made_counts_by_this_studys_own(
    tmp_path: Path,
) -> None:
    two = SPACE.replace("steps: 40", "steps: 40, seeds: 2").replace(
        "sampler: grid", "mode: ablation"
    )
    run(tmp_path, two, cache=tmp_path / "cache")
    # The first seed of one is the second of the other.
    result = run(tmp_path, SPACE + "seed: 1", out=tmp_path / "other", cache=tmp_path / "cache")
    assert {(r.params["split"], r.seed, r.recipe.seed) for r in result.records} == {
        (split, 0, 1) for split in GRID
    }
    assert len(trained(tmp_path / "log")) == 10


def test_a_dry_run_counts_what_is_finished_already(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(tmp_path, SPACE.replace("0.5, 0.75, 1.0", "0.5"), cache=cache)

    def budget(text: str, **options: Any) -> str:
        trainer = Surrogate(tmp_path / "log")
        context = prepare(parse(text), out=tmp_path / "other", trainer=trainer, **options)
        return next(line for line in dry_run(context).lines if line.startswith("Budget"))

    assert budget(SPACE) == "Budget: 5 trainings of 40 steps (scratch)."
    assert budget(SPACE, cache=cache).endswith("(scratch); 3 are already finished.")
    more = SPACE.replace("rate_levels: 4", "rate_levels: 4, seeds: 2").replace(
        "sampler: grid", "mode: ablation"
    )
    assert budget(more, cache=cache).startswith("Budget: 10 trainings of 40 steps (scratch); 3 are")


SAMPLED = """
name: toy
base: tcm-nano
axes:
  split: {path: "g_*.split", choices: [0.0, 0.25, 0.5, 0.75, 1.0]}
  slices: {path: entropy_model.slices, choices: [1, 2, 4, 8]}
  window: {path: "g_*.window_size", choices: [4, 8]}
sampler: tpe
budget: {recipe: scratch, steps: 40, trials: 10}
"""


def test_what_another_machine_has_moved_in_the_queue_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Surrogate(tmp_path / "log")
    context = prepare(parse(SPACE), out=tmp_path / "toy", trainer=trainer)
    fill_queue(context)
    with open_queue(context.storage, context.name) as queue:
        queue.requeue(queue.ask())  # the baseline is last now, and must be moved
        again, ended = queue.try_again, list[int]()

        def end_one_meanwhile(number: int, **changes: Any) -> None:
            again(number, **changes)
            if not ended:
                ended.append(queue.trials("WAITING")[0].number)
                trial_id = queue._frozen(ended[0])._trial_id
                queue.storage.set_trial_state_values(trial_id, optuna.trial.TrialState.FAIL)

        monkeypatch.setattr(queue, "try_again", end_one_meanwhile)
        queue.reorder()
    assert ended
    assert splits(run(tmp_path, trainer=trainer)) == GRID
    assert len(trained(tmp_path / "log")) == 5


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "nsga2"])
def test_every_sampler_spends_its_budget_on_different_variants(
    tmp_path: Path, sampler: str
) -> None:
    result = run(tmp_path, SAMPLED.replace("tpe", sampler))
    assert len({record.fingerprint for record in result.records}) == 10
    assert len(trained(tmp_path / "log")) == 10
    assert result.records[0].is_baseline


def test_sampling_follows_from_the_seed_also_across_an_interruption(tmp_path: Path) -> None:
    whole = run(tmp_path, SAMPLED)
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path, SAMPLED, out=tmp_path / "cut",
            trainer=Surrogate(tmp_path / "cut-log", interrupt_after=5),
        )  # fmt: skip
    cut = run(tmp_path, SAMPLED, out=tmp_path / "cut", trainer=Surrogate(tmp_path / "cut-log"))
    assert [r.params for r in cut.records] == [r.params for r in whole.records]
    other = run(tmp_path, SAMPLED + "seed: 1", out=tmp_path / "other", trials=4)
    assert [r.params for r in other.records] != [r.params for r in whole.records[:4]]


def test_a_space_that_is_smaller_than_the_budget_ends_when_it_is_exhausted(tmp_path: Path) -> None:
    small = SPACE.replace("sampler: grid", "sampler: tpe").replace("steps: 40", "trials: 50")
    result = run(tmp_path, small)
    assert splits(result) == GRID


def test_more_trials_may_be_asked_for_later(tmp_path: Path) -> None:
    run(tmp_path, SAMPLED.replace("trials: 10", "trials: 6"))
    result = run(tmp_path, SAMPLED, trials=8)
    assert len(result.records) == 8
    assert len(trained(tmp_path / "log")) == 8


def test_what_is_asked_for_later_is_in_the_space_that_is_read_and_published(
    tmp_path: Path,
) -> None:
    run(tmp_path)
    more = SPACE.replace("steps: 40", "steps: 40, seeds: 2") + "title: More\n"
    space = run(tmp_path, more).space
    assert open_result(tmp_path / "toy").space == space == load_space(tmp_path / "toy/space.yaml")
    assert (space.budget.seeds, space.title) == (2, "More")
    file = tmp_path / "toy" / "space.yaml"
    own = f"# What I think of it.\n{file.read_text()}"
    file.write_text(own)
    assert run(tmp_path).space.title == ""
    assert file.read_text() == own  # which may be the one that is searched


def test_a_trial_lives_while_its_codec_is_measured_and_goes_back_at_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = "select 1 from trial_heartbeats join trials using (trial_id) where state = 'RUNNING'"
    found: list[object] = []

    def exceeded(variants: Variants, variant: object) -> dict[str, tuple[float, float]]:
        if len(trained(tmp_path / "log")) < 2:
            return {}
        deadline = time.monotonic() + 30
        while not found and time.monotonic() < deadline:
            database = sqlite3.connect(tmp_path / "toy" / "study.db")
            found.extend(database.execute(lives).fetchall())
            database.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Variants, "exceeded", exceeded)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, SAMPLED, trials=4)
    assert len(found) == 1
    with open_queue(sqlite_url(tmp_path / "toy" / "study.db"), "toy") as queue:
        assert queue.trials("RUNNING") == []
        assert all(trial.retries == 0 for trial in queue.trials())
    assert len(run(tmp_path, SAMPLED, trials=4).records) == 4


def test_a_bounded_search_trains_only_what_keeps_the_bound(tmp_path: Path) -> None:
    result = run(tmp_path, SAMPLED + "constraints: {kmacs_per_px: 36}")
    assert len(result.records) == 10
    assert all(record.complexity.kmacs_per_px <= 36 for record in result.records)


def test_soft_constraints_are_trained_and_told_to_the_sampler(tmp_path: Path) -> None:
    result = run(tmp_path, SPACE + "soft_constraints: {kmacs_per_px: 36}")
    assert splits(result) == GRID
    over = {r.params["split"]: r.violations["kmacs_per_px"] for r in result.records}
    assert [split for split, excess in sorted(over.items()) if excess > 0] == [0.0, 0.25, 1.0]
    text = "select count(*) from trial_system_attributes where key like 'constraints:%'"
    database = sqlite3.connect(tmp_path / "toy" / "study.db")
    assert database.execute(text).fetchone() == (5,)


def test_further_seeds_go_to_the_front_and_the_baseline(tmp_path: Path) -> None:
    result = run(tmp_path, SPACE.replace("steps: 40", "steps: 40, seeds: 3"))
    by_split: dict[object, list[int]] = {}
    for record in result.records:
        by_split.setdefault(record.params["split"], []).append(record.seed)
    # The surrogate is best at 3/4; the baseline is cheapest; the others are dominated.
    assert by_split == {0.5: [0, 1, 2], 0.75: [0, 1, 2], 0.0: [0], 0.25: [0], 1.0: [0]}
    assert {r.recipe.seed for r in result.records if r.seed == 2} == {2}


def test_what_is_done_is_never_more_than_all(tmp_path: Path) -> None:
    text = SPACE.replace("steps: 40", "steps: 40, seeds: 3")
    done = len(run(tmp_path, text).records)
    assert fill_queue(prepare(parse(text), out=tmp_path / "toy")) == (done, done) == (9, 9)


def test_a_search_has_no_more_trainings_in_all_than_its_space_has_points(tmp_path: Path) -> None:
    sampled = SPACE.replace("sampler: grid", "sampler: tpe")
    for trials, todo in ((50, 5), (3, 3)):
        text = sampled.replace("steps: 40", f"trials: {trials}")
        assert fill_queue(prepare(parse(text), out=tmp_path / str(trials))) == (todo, 0)


def test_an_ablation_gives_every_variant_all_its_seeds(tmp_path: Path) -> None:
    text = SPACE.replace("sampler: grid", "mode: ablation").replace("40", "40, seeds: 2")
    result = run(tmp_path, text)
    assert sorted(r.seed for r in result.records) == [0] * 5 + [1] * 5


RUNGS = SPACE.replace("steps: 40", "steps: 40, rungs: [0.25, 0.5], margin_percent: 1")


def test_a_variant_that_is_dominated_at_a_rung_stops_there(tmp_path: Path) -> None:
    # Every split but 3/4 is worse and costs more than the baseline's 1/2.
    whole = run(tmp_path, out=tmp_path / "whole")
    result = run(tmp_path, RUNGS, trainer=Surrogate(tmp_path / "rung-log"))
    states = {r.params["split"]: (r.state, r.steps) for r in result.records}
    assert states[0.5] == states[0.75] == ("complete", 40)
    assert states[0.0] == ("stopped", 10)
    assert sum(steps for _, _, steps in trained(tmp_path / "rung-log")) < 5 * 40
    from tcm_lab.study.summary import summarise

    fronts = [
        {s.label for s in summarise(found.records, found.space) if s.on_front}
        for found in (whole, result)
    ]
    assert fronts[0] == fronts[1]


def test_a_training_of_another_study_stops_others_at_its_rungs_as_one_of_this_study_does(
    tmp_path: Path,
) -> None:
    first, second = (
        run(tmp_path, RUNGS, out=tmp_path / name, cache=tmp_path / "cache").records
        for name in ("first", "second")
    )
    states = {r.params["split"]: (r.state, r.steps) for r in first}
    assert {r.params["split"]: (r.state, r.steps) for r in second} == states
    assert ("stopped", 10) in states.values()


def test_rungs_that_cool_down_from_one_step_are_both_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = "recipe: study, steps: 500, rungs: [0.1, 0.12]"
    space = parse(SPACE.replace("recipe: scratch, steps: 40", budget))
    context = prepare(space, out=tmp_path / "toy")
    task = context.task(context.variants.baseline(), 0, space.estimator)
    assert {task.recipe.changed(steps=rung).cooldown_begins for rung in task.rungs} == {40}
    judged: list[int] = []

    class Judge:
        def progress(self, step: int, text: str) -> None: ...

        def rung(self, step: int, rd: RdRecord) -> bool:
            judged.append(step)
            return step < 60

    def train(codec: object, recipe: Recipe, crops: object, **options: Any) -> None:
        for step in range(10, recipe.steps + 1, 10) if "branches" in options else ():
            options["on_progress"](TrainingProgress(step, recipe.steps, 1.0, 0.5, 25.0, 3.0, 9.0))

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(CodecTrainer, "_evaluate", lambda self, codec, task, *_: curve(task.config))
    assert context.trainer(task, Judge()).steps == 60
    assert judged == [50, 60]


def test_a_further_seed_goes_on_however_it_does(tmp_path: Path) -> None:
    trainer = Surrogate(tmp_path / "log", seed_noise=-0.5)
    result = run(tmp_path, RUNGS.replace("steps: 40", "steps: 40, seeds: 2"), trainer=trainer)
    further = [record for record in result.records if record.seed == 1]
    assert {record.params["split"] for record in further} >= {0.5, 0.75}
    assert {record.state for record in further} == {"complete"}


def test_a_variant_over_a_soft_constraint_stops_no_other(tmp_path: Path) -> None:
    result = run(tmp_path, RUNGS)
    stopped = {record.label for record in result.records if record.state == "stopped"}
    counts = {record.complexity.kmacs_per_px for record in result.records}
    bound = min(counts) - 1  # nobody keeps it
    bounded = RUNGS + f"soft_constraints: {{kmacs_per_px: {bound}}}"
    other = run(tmp_path, bounded, out=tmp_path / "bounded")
    assert stopped
    assert {record.state for record in other.records} == {"complete"}


def test_two_workers_sample_different_variants(tmp_path: Path) -> None:
    result = run(tmp_path, SAMPLED, workers=2, trainer=Surrogate(tmp_path / "log", seconds=0.05))
    assert len({r.fingerprint for r in result.records}) == len(result.records) == 10
    assert len(trained(tmp_path / "log")) == 10


def test_what_workers_drew_at_once_stays_within_the_budget(tmp_path: Path) -> None:
    # Two that both saw room for one more would have queued these beside the baseline.
    context = prepare(parse(SAMPLED), out=tmp_path / "toy", trials=2)
    fill_queue(context)
    with open_queue(context.storage, context.name) as queue:
        for split in (0.25, 0.75):
            params = {"split": split, "slices": 4, "window": 8}
            key = key_of(Variants(context.space).build(params).fingerprint, 0)
            queue.enqueue(params, key=key)
    result = run(tmp_path, SAMPLED, trials=2)
    assert [record.params["split"] for record in result.records] == [0.5, 0.25]
    more = run(tmp_path, SAMPLED, trials=3)  # a larger budget goes on
    assert len({record.fingerprint for record in more.records}) == len(more.records) == 3


def test_an_ablations_further_seeds_wait_for_nobody(tmp_path: Path) -> None:
    text = SPACE.replace("sampler: grid", "mode: ablation").replace("40", "40, seeds: 2")
    context = prepare(parse(text), out=tmp_path / "toy")
    fill_queue(context)
    with open_queue(context.storage, context.name) as queue:
        baseline, held = queue.ask(), queue.ask()  # another worker's, which takes its time
        queue.requeue(baseline)

        def release(event: Event) -> None:
            assert event.kind != "waiting" or held_again
            if "seed 1" in event.label and not held_again:
                held_again.append(True)
                queue.requeue(held)

        held_again: list[bool] = []
        work(replace(context, trainer=Surrogate(tmp_path / "log")), 0, release)
        records = queue.records()
    assert held_again
    assert {(r.params["split"], r.seed) for r in records} == {(s, i) for s in GRID for i in (0, 1)}
    assert len(records) == 10


def test_a_baseline_that_ends_between_two_looks_at_the_database_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = prepare(parse(SPACE), out=tmp_path / "toy", trainer=Surrogate(tmp_path / "log"))
    fill_queue(context)
    other = TrialQueue(context.storage, context.name)  # another worker's
    baseline = Job(other.ask(), context.variants.baseline(), 0)
    look, ended = TrialQueue.trials, []

    def and_then_it_ends(queue: TrialQueue, *states: str) -> list[StudyTrial]:
        trials = look(queue, *states)
        if trained(tmp_path / "log") and not ended:  # one variant, which now waits
            ended.append(True)
            Training(context, other, baseline, 1, lambda event: None).run()
        return trials

    monkeypatch.setattr(TrialQueue, "trials", and_then_it_ends)
    work(context, 0, lambda event: None)
    assert {record.params["split"] for record in other.records()} == GRID
    close_storage(other.storage)


def test_a_killed_workers_training_is_taken_up_by_the_other(tmp_path: Path) -> None:
    trainer = Surrogate(tmp_path / "log", seconds=0.2, kill_on=("split=0.25",))
    result = run(tmp_path, workers=2, trainer=trainer)
    assert splits(result) == GRID
    assert len(trained(tmp_path / "log")) == 5


def test_a_study_in_this_process_leaves_torchs_threads_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), set[int]()
    monkeypatch.setattr("tcm_lab.study.run.threads_each", lambda workers: before + 1)

    def display(todo: int, done: int) -> nullcontext[object]:
        return nullcontext(lambda event: seen.add(torch.get_num_threads()))

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, trainer=Surrogate(tmp_path / "log", interrupt_after=1), display=display)
    assert torch.get_num_threads() == before
    run(tmp_path, display=display)
    assert torch.get_num_threads() == before
    assert seen == {before + 1}


def test_workers_that_are_interrupted_before_they_listen_end_by_their_first_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcm_lab.study.pool._PATIENCE_S", 900.0)  # they import torch first
    context = prepare(parse(SPACE), out=tmp_path / "toy", trainer=Surrogate(tmp_path / "log", 600))
    fill_queue(context)
    workers = _start(context, 2)
    _interrupt(workers)
    assert [process.exitcode for _, process in workers.values()] == [0, 0]
    with open_queue(context.storage, context.name) as queue:
        assert queue.trials("RUNNING") == []


@pytest.mark.parametrize(
    "program",
    [
        "pool.work = lambda *_: None",  # it has nothing left to do
        "pool.work = lambda *_: os.kill(os.getpid(), signal.SIGINT)",
    ],
)
def test_a_worker_that_is_interrupted_while_it_exits_says_nothing(program: str) -> None:
    late = f"""
import atexit, os, signal
from types import SimpleNamespace
from tcm_lab.study import pool
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
{program}
pool._child(SimpleNamespace(threads=1), 0, None)
"""
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_ctrl_c_while_the_command_line_exits_says_nothing() -> None:
    late = """
import atexit, os, signal, sys
from tcm_lab.cli import app
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
app._app = lambda _: os.kill(os.getpid(), signal.SIGINT)
sys.exit(app.main(["models"]))
"""
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "tcm-lab: interrupted\n")


def test_when_every_worker_is_killed_the_next_call_goes_on(tmp_path: Path) -> None:
    trainer = Surrogate(tmp_path / "log", seconds=0.2, kill_on=("split=0.25", "split=1"))
    with pytest.raises(LabError, match="every worker was killed"):
        run(tmp_path, workers=2, trainer=trainer)
    result = run(tmp_path)
    assert splits(result) == GRID
    assert len(trained(tmp_path / "log")) == 5
    # What SQLite keeps beside an open database went into it, though nobody closed it before.
    assert [file.name for file in (tmp_path / "toy").glob("study.db*")] == ["study.db"]


def test_a_process_that_ended_is_known_to_be_dead_and_a_living_one_is_not() -> None:
    mine = this_process()
    assert not is_dead(mine)
    code = "from tcm_lab.study.storage import this_process; print(this_process())"
    other = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert is_dead(other)
    assert not is_dead(other.replace(mine.split("|")[0], "elsewhere"))
    started = mine.rsplit("|", 1)[0]
    assert is_dead(f"{started}|1.00")


def test_a_database_that_stays_locked_ends_in_one_message_and_the_study_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    monkeypatch.setattr("tcm_lab.study.storage._LOCK_WAIT_S", 0.1)
    database = sqlite3.connect(tmp_path / "toy" / "study.db", isolation_level=None)
    database.execute("begin exclusive")
    with pytest.raises(LabError, match=r"study.db: database is locked; another program") as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
    database.execute("rollback")
    assert splits(run(tmp_path)) == GRID


def test_a_file_that_is_no_database_and_a_folder_that_is_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "study.db").write_text("something else" * 100)
    with pytest.raises(LabError, match="file is not a database"):
        run(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"file: cannot be created.*--out"):
        run(tmp_path, out=tmp_path / "file")
    with pytest.raises(LabError, match=r"file: cannot be created.*--cache"):
        run(tmp_path, out=tmp_path / "other", cache=tmp_path / "file")
    assert not trained(tmp_path / "log")


def test_a_database_that_is_only_read_is_not_made_by_a_wrong_address(tmp_path: Path) -> None:
    run(tmp_path)
    typo = tmp_path / "typo.db"
    with pytest.raises(LabError, match=r"typo.db: there is no such file"):
        open_result(tmp_path / "toy", f"sqlite:///{typo}")
    assert not typo.exists()
    with pytest.raises(LabError, match="sqlite:///FILE or postgresql"):
        open_result(tmp_path / "toy", "nonsense")
    assert open_result(tmp_path / "toy", f"sqlite:///{tmp_path / 'toy' / 'study.db'}").records


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:1/none", "me:\\*\\*\\*@127.0.0.1"),
        ("nonsense", "sqlite:///FILE or postgresql"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, url: str, words: str
) -> None:
    with pytest.raises(LabError, match=words) as caught:
        run(tmp_path, storage=url)
    assert "secret" not in str(caught.value)


def test_a_full_disk_ends_in_one_message_and_the_training_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tcm_lab._utils import files

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        run(tmp_path, out=tmp_path / "warm-up")
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(LabError, match="No space left"):
            run(tmp_path)
    assert splits(run(tmp_path)) == GRID


def test_a_file_that_a_training_misses_is_named_and_not_the_database(tmp_path: Path) -> None:
    class Careless(Surrogate):
        def __call__(self, task: Task, watch: Watch) -> Outcome:
            (tmp_path / "gone").read_bytes()
            raise AssertionError

    with pytest.raises(LabError, match=r"gone: No such file") as caught:
        run(tmp_path, trainer=Careless(tmp_path / "log"))
    assert "study.db" not in str(caught.value)


class _listening:  # noqa: N801  # reads as what it does
    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def __enter__(self):
        return lambda event: self.events.append(replace(event))

    def __exit__(self, *_: object) -> None:
        pass
