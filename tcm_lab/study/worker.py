"""One worker: takes trainings from the ledger until there is nothing left to do."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, lagrangian_cost
from tcm_lab.metrics import METRICS, Number
from tcm_lab.study.cache import find_record, keep_record
from tcm_lab.study.cost import VariantCost, measure_cost, violations
from tcm_lab.study.ledger import Ledger, key_of
from tcm_lab.study.plan import CannotTrainError, Event, Plan, Task, Tell
from tcm_lab.study.proposals import Proposals
from tcm_lab.study.record import Rung, TrialRecord, training_identity
from tcm_lab.study.seeds import due_seeds
from tcm_lab.study.storage import storage_errors
from tcm_lab.study.variants import Variant

if TYPE_CHECKING:
    from optuna.trial import Trial

_POLL_S = 1.0


@dataclass(frozen=True)
class Job:
    """One training that this worker holds."""

    trial: Trial
    variant: Variant
    seed: int
    cost: VariantCost

    @property
    def key(self) -> str:
        """What the training is held under."""
        return key_of(self.variant.fingerprint, self.seed)


def work(plan: Plan, index: int, tell: Tell) -> None:
    """Train variants of a study until none is left.

    Args:
        plan: the study.
        index: which of its workers this is; several draw different variants.
        tell: hears of every step.

    Raises:
        LabError: the database, the disk or the baseline fails. A training that was under way is
            back in the queue.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    with storage_errors(plan.storage), Ledger(plan.storage, plan.name) as ledger:
        _Worker(plan, index, ledger, tell).run()


