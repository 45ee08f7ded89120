"""Trainings that fail: what is tried again, by which call, and what they do to others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from surrogate import SPACE, Surrogate, trained

from tcm_lab.errors import LabError
from tcm_lab.study.estimators import Outcome, Task, Watch
from tcm_lab.study.prepare import prepare
from tcm_lab.study.result import StudyResult, open_result
from tcm_lab.study.run import run_study
from tcm_lab.study.space import parse_space
from tcm_lab.study.variants import Variant, VariantCost, Variants

SAMPLED = SPACE.replace("sampler: grid", "sampler: random").replace("steps: 40", "trials: 4")
ABLATION = SPACE.replace("sampler: grid", "mode: ablation").replace("40", "40, seeds: 2")
SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc.cpp:1] DefaultCPUAllocator: can't allocate memory: you"),
)


@dataclass(frozen=True)
class Hungry(Surrogate):
    """Needs more memory than there is, for variants whose name ends so."""

    needs: str = "split=1"
    error: BaseException = SHORTAGES[0]

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        if task.config.name.endswith(self.needs):
            with self.log.with_suffix(".hungry").open("a") as file:
                file.write(f"{task.config.name} {task.recipe.seed}\n")
            raise self.error
        return super().__call__(task, watch)


def hungry(tmp_path: Path) -> int:
    """Return how often memory was used up."""
    return len((tmp_path / "log.hungry").read_text().splitlines())


def run(tmp_path: Path, text: str, trainer: Surrogate) -> StudyResult:
    space = parse_space(text, "toy.yaml", None)
    return run_study(prepare(space, out=tmp_path / "toy", trainer=trainer), 1)


@pytest.mark.parametrize("error", SHORTAGES, ids=["GPU", "Python", "CPU"])
def test_what_lacked_memory_is_named_and_the_next_call_tries_it_again(
    tmp_path: Path, error: BaseException
) -> None:
    first = run(tmp_path, SPACE, Hungry(tmp_path / "log", error=error))
    (reason,) = first.failed.values()
    assert reason.startswith("out of memory (")
    assert "\n" not in reason
    assert "--workers" in reason
    assert hungry(tmp_path) == 1  # by one call once
    again = run(tmp_path, SPACE, Hungry(tmp_path / "log", error=error))
    assert again.failed == {"split 1": reason}
    assert hungry(tmp_path) == 2
    last = run(tmp_path, SPACE, Surrogate(tmp_path / "log"))
    assert {record.params["split"] for record in last.records} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert last.failed == open_result(tmp_path / "toy").failed == {}
    assert len(trained(tmp_path / "log")) == 5


@pytest.mark.parametrize("needs", ["split=0.5", "split=1"])
def test_a_seed_or_a_baseline_that_lacked_memory_is_tried_again(tmp_path: Path, needs: str) -> None:
    trainer = Hungry(tmp_path / "log", needs=needs)
    if needs == "split=0.5":
        with pytest.raises(LabError, match="the baseline can't be trained: out of memory"):
            run(tmp_path, ABLATION, trainer)
    else:
        run(tmp_path, ABLATION, trainer)
    result = run(tmp_path, ABLATION, Surrogate(tmp_path / "log"))
    assert len(result.records) == len(trained(tmp_path / "log")) == 10
    assert result.failed == {}


def test_a_sampled_variant_that_lacked_memory_is_tried_once_in_a_call_within_the_budget(
    tmp_path: Path,
) -> None:
    first = run(tmp_path, SAMPLED, Hungry(tmp_path / "log", needs="split=1"))
    assert first.failed.keys() == {"split 1"}
    assert len(first.records) == 3
    assert hungry(tmp_path) == 1
    result = run(tmp_path, SAMPLED, Surrogate(tmp_path / "log"))
    assert len(result.records) == len(trained(tmp_path / "log")) == 4
    assert 1.0 in {record.params["split"] for record in result.records}


def test_a_variant_that_cannot_be_counted_any_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Variants.cost

    def cost(variants: Variants, variant: Variant) -> VariantCost:
        if variant.label == "split 1" and trained(tmp_path / "log"):
            raise MemoryError
        return count(variants, variant)

    monkeypatch.setattr(Variants, "cost", cost)
    assert run(tmp_path, SPACE, Surrogate(tmp_path / "log")).failed.keys() == {"split 1"}


@dataclass(frozen=True)
class FailsInTheEnd(Surrogate):
    """Fails after its last step, for variants whose name ends so."""

    in_the_end: str = "?"

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        outcome = super().__call__(task, watch)
        if task.config.name.endswith(self.in_the_end):
            raise LabError("diverged for the 4th time")
        return outcome


@pytest.mark.parametrize(
    ("fails", "states"),
    [
        ("?", {0.0: "complete", 0.5: "complete", 0.25: "stopped"}),
        ("split=0.5", {0.0: "complete", 0.25: "complete"}),
    ],
)
def test_a_variant_that_failed_after_its_rung_stops_no_other(
    tmp_path: Path, fails: str, states: dict[float, str]
) -> None:
    # In this order: a half is cheaper than a quarter, and better.
    (tmp_path / "base.yaml").write_text('base: tcm-nano\noverride: {"g_*.split": 0.0}\n')
    text = SPACE.replace("tcm-nano", str(tmp_path / "base.yaml"))
    text = text.replace("[0.0, 0.25, 0.5, 0.75, 1.0]", "[0.0, 0.5, 0.25]")
    text = text.replace("sampler: grid", "mode: ablation")
    text = text.replace("steps: 40", "steps: 40, rungs: [0.25], margin_percent: 1")
    result = run(tmp_path, text, FailsInTheEnd(tmp_path / "log", in_the_end=fails))
    assert {record.params["split"]: record.state for record in result.records} == states
