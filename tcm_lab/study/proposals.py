"""What a worker trains next: the queue's head, a sampler's proposal, or one more seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna import samplers
from optuna.trial import Trial

from tcm_lab._utils.interrupts import hold_interrupts
from tcm_lab.errors import LabError
from tcm_lab.reporting import pareto_front
from tcm_lab.study.axes import Key
from tcm_lab.study.context import StudyContext
from tcm_lab.study.queue import TrialQueue
from tcm_lab.study.record import TrialRecord, objective_losses
from tcm_lab.study.space import Space
from tcm_lab.study.trial import StudyTrial, key_of
from tcm_lab.study.variants import Variant

_NEIGHBOURS = 60  # draws around the sampler's last proposal before drawing from the whole space
_DRAWS = 3000  # draws over the whole space before it counts as exhausted
Trainings = dict[str, list[TrialRecord]]
"""The records of each variant, by its fingerprint."""


@dataclass(frozen=True)
class Job:
    """One training that this worker has claimed."""

    trial: Trial
    variant: Variant
    seed: int
    finalist: bool = False

    @property
    def key(self) -> str:
        """The key that claims the training."""
        return key_of(self.variant.fingerprint, self.seed, finalist=self.finalist)

    @property
    def label(self) -> str:
        """The training's name in messages."""
        words = [self.variant.label]
        words += [f"seed {self.seed}"] if self.seed else []
        return ", ".join([*words, "trained"] if self.finalist else words)


class Proposals:
    """Hands out trainings that no other worker has."""

    def __init__(self, context: StudyContext, queue: TrialQueue, worker: int) -> None:
        self.context, self.space, self.queue, self.worker = context, context.space, queue, worker
        self.variants = context.variants
        self.exhausted = False
        self._refused = False
        self._last: dict[str, Key] = {}

    def wanted(self, trials: Sequence[StudyTrial]) -> bool:
        """Return whether the budget allows another sampled variant in addition to these trials."""
        if self.space.enumerated or self.exhausted:
            return False
        return len(_started(trials)) < self.context.trials

    def take(self, trials: Sequence[StudyTrial]) -> Job | None:
        """Claim a training and return it; None if the caller should look again."""
        if not self.space.enumerated:
            if self._refused and not self._queue_random():
                return None
            self.queue.study.sampler = self._sampler(len(_started(trials)))
        trial = self.queue.ask()
        try:
            with self.queue.heartbeat(trial):  # timing a codec may take long
                return self._job(trial)
        except BaseException:  # most often Ctrl-C
            self.queue.requeue(trial)
            raise

    def _job(self, trial: Trial) -> Job | None:
        """Return the job of a trial, or discard the trial."""
        queued = self.queue.attributes(trial)
        is_sampled = queued.key is None
        if is_sampled and self.space.enumerated:  # another worker took the last one first
            self.queue.discard(trial, "nothing was queued")
            return None
        with hold_interrupts():
            params = self.variants.walk(lambda name, axis: axis.suggest(trial, name))
        if is_sampled:
            self._refused, self._last = True, params
        try:
            variant = self.variants.build(params)
            over = self.variants.exceeded(variant) if is_sampled else {}
        except LabError as error:
            self.queue.discard(trial, f"can't be built or measured: {error}")
            return None
        if over:
            excess = {name: abs(value / bound - 1) for name, (value, bound) in over.items()}
            self.queue.discard(trial, f"is over {', '.join(over)}", excess)
            return None
        if is_sampled and variant.is_baseline:
            self.queue.note(trial, baseline=True)
        key = queued.key or key_of(variant.fingerprint, 0)
        is_waiting = is_sampled and key in self.queue.keys("WAITING")
        if is_waiting or not self.queue.claim(trial, key):
            self.queue.discard(trial, "is trained already")
            return None
        # Only newly drawn variants can exceed the budget.
        later = queued.baseline or queued.begun or queued.seed or queued.finalist
        if not later and self._overspent(trial):
            return None
        self._refused = False
        return Job(trial, variant, queued.seed, queued.finalist)

    def _overspent(self, trial: Trial) -> bool:
        """Discard a trial if it exceeds the budget, because several workers drew at once."""
        if self.space.enumerated:
            return False
        started = _started(self.queue.trials()).values()
        if sum(number < trial.number for number in started) < self.context.trials:
            return False
        self.queue.discard(trial, "the budget is spent")
        return True

    def _queue_random(self) -> bool:
        """Queue a new random variant, near the sampler's last proposal or anywhere.

        A converged sampler proposes known variants; new ones lie close by. Asking it again costs as
        much, and mostly yields known variants once more.

        Returns:
            False if no variant is left.
        """
        taken = self.queue.keys()
        rng = random.Random(f"{self.space.seed} {len(taken)} {self.worker}")
        for params in self._random_points(rng):
            try:
                variant = self.variants.build(params)
                key = key_of(variant.fingerprint, 0)
                if key in taken or self.variants.exceeded(variant):
                    continue
            except LabError:
                continue
            self.queue.enqueue(
                self.space.encode(params), key=key, seed=0, baseline=variant.is_baseline
            )
            return True
        self.exhausted = True
        return False

    def _random_points(self, rng: random.Random) -> Iterator[dict[str, Key]]:
        """Yield neighbours of the last proposal, then random points (if there are few, all)."""
        if self.space.sampler != "random":
            for _ in range(_NEIGHBOURS):
                yield self.variants.neighbour(self._last, rng)
        count = self.variants.count()
        if count is not None and count <= _DRAWS:
            points = list(self.variants.points())
            rng.shuffle(points)
            yield from points
        else:
            for _ in range(_DRAWS):
                yield self.variants.draw(rng)

    def _sampler(self, started: int) -> samplers.BaseSampler:
        """Return the sampler, seeded by the study's progress, so that resuming changes nothing."""
        text = f"{self.space.seed} {started} 0 {self.worker}"
        seed = random.Random(text).randrange(2**31)
        kind = self.space.sampler
        if kind == "random":
            return samplers.RandomSampler(seed=seed)
        if kind == "gp":
            return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        if kind == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=20)
        return samplers.TPESampler(seed=seed, multivariate=True)


