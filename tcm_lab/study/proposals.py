"""What a worker trains next: the queue's head, a sampler's proposal, or one more seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna import samplers
from optuna.trial import Trial

from tcm_lab.errors import LabError
from tcm_lab.reporting import pareto_front
from tcm_lab.study.axes import Key
from tcm_lab.study.context import StudyContext
from tcm_lab.study.queue import StudyTrial, TrialQueue, key_of
from tcm_lab.study.record import TrialRecord, baseline_of, objective_losses
from tcm_lab.study.space import Space
from tcm_lab.study.variants import Variant

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
        self._refused = False
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
        is_sampled = queued.key is None
        if is_sampled and self.space.enumerated:  # another worker was quicker to take the last one
            self.queue.discard(trial, "nothing was queued")
            return None
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
        # Only what was drawn by chance can exceed the budget.
        if not (queued.baseline or queued.begun or queued.seed) and self._overspent(trial):
            return None
        self._refused = False
        return Job(trial, variant, queued.seed)

    def _overspent(self, trial: Trial) -> bool:
        """Discard a trial that exceeds the budget, since several workers drew at once."""
        if self.space.enumerated:
            return False
        started = _started(self.queue.trials()).values()
        if sum(number < trial.number for number in started) < self.context.trials:
            return False
        self.queue.discard(trial, "the budget is spent")
        return True

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
                self.space.encode(params), key=key, seed=0, baseline=variant.is_baseline
            )
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

    def _sampler(self, started: int) -> samplers.BaseSampler:
        """Return the sampler, seeded by how far the study is, so that resuming changes nothing."""
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
    found: dict[str, int] = {}
    for trial in trials:
        unbuilt = trial.key is None and trial.state == "RUNNING"
        key = f"?{trial.number}" if unbuilt else trial.key
        if key is not None and not trial.is_lost and not trial.seed:
            found.setdefault(key, trial.number)
    return found


def queue_seeds(queue: TrialQueue, space: Space) -> bool:
    """Queue the next seed of every variant that should be trained once more, if there are any.

    In an ablation that is every variant, since each is compared. In a search it is the baseline
    and whatever is on the front by the means so far. The front is computed again after each
    round, so a variant that is there by luck gets no further seeds.
    """
    if space.budget.seeds == 1:
        return False
    trainings: dict[str, list[TrialRecord]] = {}
    for record in queue.records():
        if record.state == "complete":
            trainings.setdefault(record.fingerprint, []).append(record)
    promising = list(trainings) if space.mode == "ablation" else _front(trainings, space)
    taken, is_due = queue.keys(), False
    for fingerprint in promising:
        keys = {seed: key_of(fingerprint, seed) for seed in range(1, space.budget.seeds)}
        seed = next((seed for seed, key in keys.items() if key not in taken), None)
        if seed is not None:
            first = trainings[fingerprint][0]
            params = space.encode(first.params)
            queue.enqueue(params, key=keys[seed], seed=seed, baseline=first.is_baseline)
            is_due = True
    return is_due


def _front(trainings: dict[str, list[TrialRecord]], space: Space) -> list[str]:
    """Return the baseline and the fingerprints that no other dominates, by means over seeds."""
    baseline = baseline_of([records[0] for records in trainings.values()])
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