class _Worker:
    def __init__(self, plan: Plan, index: int, ledger: Ledger, tell: Tell) -> None:
        self.plan, self.space = plan, plan.space
        self.index, self._tell = index, tell
        self.ledger, self.proposals = ledger, Proposals(plan, ledger, index)

    def tell(self, event: Event) -> None:
        """Tell what happened, and who says so."""
        self._tell(replace(event, worker=self.index))

    def run(self) -> None:
        while (job := self._next()) is not None:
            with self.ledger.beating(job.trial):
                self._do(job)

    def _next(self) -> Job | None:
        """Return the next training, waiting while others hold what may yet come back."""
        told = False
        while True:
            self.ledger.reclaim()
            trials = self.ledger.trials()
            states = {trial.state.name for trial in trials}
            if "WAITING" in states or self.proposals.wanted(trials):
                proposal = self.proposals.take(trials)
                if proposal is not None:
                    trial, variant, seed = proposal
                    return Job(trial, variant, seed, measure_cost(variant.config, self.space))
                continue
            # What stands on a front is known once nobody is at work; an ablation trains all anyway.
            if "RUNNING" not in states or self.space.mode == "ablation":
                due = due_seeds(self.ledger, self.plan)
                for record, seed in due:
                    key = key_of(record.fingerprint, seed)
                    self.ledger.enqueue(record.params, key, seed, baseline=record.is_baseline)
                if due:
                    continue
                if "RUNNING" not in states:
                    return None
            if not told:
                self.tell(Event("waiting", 0, text="for trainings of other workers"))
                told = True
            time.sleep(_POLL_S)

    def _do(self, job: Job) -> None:
        ledger, event = self.ledger, Event("started", 0, job.trial.number, self._label(job))
        try:
            recipe = self.space.budget.recipe_for(self.space.seed + job.seed)
            event = replace(event, steps=recipe.steps)
            self.tell(event)
            job.trial.set_user_attr("cost", job.cost.metrics)
            record, known = self._obtain(job, event)
            values = None if record.state == "stopped" else self._values(record)
            record = self._judged(record)
            ledger.finish(job.trial, record, values)
        except CannotTrainError as error:
            ledger.fail(job.trial, str(error))
            self.tell(replace(event, kind="failed", text=str(error)))
            if job.variant.is_baseline and job.seed == 0:
                raise LabError(f"the baseline can't be trained: {error}") from None
            return
        except _BaselineFirst:
            ledger.requeue(job.trial)  # its record is kept, so that it will not be trained again
            return
        except BaseException:
            ledger.requeue(job.trial)
            raise
        kind = "known" if known else record.state
        self.tell(replace(event, kind=kind, step=record.steps, text=summary(record.rd)))

    def _label(self, job: Job) -> str:
        return f"{job.variant.label}, seed {job.seed}" if job.seed else job.variant.label

    def _obtain(self, job: Job, event: Event) -> tuple[TrialRecord, bool]:
        """Return the training's record, and whether somebody had made it before."""
        plan, variant = self.plan, job.variant
        recipe = self.space.budget.recipe_for(self.space.seed + job.seed)
        identity = training_identity(variant.fingerprint, recipe, plan.train_data, plan.eval_data)
        known = find_record(identity, plan)
        if known is not None:
            named = {"number": job.trial.number, "label": variant.label, "params": variant.params}
            own = {"is_baseline": variant.is_baseline, "complexity": job.cost.complexity}
            own["timing"] = job.cost.timing
            return known.model_copy(update={**named, **own}), True
        watch = _Watch(self, job, event, recipe.lambdas)
        directory = plan.out / "trials" / identity
        outcome = plan.trainer(
            Task(variant.config, recipe, directory, self.space.rung_steps), watch
        )
        record = TrialRecord(
            number=job.trial.number,
            label=variant.label,
            params=variant.params,
            config=variant.config.model_dump(mode="json"),
            fingerprint=variant.fingerprint,
            identity=identity,
            is_baseline=variant.is_baseline,
            seed=job.seed,
            recipe=recipe,
            lambdas=recipe.lambdas,
            state="stopped" if watch.stopped else "complete",
            steps=outcome.steps,
            complexity=job.cost.complexity,
            timing=job.cost.timing,
            training=outcome.training,
            rd=outcome.rd,
            rungs=tuple(watch.rungs),
        )
        keep_record(record, plan)
        return record, False

    def _values(self, record: TrialRecord) -> list[Number]:
        """Return the objectives of a finished training, for the sampler."""
        return list(self._metrics(record, self.space.objectives).values())

    def _judged(self, record: TrialRecord) -> TrialRecord:
        """Return the record with its soft constraints."""
        bounds = self.space.soft_constraints
        over = violations(self._metrics(record, bounds), bounds)
        return record.model_copy(update={"violations": over})

    def _metrics(self, record: TrialRecord, names: Iterable[str]) -> dict[str, Number]:
        """Return metrics of a training, waiting for the baseline if one compares with it.

        Raises:
            CannotTrainError: the record does not have one of them.
        """
        metrics = [METRICS[name] for name in names]
        relative = any(metric.relative for metric in metrics)
        baseline = self._baseline(record) if relative else None
        values = {}
        for metric in metrics:
            try:
                value = metric.of(record, baseline)
            except LabError as error:
                raise CannotTrainError(str(error)) from None
            if value is None:
                raise CannotTrainError(f"{metric.name} is undefined for this training")
            values[metric.name] = value
        return values

    def _baseline(self, record: TrialRecord) -> TrialRecord:
        """Return the baseline's record, waiting for the worker that trains it."""
        if record.is_baseline and record.seed == 0:
            return record
        while (baseline := self.ledger.baseline()) is None:
            if any(trial.user_attrs.get("baseline") for trial in self.ledger.trials("WAITING")):
                raise _BaselineFirst
            if not any(trial.user_attrs.get("baseline") for trial in self.ledger.trials("RUNNING")):
                raise LabError("the baseline was not trained; see why above, and call again.")
            self.ledger.reclaim()
            time.sleep(_POLL_S)
        return baseline

    def survives(self, job: Job, step: int, lagrangian: float) -> bool:
        """Say whether no other variant dominates this one by the margin at a rung.

        The baseline goes on whatever the others reach, since all are judged against it, and so do
        further seeds, since a mean over the lucky ones alone would flatter. A variant over a soft
        constraint stands on no front, so it pushes nobody off one.
        """
        if job.variant.is_baseline or job.seed:
            return True
        margin = math.log1p(self.space.budget.margin_percent / 100)
        costs = [METRICS[n] for n in self.space.objectives if not METRICS[n].needs_training]
        soft = self.space.soft_constraints.items()
        bounds = {name: bound for name, bound in soft if not METRICS[name].needs_training}
        for other in self.ledger.trials():
            attributes = other.user_attrs
            theirs = attributes.get("rungs", {}).get(str(step))
            if theirs is None or attributes.get("key") == job.key or "cost" not in attributes:
                continue
            own, cost = job.cost.metrics, attributes["cost"]
            if any(by > 0 for by in violations(cost, bounds).values()):
                continue
            cheaper = all(m.loss(cost[m.name]) <= m.loss(own[m.name]) for m in costs)
            if cheaper and theirs <= lagrangian - margin:
                return False
        return True


class _BaselineFirst(Exception):  # a fact, not a failure
    """The baseline is still in the queue, and nobody but this worker may take it."""


class _Watch:
    """Hears how one training goes, and judges it at the rungs."""

    def __init__(self, worker: _Worker, job: Job, event: Event, lambdas: tuple[float, ...]) -> None:
        self.worker, self.job, self.event, self.lambdas = worker, job, event, lambdas
        before = job.trial.user_attrs.get("rungs", {})  # of the worker that was interrupted
        self.rungs = [Rung(step=int(step), lagrangian=value) for step, value in before.items()]
        self.stopped = False

    def progress(self, step: int, text: str) -> None:
        """Pass on how far it is."""
        self.worker.tell(replace(self.event, kind="progress", step=step, text=text))

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Write down an evaluation on the way, and say whether training goes on."""
        lagrangian = lagrangian_cost(rd, self.lambdas)
        self.rungs = [rung for rung in self.rungs if rung.step < step]
        self.rungs.append(Rung(step=step, lagrangian=lagrangian))
        trial = self.job.trial
        trial.set_user_attr("rungs", {str(rung.step): rung.lagrangian for rung in self.rungs})
        self.stopped = not self.worker.survives(self.job, step, lagrangian)
        return not self.stopped


def summary(rd: RdRecord) -> str:
    """Return the ends of a curve in a few words."""
    ends = (rd.points[0], rd.points[-1])
    return " … ".join(f"{point.bpp:.3f} bpp {point.psnr_db:.2f} dB" for point in ends)
