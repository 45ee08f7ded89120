"""One worker: takes trainings from the queue until there is nothing left to do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from tcm_lab._utils.held import HeldError, is_held
from tcm_lab.errors import FileError, LabError
from tcm_lab.evaluation import RdRecord, lagrangian_cost
from tcm_lab.metrics import ESTIMATED, METRICS, Number
from tcm_lab.study.context import Event, EventKind, OnEvent, StudyContext
from tcm_lab.study.estimators import Train
from tcm_lab.study.proposals import Job, Proposals, finalist_trainings, queue_further
from tcm_lab.study.queue import TrialQueue, open_queue
from tcm_lab.study.record import Rung, TrialRecord
from tcm_lab.study.spending import CpuTime, memory_shortage
from tcm_lab.study.trial import StudyTrial
from tcm_lab.study.variants import violations

_POLL_S = 1.0
_CPU_FILE = "cpu_s.txt"


def work(context: StudyContext, index: int, on_event: OnEvent) -> None:
    """Train variants of a study until none is left.

    Args:
        context: the study.
        index: index of this worker; different workers draw different variants.
        on_event: called at every step.

    Raises:
        LabError: the database, the disk or the baseline fails. A training that was under way is
            back in the queue.
        KeyboardInterrupt: Ctrl-C. A training that was under way is back in the queue.
    """
    with open_queue(context.storage, context.name) as queue:
        proposals, aside = Proposals(context, queue, index), Aside(queue)
        waiting = partial(on_event, Event("waiting", index, text="for trainings of other workers"))
        try:
            while job := _next_job(queue, proposals, aside, waiting):
                try:
                    with queue.heartbeat(job.trial):
                        Training(context, queue, job, index, on_event).run()
                except HeldError as error:
                    aside.put(job, error.folder)
        finally:
            aside.requeue()


def _next_job(
    queue: TrialQueue, proposals: Proposals, aside: Aside, on_wait: Callable[[], None]
) -> Job | None:
    """Return the next training; wait while other workers have trainings that may come back."""
    space, reported = proposals.space, False
    while True:
        if job := aside.take():
            return job
        queue.reclaim()
        trials = queue.trials()
        _require_baseline(trials)
        states = {trial.state for trial in trials}
        if "WAITING" in states or proposals.wanted(trials):
            if job := proposals.take(trials):
                return job
            continue
        # The best variants are known once no worker is busy.
        if "RUNNING" not in states or space.trains_every_seed:
            if queue_further(queue, space):
                continue
            if "RUNNING" not in states:
                return None
        if not reported:
            on_wait()
            reported = True
        time.sleep(_POLL_S)


class Aside:
    """Trainings of this worker whose folders are still in use by other processes.

    Such a process was taken for dead, for example because its machine slept, and its trial was
    queued again. The training is left to it; once it has ended, its record or its state is found.
    """

    def __init__(self, queue: TrialQueue) -> None:
        self._queue = queue
        self._put: list[tuple[Job, Path, ExitStack]] = []

    def put(self, job: Job, folder: Path) -> None:
        """Set a training aside until no other process holds its folder."""
        self._queue.note(job.trial, retries=0)  # since its worker was not lost
        alive = ExitStack()
        alive.enter_context(self._queue.heartbeat(job.trial))
        self._put.append((job, folder, alive))

    def take(self) -> Job | None:
        """Return a training whose folder is free again, if there is one."""
        for index, (job, folder, alive) in enumerate(self._put):
            if not is_held(folder):
                del self._put[index]
                alive.close()
                return job
        return None

    def requeue(self) -> None:
        """Return all of them to the queue."""
        while self._put:
            job, _, alive = self._put.pop()
            alive.close()
            self._queue.requeue(job.trial)


class Training:
    """A training that this worker has claimed: reports its progress and judges it at rungs."""

    def __init__(
        self, context: StudyContext, queue: TrialQueue, job: Job, index: int, on_event: OnEvent
    ) -> None:
        self.context, self.space, self.queue, self.job = context, context.space, queue, job
        self.estimator = Train() if job.finalist else context.space.estimator
        self.task = context.task(job.variant, job.seed, self.estimator)
        self.recipe = self.task.recipe
        self.event = Event(
            "started",
            index,
            job.label,
            steps=self.recipe.steps,
            finalist=job.finalist,
            finalists=finalist_trainings(self.space),
        )
        self.on_event = on_event
        self.rungs = queue.attributes(job.trial).rungs  # from an interrupted worker, if any
        self.stopped = False

    def run(self) -> None:
        """Train the variant, and leave its trial finished, failed, or back in the queue.

        Raises:
            HeldError: another process trains it; the trial stays with this worker.
        """
        queue, trial, variant = self.queue, self.job.trial, self.job.variant
        try:
            self.on_event(self.event)
            queue.note(trial, label=variant.label)
            self.cost = self.context.variants.cost(variant)
            queue.note(trial, cost=self.cost.metrics)
            self.context.variants.check_defined(variant)
            record, known = self._obtain_or_wait()
            bounds = self.space.soft_constraints
            over = violations(self._metrics(record, bounds), bounds)
            judged: dict[str, Number] = {}
            if record.state != "stopped":
                judged = self._metrics(record, self.space.objectives)
            values = list(judged.values()) or None
            counts = queue.finish(trial, record.model_copy(update={"violations": over}), values)
        except HeldError:
            raise
        except BaseException as error:
            shortage = memory_shortage(error)
            if shortage or (isinstance(error, LabError) and not isinstance(error, _ENDING)):
                why = shortage or str(error)
                queue.fail(trial, why, out_of_memory=bool(shortage))
                self._report("failed", text=why)
                return
            queue.requeue(trial)  # the record of a finished training is found again
            if not isinstance(error, _BaselineFirst):
                raise
            return
        kind: EventKind = "known" if known else record.state
        if not counts:
            lost = "done, but had been declared lost; another worker reports it"
            self._report("aside", text=lost)
            return
        self._report(kind, record.steps, self._result(record, judged))

    def _result(self, record: TrialRecord, judged: Mapping[str, Number]) -> str:
        """Return the result in one line."""
        points = record.rd.points if record.rd is not None else ()
        ends = (points[0], points[-1]) if points else ()
        curve = " … ".join(f"{point.bpp:.3f} bpp {point.psnr_db:.2f} dB" for point in ends)
        cost = judged.get(ESTIMATED)
        if cost is None or self.estimator == Train():
            return curve
        return f"{cost:+.2f} % by {self.estimator.type}{'; ' * bool(curve)}{curve}"

    def _report(self, kind: EventKind, step: int = 0, text: str = "") -> None:
        self.on_event(replace(self.event, kind=kind, step=step, text=text))

    def _obtain_or_wait(self) -> tuple[TrialRecord, bool]:
        """Call ``_obtain``; wait if another process trains the baseline, which all others need."""
        while True:
            try:
                return self._obtain()
            except HeldError as error:
                self._report("aside", text="waiting for another process that still trains it")
                if not self.job.variant.is_baseline:
                    raise
                while is_held(error.folder):
                    time.sleep(_POLL_S)

    def _obtain(self) -> tuple[TrialRecord, bool]:
        """Return the training's record, and whether it already existed."""
        context, variant, recipe = self.context, self.job.variant, self.recipe
        identity = self.task.directory.name
        own = {
            "number": self.job.trial.number,
            "label": variant.label,
            "params": variant.params,
            "seed": self.job.seed,  # counted from this space's seed, unlike the cached record's
            "config": variant.config.model_dump(mode="json"),
            "recipe": recipe,
            "is_baseline": variant.is_baseline,
            "estimator": self.estimator,
            "complexity": self.cost.complexity,
            "timing": self.cost.timing,
        }
        known = context.find_record(identity, self.estimator)
        if known is not None:
            if known.rungs:  # others are judged by them
                rungs = {rung.step: rung.lagrangian for rung in known.rungs}
                self.queue.note(self.job.trial, rungs=rungs)
            return known.model_copy(update=own), True
        if self.estimator.baseline_first and not variant.is_baseline:
            self._baseline(self.job.seed)
        self.cpu = CpuTime(self.task.directory / _CPU_FILE)
        try:
            outcome = self.estimator.run(self.task, context, self)
        except BaseException:
            self.cpu.keep()
            raise
        record = TrialRecord(
            **own,
            fingerprint=variant.fingerprint,
            identity=identity,
            lambdas=recipe.lambdas,
            state="stopped" if self.stopped else "complete",
            steps=outcome.steps,
            training=outcome.training,
            more=outcome.more,
            rd=outcome.rd,
            estimate=outcome.estimate,
            cpu_s=self.cpu.total_s + outcome.reused_s,
            rungs=tuple(Rung(step=step, lagrangian=cost) for step, cost in self.rungs.items()),
        )
        context.keep_record(record)
        return record, False

    def _metrics(self, record: TrialRecord, names: Iterable[str]) -> dict[str, Number]:
        """Return metrics of the training; wait for the baseline if one is relative to it.

        Raises:
            LabError: the record lacks one of them.
        """
        metrics = [METRICS[name] for name in names]
        relative = any(metric.relative for metric in metrics)
        is_baseline = record.is_baseline and record.seed == 0
        baseline = (record if is_baseline else self._baseline()) if relative else None
        values = {}
        for metric in metrics:
            value = metric.of(record, baseline)
            if value is None:
                raise LabError(f"{metric.name} is undefined for this training")
            values[metric.name] = value
        return values

    def _baseline(self, seed: int = 0) -> TrialRecord:
        """Return the baseline's record, waiting for the worker that trains it."""
        while True:
            trials = _of_baseline(self.queue.trials(), seed, finalist=self.job.finalist)
            found = next((trial.record for trial in trials if trial.record is not None), None)
            if found is not None:
                return found
            if why := _failed(trials):
                is_open = trials[-1].is_lost or trials[-1].out_of_memory
                kind = _BaselineLostError if is_open else LabError
                raise kind(f"the baseline can't be trained with this seed: {why}")
            if all(trial.state != "RUNNING" for trial in trials):
                raise _BaselineFirst
            self.queue.reclaim()
            time.sleep(_POLL_S)

    def progress(self, step: int, text: str) -> None:
        """Report progress."""
        self.cpu.keep_at_times()
        self._report("progress", step, text)

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Store an evaluation at a rung, and return whether training continues."""
        lagrangian = lagrangian_cost(rd, self.recipe.lambdas)
        before = {at: value for at, value in self.rungs.items() if at < step}
        self.rungs = {**before, step: lagrangian}
        self.queue.note(self.job.trial, rungs=self.rungs)
        self.stopped = not self._survives(step, lagrangian)
        return not self.stopped

    def _survives(self, step: int, lagrangian: float) -> bool:
        """Return whether no other variant dominates this one by the margin at a rung.

        The baseline always survives, since all are compared with it. So do further seeds, since a
        mean over only the lucky ones would be biased. A variant that violates a soft constraint or
        has failed since is not on the front, and so stops no other.
        """
        if self.job.variant.is_baseline or self.job.seed:
            return True
        margin = math.log1p(self.space.budget.margin_percent / 100)
        costs = [METRICS[n] for n in self.space.objectives if not METRICS[n].needs_training]
        soft = self.space.soft_constraints.items()
        bounds = {name: bound for name, bound in soft if not METRICS[name].needs_training}
        own = self.cost.metrics
        trials = self.queue.trials()
        alive = {trial.key for trial in trials if trial.state != "FAIL"}
        for other in trials:
            if other.key == self.job.key or other.key not in alive:
                continue
            if not other.cost or step not in other.rungs:
                continue
            if any(by > 0 for by in violations(other.cost, bounds).values()):
                continue
            cheaper = all(m.loss(other.cost[m.name]) <= m.loss(own[m.name]) for m in costs)
            if cheaper and other.rungs[step] <= lagrangian - margin:
                return False
        return True


def _of_baseline(
    trials: Sequence[StudyTrial], seed: int = 0, *, finalist: bool = False
) -> list[StudyTrial]:
    wanted = (True, seed, finalist)
    return [trial for trial in trials if (trial.baseline, trial.seed, trial.finalist) == wanted]


def _require_baseline(trials: Sequence[StudyTrial]) -> None:
    """Raise LabError if the baseline has failed, since all others are compared with it."""
    if why := _failed(_of_baseline(trials)):
        raise LabError(f"the baseline can't be trained: {why}")


def _failed(trials: Sequence[StudyTrial]) -> str | None:
    """Return why a training has failed for good, given all its trials; None if it has not."""
    if not trials or any(trial.state != "FAIL" for trial in trials):
        return None
    return trials[-1].reason or "its worker was killed twice, perhaps because memory ran out"


class _BaselineLostError(LabError):
    """The baseline was lost or ran out of memory; the next run tries it, and the others, again."""


_ENDING = (FileError, _BaselineLostError)  # they end the study; the training is queued again


class _BaselineFirst(Exception):
    """The baseline is still in the queue, and only this worker is free to take it."""
