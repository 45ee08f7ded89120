"""One worker: takes trainings from the queue until there is nothing left to do."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from tcm_lab._utils.files import write_atomically
from tcm_lab.errors import FileError, LabError
from tcm_lab.evaluation import RdRecord, lagrangian_cost
from tcm_lab.metrics import METRICS, Number
from tcm_lab.study.context import Event, OnEvent, StudyContext, Task
from tcm_lab.study.cost import violations
from tcm_lab.study.proposals import Job, Proposals, due_seeds
from tcm_lab.study.queue import StudyTrial, TrialAttributes, TrialQueue, key_of
from tcm_lab.study.record import Rung, TrialRecord, training_identity
from tcm_lab.study.storage import storage_errors
from tcm_lab.training import Recipe

_POLL_S = 1.0
_FILE = "record.json"


def work(context: StudyContext, index: int, on_event: OnEvent) -> None:
    """Train variants of a study until none is left.

    Args:
        context: the study.
        index: which of its workers this is; several draw different variants.
        on_event: called at every step.

    Raises:
        LabError: the database, the disk or the baseline fails. A training that was under way is
            back in the queue.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    with storage_errors(context.storage), TrialQueue(context.storage, context.name) as queue:
        worker = _Worker(context, index, queue, on_event)
        while (job := worker.next_job()) is not None:
            with queue.heartbeat(job.trial):
                worker.do(job)


class _Worker:
    def __init__(
        self, context: StudyContext, index: int, queue: TrialQueue, on_event: OnEvent
    ) -> None:
        self.context, self.space = context, context.space
        self.index, self.on_event = index, on_event
        self.queue, self.proposals = queue, Proposals(context, queue, index)

    def report(self, event: Event) -> None:
        """Report what happened, signed."""
        self.on_event(replace(event, worker=self.index))

    def next_job(self) -> Job | None:
        """Return the next training, waiting while others hold what may yet come back."""
        reported = False
        while True:
            self.queue.reclaim()
            trials = self.queue.trials()
            _require_baseline(trials)
            states = {trial.state for trial in trials}
            if "WAITING" in states or self.proposals.wanted(trials):
                job = self.proposals.take(trials)
                if job is not None:
                    return job
                continue
            # The front is known once no one is at work; an ablation trains every seed anyway.
            if "RUNNING" not in states or self.space.mode == "ablation":
                if self._queue_seeds():
                    continue
                if "RUNNING" not in states:
                    return None
            if not reported:
                self.report(Event("waiting", 0, text="for trainings of other workers"))
                reported = True
            time.sleep(_POLL_S)

    def _queue_seeds(self) -> bool:
        due = due_seeds(self.queue, self.space)
        for record, seed in due:
            key = key_of(record.fingerprint, seed)
            attributes = TrialAttributes(key=key, seed=seed, baseline=record.is_baseline)
            self.queue.enqueue(self.space.encode(record.params), attributes)
        return bool(due)

    def do(self, job: Job) -> None:
        """Train a variant, and leave its trial finished, failed, or back in the queue."""
        queue, recipe = self.queue, self.context.variants.recipe(job.seed)
        event = Event("started", 0, job.trial.number, job.label, steps=recipe.steps)
        try:
            self.report(event)
            cost = self.context.variants.cost(job.variant).metrics
            queue.note(job.trial, TrialAttributes(label=job.variant.label, cost=cost))
            record, known = self._obtain(job, recipe, event)
            values = None
            if record.state != "stopped":
                values = list(self._metrics(record, self.space.objectives).values())
            queue.finish(job.trial, self._judged(record), values)
        except BaseException as error:
            if isinstance(error, LabError) and not isinstance(error, FileError):
                queue.fail(job.trial, str(error))
                self.report(replace(event, kind="failed", text=str(error)))
                return
            queue.requeue(job.trial)  # a finished training's record is kept and found again
            if not isinstance(error, _BaselineFirst):
                raise
            return
        kind = "known" if known else record.state
        ends = (record.rd.points[0], record.rd.points[-1])
        text = " … ".join(f"{point.bpp:.3f} bpp {point.psnr_db:.2f} dB" for point in ends)
        self.report(replace(event, kind=kind, step=record.steps, text=text))

    def _obtain(self, job: Job, recipe: Recipe, event: Event) -> tuple[TrialRecord, bool]:
        """Return the training's record, and whether it existed before."""
        context, variant, cost = self.context, job.variant, self.context.variants.cost(job.variant)
        identity = training_identity(
            variant.fingerprint, recipe, *context.data.fingerprints.values()
        )
        own = {
            "number": job.trial.number,
            "label": variant.label,
            "params": variant.params,
            "is_baseline": variant.is_baseline,
            "complexity": cost.complexity,
            "timing": cost.timing,
        }
        known = find_record(identity, context)
        if known is not None:
            return known.model_copy(update=own), True
        watch = _Watch(self, job, event, recipe.lambdas)
        directory = context.out / "trials" / identity
        outcome = context.trainer(
            Task(variant.config, recipe, directory, self.space.rung_steps), watch
        )
        record = TrialRecord(
            **own,
            config=variant.config.model_dump(mode="json"),
            fingerprint=variant.fingerprint,
            identity=identity,
            seed=job.seed,
            recipe=recipe,
            lambdas=recipe.lambdas,
            state="stopped" if watch.stopped else "complete",
            steps=outcome.steps,
            training=outcome.training,
            rd=outcome.rd,
            rungs=tuple(Rung(step=step, lagrangian=cost) for step, cost in watch.rungs.items()),
        )
        keep_record(record, context)
        return record, False

    def _judged(self, record: TrialRecord) -> TrialRecord:
        """Return the record with its soft constraints."""
        bounds = self.space.soft_constraints
        over = violations(self._metrics(record, bounds), bounds)
        return record.model_copy(update={"violations": over})

    def _metrics(self, record: TrialRecord, names: Iterable[str]) -> dict[str, Number]:
        """Return metrics of a training, waiting for the baseline if one compares with it.

        Raises:
            LabError: the record does not have one of them.
        """
        metrics = [METRICS[name] for name in names]
        relative = any(metric.relative for metric in metrics)
        baseline = self._baseline(record) if relative else None
        values = {}
        for metric in metrics:
            value = metric.of(record, baseline)
            if value is None:
                raise LabError(f"{metric.name} is undefined for this training")
            values[metric.name] = value
        return values

    def _baseline(self, record: TrialRecord) -> TrialRecord:
        """Return the baseline's record, waiting for the worker that trains it."""
        if record.is_baseline and record.seed == 0:
            return record
        while True:
            trials = {trial.state: trial for trial in _of_baseline(self.queue.trials())}
            if "COMPLETE" in trials:
                return self.queue.record(trials["COMPLETE"])
            if "RUNNING" not in trials:
                raise _BaselineFirst
            self.queue.reclaim()
            time.sleep(_POLL_S)

    def survives(self, job: Job, step: int, lagrangian: float) -> bool:
        """Say whether no other variant dominates this one by the margin at a rung.

        The baseline always survives, since all are judged against it, and so do further seeds,
        since a mean over the lucky ones alone would flatter. A variant over a soft constraint is
        on no front, so it stops no other.
        """
        if job.variant.is_baseline or job.seed:
            return True
        margin = math.log1p(self.space.budget.margin_percent / 100)
        costs = [METRICS[n] for n in self.space.objectives if not METRICS[n].needs_training]
        soft = self.space.soft_constraints.items()
        bounds = {name: bound for name, bound in soft if not METRICS[name].needs_training}
        own = self.context.variants.cost(job.variant).metrics
        for other in self.queue.trials():
            if other.key == job.key or not other.cost or step not in other.rungs:
                continue
            if any(by > 0 for by in violations(other.cost, bounds).values()):
                continue
            cheaper = all(m.loss(other.cost[m.name]) <= m.loss(own[m.name]) for m in costs)
            if cheaper and other.rungs[step] <= lagrangian - margin:
                return False
        return True


