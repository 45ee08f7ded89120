"""A trial whose worker is taken for lost but works on is left to it, and nothing else waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.trial import Trial
from surrogate import SPACE, Surrogate, trained

from tcm_lab._utils.held import held
from tcm_lab.study.context import Event, StudyContext
from tcm_lab.study.estimators import Outcome, Task, Watch
from tcm_lab.study.folder import sqlite_url
from tcm_lab.study.prepare import prepare
from tcm_lab.study.proposals import Job
from tcm_lab.study.queue import TrialQueue, open_queue
from tcm_lab.study.run import fill_queue
from tcm_lab.study.space import parse_space
from tcm_lab.study.trial import key_of
from tcm_lab.study.worker import Training, work

_DEADLINE_S = 300  # which only a worker that never ends reaches


@dataclass(frozen=True)
class Holding:
    """Holds the folder that it trains in, as the real trainer does, and may take its time."""

    inner: Surrogate
    begun: threading.Event | None = None
    leave: threading.Event | None = None

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        with held(task.directory, "another process trains here"):
            if self.begun is not None and self.leave is not None:
                self.begun.set()
                self.leave.wait(_DEADLINE_S)
            return self.inner(task, watch)


@pytest.fixture
def context(tmp_path: Path) -> StudyContext:
    trainer = Holding(Surrogate(tmp_path / "log"))
    context = prepare(parse_space(SPACE, "toy.yaml", None), out=tmp_path / "toy", trainer=trainer)
    fill_queue(context)
    return context


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return a list of trials that give no sign of life for as long as they are in it."""
    ids: list[int] = []
    monkeypatch.setattr(RDBStorage, "_get_stale_trial_ids", lambda storage, study: list(ids))
    return ids


def claimed(context: StudyContext, queue: TrialQueue, trial: Trial) -> Job:
    """Return what a queued trial trains, held by this queue."""
    key = queue.attributes(trial).key
    assert key is not None
    assert queue.claim(trial, key)
    known = context.variants.known()
    return Job(trial, next(each for each in known if key_of(each.fingerprint, 0) == key), 0)


@pytest.mark.parametrize("which", ["the baseline", "another"])
def test_it_is_left_to_its_worker_and_the_others_are_trained_meanwhile(
    tmp_path: Path, context: StudyContext, silent: list[int], which: str
) -> None:
    log, begun, leave = tmp_path / "log", threading.Event(), threading.Event()
    slow = replace(context, trainer=Holding(Surrogate(log), begun, leave))
    theirs: list[Event] = []
    events: list[Event] = []
    before: list[int] = []
    with open_queue(context.storage, context.name) as other:
        trial = other.ask()
        if which == "another":
            Training(context, other, claimed(context, other, trial), 1, lambda event: None).run()
            trial = other.ask()
        owner = Training(slow, other, claimed(context, other, trial), 1, theirs.append)
        thread = threading.Thread(target=owner.run)
        thread.start()
        assert begun.wait(_DEADLINE_S)
        silent.append(trial._trial_id)

        def on_event(event: Event) -> None:
            events.append(event)
            is_idle = event.kind == ("aside" if which == "the baseline" else "waiting")
            if is_idle and not leave.is_set():
                before.append(len(trained(log)))
                leave.set()

        work(context, 0, on_event)
        thread.join(_DEADLINE_S)
        records = other.records()
        states = [t.state for t in other.trials()]
    assert {record.params["split"] for record in records} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert len(records) == len(trained(log)) == 5  # nothing was trained twice
    assert before == [4]
    assert [event.kind for event in theirs if event.kind != "progress"] == ["started", "aside"]
    assert [event.label for event in events if event.kind == "known"].count(theirs[0].label) == 1
    assert states.count("COMPLETE") == 5


def test_a_worker_that_ends_before_that_of_its_trial_puts_it_back(
    context: StudyContext, silent: list[int]
) -> None:
    with open_queue(context.storage, context.name) as other, ExitStack() as stack:
        baseline = claimed(context, other, other.ask())
        Training(context, other, baseline, 1, lambda event: None).run()
        trial = other.ask()
        job = claimed(context, other, trial)
        task = context.task(job.variant, 0, context.space.estimator)
        stack.enter_context(held(task.directory, ""))
        silent.append(trial._trial_id)

        def on_event(event: Event) -> None:
            if event.kind == "waiting":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work(context, 0, on_event)
        (waiting,) = other.trials("WAITING")
        assert (waiting.key, waiting.begun, waiting.retries) == (job.key, True, 0)
        assert other.trials("RUNNING") == []


@pytest.mark.parametrize("end", ["finish", "requeue", "fail"])
@pytest.mark.parametrize("retries", [0, 1])
def test_what_ends_after_its_trial_was_given_up_is_queued_once(
    context: StudyContext, tmp_path: Path, silent: list[int], retries: int, end: str
) -> None:
    work(context, 0, lambda event: None)
    with open_queue(context.storage, context.name) as queue:
        record = queue.records()[0]
    with open_queue(sqlite_url(tmp_path / "other.db"), "other", ["minimize"] * 2) as queue:
        queue.enqueue({}, key="codec-s0", retries=retries)
        trial = queue.ask()
        assert queue.claim(trial, "codec-s0")
        silent.append(trial._trial_id)
        queue._reclaimed = -1.0
        queue.reclaim()
        queue.note(trial, rungs={10: 1.5})
        if end == "finish":
            assert not queue.finish(trial, record, [0.0, 1.0])
        elif end == "requeue":
            queue.requeue(trial)
        else:
            queue.fail(trial, "diverged")
        lost, *waiting = queue.trials()
        assert lost.state == "FAIL"
        assert not lost.rungs
        count = 0 if end == "fail" and retries else 1
        assert [(t.key, t.state) for t in waiting] == [("codec-s0", "WAITING")] * count