def _started(trials: Sequence[StudyTrial]) -> dict[str, int]:
    """Return the number of the first trial of every variant that was begun or is queued."""
    numbers: dict[str, int] = {}
    for trial in trials:
        unbuilt = trial.key is None and trial.state == "RUNNING"
        key = f"?{trial.number}" if unbuilt else trial.key
        if key is not None and not (trial.is_lost or trial.seed or trial.finalist):
            numbers.setdefault(key, trial.number)
    return numbers


def queue_further(queue: TrialQueue, space: Space) -> bool:
    """Queue further trainings that follow from the results so far; return whether there are any.

    In an ablation, every variant is trained with every seed, since all are compared. In a search,
    the baseline and the front by the means so far get further seeds. The front is recomputed after
    each round, so a variant that is on it by luck gets no more. After a search by an estimator
    other than ``train``, the finalists and the baseline are trained with every seed, if finalists
    are wanted.
    """
    found: Trainings = {}
    for record in queue.records():
        if record.estimator == space.estimator and record.state == "complete":
            found.setdefault(record.fingerprint, []).append(record)
    finalists = space.budget.finalists
    if not finalists:
        chosen = list(found) if space.trains_every_seed else _front(found, space)
        return _queue_next(queue, space, found, chosen, range(1, space.budget.seeds))
    best = _best(found, space, finalists)
    return _queue_next(queue, space, found, best, range(space.budget.seeds), finalist=True)


def finalist_trainings(space: Space) -> int:
    """Return the number of trainings of the finalists and the baseline; 0 without finalists."""
    finalists = space.budget.finalists
    return (finalists + 1) * space.budget.seeds if finalists else 0


def _queue_next(
    queue: TrialQueue,
    space: Space,
    found: Trainings,
    chosen: Sequence[str],
    seeds: Iterable[int],
    *,
    finalist: bool = False,
) -> bool:
    """Queue the first of ``seeds`` that each chosen variant lacks; return whether any did."""
    taken, is_due = queue.keys(), False
    for fingerprint in chosen:
        keys = {seed: key_of(fingerprint, seed, finalist=finalist) for seed in seeds}
        seed = next((seed for seed, key in keys.items() if key not in taken), None)
        if seed is not None:
            first = found[fingerprint][0]
            own = {"seed": seed, "baseline": first.is_baseline, "finalist": finalist}
            queue.enqueue(space.encode(first.params), key=keys[seed], **own)
            is_due = True
    return is_due


def _losses(found: Trainings, space: Space) -> dict[str, list[float]]:
    """Return each variant's objectives as numbers to be minimised; NaN if it is infeasible."""
    baseline = next(records for records in found.values() if records[0].is_baseline)
    none = [math.nan] * len(space.objectives)
    return {
        name: objective_losses(records, baseline, space) if records[0].feasible else none
        for name, records in found.items()
    }


def _front(found: Trainings, space: Space) -> list[str]:
    """Return the fingerprints of the baseline and of the front, by means over seeds."""
    marks = pareto_front([*_losses(found, space).values()])
    return [
        name
        for (name, records), best in zip(found.items(), marks, strict=True)
        if best or records[0].is_baseline
    ]


def _best(found: Trainings, space: Space, count: int) -> list[str]:
    """Return the baseline and the best ``count`` others: front by front, each spread out."""
    rest = {n: row for n, row in _losses(found, space).items() if not any(map(math.isnan, row))}
    chosen = [name for name, records in found.items() if records[0].is_baseline]
    wanted = count + len(chosen)
    while rest and len(chosen) < wanted:
        marks = pareto_front(list(rest.values()))
        front = [name for name, best in zip(rest, marks, strict=True) if best]
        new = [name for name in front if name not in chosen]
        chosen += spread_out({name: rest[name] for name in new}, wanted - len(chosen))
        rest = {name: row for name, row in rest.items() if name not in front}
    return chosen


def spread_out(rows: Mapping[str, Sequence[float]], count: int) -> list[str]:
    """Return at most ``count`` names whose rows lie far apart, including the best in each column.

    Columns have equal weight. After the best in each column, the row farthest from those already
    taken comes next.
    """
    names = list(rows)
    if len(names) <= count:
        return names
    values = np.array([rows[name] for name in names])
    extent = np.ptp(values, axis=0)
    scaled = values / np.where(extent > 0, extent, 1)
    taken = list(dict.fromkeys(int(i) for i in values.argmin(axis=0)))[:count]
    while len(taken) < count:
        gaps = np.linalg.norm(scaled[:, None] - scaled[taken], axis=2).min(axis=1)
        gaps[taken] = -1
        taken.append(int(gaps.argmax()))
    return [names[i] for i in sorted(taken)]