def _of_baseline(trials: Sequence[StudyTrial]) -> list[StudyTrial]:
    return [trial for trial in trials if trial.baseline and not trial.seed]


def _require_baseline(trials: Sequence[StudyTrial]) -> None:
    """Raise LabError where the baseline has failed, since nothing compares without it."""
    found = _of_baseline(trials)
    if found and all(trial.state == "FAIL" for trial in found):
        lost = "its worker was killed twice, perhaps for lack of memory"
        raise LabError(f"the baseline can't be trained: {found[-1].reason or lost}")


class _BaselineFirst(Exception):
    """The baseline is still in the queue, and only this worker is free to take it."""


class _Watch:
    """Reports how one training goes, and judges it at the rungs."""

    def __init__(self, worker: _Worker, job: Job, event: Event, lambdas: tuple[float, ...]) -> None:
        self.worker, self.job, self.event, self.lambdas = worker, job, event, lambdas
        self.rungs = worker.queue.attributes(job.trial).rungs  # of an interrupted worker, if any
        self.stopped = False

    def progress(self, step: int, text: str) -> None:
        """Report how far it is."""
        self.worker.report(replace(self.event, kind="progress", step=step, text=text))

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Store an evaluation on the way, and say whether training goes on."""
        lagrangian = lagrangian_cost(rd, self.lambdas)
        before = {at: value for at, value in self.rungs.items() if at < step}
        self.rungs = {**before, step: lagrangian}
        self.worker.queue.note(self.job.trial, TrialAttributes(rungs=self.rungs))
        self.stopped = not self.worker.survives(self.job, step, lagrangian)
        return not self.stopped


def find_record(identity: str, context: StudyContext) -> TrialRecord | None:
    """Return the record of a finished training, of this study or one that shares its cache."""
    for path in _places(identity, context):
        try:
            record = TrialRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            continue  # missing, or of another version: trained anew
        if record.identity == identity:
            return record
    return None


def keep_record(record: TrialRecord, context: StudyContext) -> None:
    """Write a training's record; one that was stopped is not shared with other studies.

    Raises:
        LabError: a folder can't be written.
    """
    text = record.model_dump_json(indent=1) + "\n"
    own, *shared = _places(record.identity, context)
    write_atomically(own, text)
    if record.state == "complete":
        for path in shared:
            write_atomically(path, text)


def _places(identity: str, context: StudyContext) -> list[Path]:
    own = context.out / "trials" / identity / _FILE
    return [own] if context.cache is None else [own, context.cache / f"{identity}.json"]
