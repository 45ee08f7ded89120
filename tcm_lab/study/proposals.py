"""What a worker trains next: the queue's head, a sampler's proposal, or one more seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcm_lab.errors import LabError
from tcm_lab.reporting import pareto_front
from tcm_lab.study.axes import Key
from tcm_lab.study.context import StudyContext
from tcm_lab.study.cost import objective_losses
from tcm_lab.study.queue import StudyTrial, TrialAttributes, TrialQueue, key_of
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.space import Space
from tcm_lab.study.variants import Variant

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

_NEIGHBOURS = 60  # draws around the sampler's last proposal before the whole space is drawn from
_DRAWS = 3000  # draws over the whole space before it counts as exhausted


@dataclass(frozen=True)
class Job:
    """One training that this worker holds."""

    trial: Trial
    variant: Variant
    seed: int

    @property
    def key(self) -> str:
        """What the training is claimed by."""
        return key_of(self.variant.fingerprint, self.seed)

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.variant.label}, seed {self.seed}" if self.seed else self.variant.label


class Proposals:
    """Hands out trainings that no other worker has."""

    def __init__(self, context: StudyContext, queue: TrialQueue, worker: int) -> None:
        self.context, self.space, self.queue, self.worker = context, context.space, queue, worker
        self.variants = context.variants
        self.exhausted = False
        self._refused = 0
        self._last: dict[str, Key] = {}

    def wanted(self, trials: Sequence[StudyTrial]) -> bool:
        """Say whether the budget has room for another sampled variant beside these trials."""
        if self.space.enumerated or self.exhausted:
            return False
        return len(_started(trials)) < self.context.trials

    def take(self, trials: Sequence[StudyTrial]) -> Job | None:
        """Return a training that this worker holds from now on; None to look again."""
        if not self.space.enumerated:
            if self._refused and not self._draw_by_chance():
                return None
            self.queue.study.sampler = self._sampler(len(_started(trials)))
        trial = self.queue.ask()
        queued = self.queue.attributes(trial)
        if queued.key is not None:
            return self._queued(trial, queued.key, queued)
        if self.space.enumerated:  # another worker was quicker to take the last one
            self.queue.discard(trial, "nothing was queued")
            return None
        return self._sampled(trial)

    def _queued(self, trial: Trial, key: str, queued: TrialAttributes) -> Job | None:
        variant = self.variants.build(self._suggested(trial))
        if not self.queue.claim(trial, key):
            self.queue.discard(trial, "is trained already")
            return None
        # Only what was drawn by chance can exceed the budget.
        if not (queued.baseline or queued.begun or queued.seed) and self._overspent(trial):
            return None
        return Job(trial, variant, queued.seed)

    def _sampled(self, trial: Trial) -> Job | None:
        params = self._suggested(trial)
        self._refused += 1
        self._last = params
        try:
            variant = self.variants.build(params)
            over = self.variants.exceeded(variant)
        except LabError as error:
            self.queue.discard(trial, f"can't be built or measured: {error}")
            return None
        if over:
            excess = {name: abs(value / bound - 1) for name, (value, bound) in over.items()}
            self.queue.discard(trial, f"is over {', '.join(over)}", over=excess)
            return None
        if variant.is_baseline:
            self.queue.note(trial, TrialAttributes(baseline=True))
        key = key_of(variant.fingerprint, 0)
        known = key in self.queue.keys("WAITING", "COMPLETE", "PRUNED")
        if known or not self.queue.claim(trial, key):
            self.queue.discard(trial, "is trained already")
            return None
        if self._overspent(trial):
            return None
        self._refused = 0
        return Job(trial, variant, 0)

    def _overspent(self, trial: Trial) -> bool:
        """Discard a trial that exceeds the budget, since several workers drew at once."""
        if self.space.enumerated:
            return False
        started = _started(self.queue.trials()).values()
        if sum(number < trial.number for number in started) < self.context.trials:
            return False
        self.queue.discard(trial, "the budget is spent")
        return True

    def _suggested(self, trial: Trial) -> dict[str, Key]:
        return self.variants.walk(lambda name, axis: axis.suggest(trial, name))

    def _draw_by_chance(self) -> bool:
        """Queue a new variant near the sampler's last proposal, or anywhere.

        A sampler that has converged proposes what is known; what it has not seen lies beside that.
        To ask it again costs as much, and mostly gives what is known once more.

        Returns:
            False if none is left.
        """
        taken = self.queue.keys()
        rng = random.Random(f"{self.space.seed} {len(taken)} {self.worker}")
        for params in self._by_chance(rng):
            try:
                variant = self.variants.build(params)
                key = key_of(variant.fingerprint, 0)
                if key in taken or self.variants.exceeded(variant):
                    continue
            except LabError:
                continue
            self.queue.enqueue(
                self.space.encode(params),
                TrialAttributes(key=key, seed=0, baseline=variant.is_baseline),
            )
            self._refused = 0
            return True
        self.exhausted = True
        return False

    def _by_chance(self, rng: random.Random) -> Iterator[dict[str, Key]]:
        """Yield neighbours of the last proposal, then points in random order, all if few."""
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

    def _sampler(self, started: int) -> BaseSampler:
        """Return the sampler, seeded by how far the study is, so that resuming changes nothing."""
        from optuna import samplers

        text = f"{self.space.seed} {started} {self._refused} {self.worker}"
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
    found: dict[str, int] = {}
    for trial in trials:
        unbuilt = trial.key is None and trial.state == "RUNNING"
        key = f"?{trial.number}" if unbuilt else trial.key
        if key is not None and not trial.is_lost and not trial.seed:
            found.setdefault(key, trial.number)
    return found


def due_seeds(queue: TrialQueue, space: Space) -> list[tuple[TrialRecord, int]]:
    """Return the next seed of every variant that should be trained once more.

    In an ablation that is every variant, since each is compared. In a search it is the baseline
    and whatever is on the front by the means so far. The front is computed again after each
    round, so a variant that is there by luck gets no further seeds.
    """
    if space.budget.seeds == 1:
        return []
    trainings: dict[str, list[TrialRecord]] = {}
    for record in queue.records():
        if record.state == "complete":
            trainings.setdefault(record.fingerprint, []).append(record)
    promising = list(trainings) if space.mode == "ablation" else _front(trainings, space)
    taken, due = queue.keys(), []
    for fingerprint in promising:
        for seed in range(1, space.budget.seeds):
            if key_of(fingerprint, seed) not in taken:
                due.append((trainings[fingerprint][0], seed))
                break
    return due


def _front(trainings: dict[str, list[TrialRecord]], space: Space) -> list[str]:
    """Return the baseline and the fingerprints that no other dominates, by means over seeds."""
    baseline = next(records[0] for records in trainings.values() if records[0].is_baseline)
    rows = []
    for records in trainings.values():
        losses = objective_losses(records, baseline, space)
        rows.append(losses if records[0].feasible else [float("nan")] * len(losses))
    marks = pareto_front(rows)
    return [
        fingerprint
        for (fingerprint, records), best in zip(trainings.items(), marks, strict=True)
        if best or records[0].is_baseline
    ]
