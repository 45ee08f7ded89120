"""Where a worker's next variant comes from: the queue, or a sampler that learns from the trials."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tcm_lab.errors import ConfigError
from tcm_lab.study.axes import Axis, Key
from tcm_lab.study.cost import exceeded, measure_cost
from tcm_lab.study.ledger import Ledger, key_of
from tcm_lab.study.plan import Plan
from tcm_lab.study.space import Space
from tcm_lab.study.variants import Assembler, Variant

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

_NEIGHBOURS = 60  # draws around the sampler's last proposal before the whole space is drawn from
_DRAWS = 3000  # draws over the whole space before it counts as exhausted

Proposal = tuple["Trial", Variant, int]


class Proposals:
    """Hands out variants that nobody has trained."""

    def __init__(self, plan: Plan, ledger: Ledger, worker: int) -> None:
        self.plan, self.space, self.ledger, self.worker = plan, plan.space, ledger, worker
        self.assembler = Assembler(plan.space)
        self.exhausted = False
        self._refused = 0
        self._last: dict[str, Key] = {}

    def wanted(self, trials: Sequence[FrozenTrial]) -> bool:
        """Say whether the budget has room for another sampled variant beside these trials."""
        if self.space.enumerated or self.exhausted:
            return False
        assert self.plan.trials is not None
        return len(_started(trials)) < self.plan.trials

    def take(self, trials: Sequence[FrozenTrial]) -> Proposal | None:
        """Return a trial that this worker holds, with its variant and seed; None to look again."""
        if not self.space.enumerated:
            if self._refused and not self._draw_by_chance():
                return None
            self.ledger.study.sampler = self._sampler(len(_started(trials)))
        trial = self.ledger.ask()
        if "key" in trial.user_attrs:
            return self._queued(trial)
        if self.space.enumerated:  # another worker was quicker to take the last one
            self.ledger.discard(trial, "nothing was queued")
            return None
        return self._sampled(trial)

    def _queued(self, trial: Trial) -> Proposal | None:
        variant = self.assembler.build(self._suggested(trial))
        if self.ledger.claim(trial, trial.user_attrs["key"]) is not None:
            self.ledger.discard(trial, "is trained already")
            return None
        kept = ("baseline", "begun", "seed")  # nobody drew these beside another worker
        if not any(trial.user_attrs.get(name) for name in kept) and self._overspent(trial):
            return None
        return trial, variant, int(trial.user_attrs.get("seed", 0))

    def _sampled(self, trial: Trial) -> Proposal | None:
        params = self._suggested(trial)
        self._refused += 1
        self._last = params
        try:
            variant = self.assembler.build(params)
        except ConfigError as error:
            self.ledger.discard(trial, f"can't be built: {error}")
            return None
        cost = measure_cost(variant.config, self.space)
        over = exceeded(cost, self.space)
        if over:
            excess = {name: value / bound - 1 for name, (value, bound) in over.items()}
            self.ledger.discard(trial, f"is over {', '.join(over)}", over=excess)
            return None
        if variant.is_baseline:
            trial.set_user_attr("baseline", True)
        if self.ledger.claim(trial, key_of(variant.fingerprint, 0)) is not None:
            self.ledger.discard(trial, "is trained already")
            return None
        if self._overspent(trial):
            return None
        self._refused = 0
        return trial, variant, 0

    def _overspent(self, trial: Trial) -> bool:
        """Discard a trial that several workers' looking at once has put beyond the budget."""
        if self.space.enumerated:
            return False
        assert self.plan.trials is not None
        started = _started(self.ledger.trials()).values()
        if sum(number < trial.number for number in started) < self.plan.trials:
            return False
        self.ledger.discard(trial, "the budget is spent")
        return True

    def _suggested(self, trial: Trial) -> dict[str, Key]:
        params: dict[str, Key] = {}
        for name, axis in self.space.axes.items():
            if axis.acts(params):
                params[name] = axis.canonical(suggest(trial, name, axis))
        return params

    def _draw_by_chance(self) -> bool:
        """Queue a new variant near the sampler's last proposal, or anywhere.

        A sampler that has converged proposes what is known; what it has not seen lies beside that.
        To ask it again costs as much, and mostly gives what is known once more.

        Returns:
            False where there is none left.
        """
        taken = self.ledger.keys()
        rng = random.Random(f"{self.space.seed} {len(taken)} {self.worker}")
        for params in self._by_chance(rng):
            try:
                variant = self.assembler.build(params)
            except ConfigError:
                continue
            key = key_of(variant.fingerprint, 0)
            if key in taken or exceeded(measure_cost(variant.config, self.space), self.space):
                continue
            self.ledger.enqueue(params, key, 0, baseline=variant.is_baseline)
            self._refused = 0
            return True
        self.exhausted = True
        return False

    def _by_chance(self, rng: random.Random) -> Iterator[dict[str, Key]]:
        """Yield neighbours of the last proposal, then points in random order, all if few."""
        if self.space.sampler != "random":
            for _ in range(_NEIGHBOURS):
                yield self._neighbour(rng)
        count = self.assembler.count()
        if count is not None and count <= _DRAWS:
            points = list(self.assembler.points())
            rng.shuffle(points)
            yield from points
        else:
            for _ in range(_DRAWS):
                yield draw_params(self.space, rng)

    def _neighbour(self, rng: random.Random) -> dict[str, Key]:
        """Change one axis of the last proposal; an axis that acts only then is drawn too."""
        changed = rng.choice(list(self._last))
        params: dict[str, Key] = {}
        for name, axis in self.space.axes.items():
            if axis.acts(params):
                keep = name in self._last and name != changed
                params[name] = self._last[name] if keep else _draw(axis, rng)
        return params

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


def _started(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Return the number of the first trial of every variant that was begun or is queued."""
    found: dict[str, int] = {}
    for trial in trials:
        undeclared = trial.state.name == "RUNNING" and "key" not in trial.user_attrs
        key = f"?{trial.number}" if undeclared else trial.user_attrs.get("key")
        lost = trial.state.name == "FAIL" and "reason" not in trial.user_attrs
        if key is not None and not lost and not trial.user_attrs.get("seed"):
            found.setdefault(key, trial.number)
    return found


def suggest(trial: Trial, name: str, axis: Axis) -> Any:
    """Ask Optuna for an axis's value."""
    from optuna.distributions import FloatDistribution, IntDistribution

    drawn = axis.distribution()
    if isinstance(drawn, IntDistribution):
        return trial.suggest_int(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    if isinstance(drawn, FloatDistribution):
        return trial.suggest_float(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    return trial.suggest_categorical(name, axis.grid())


def draw_params(space: Space, rng: random.Random) -> dict[str, Key]:
    """Draw a point of a space uniformly, axis by axis."""
    params: dict[str, Key] = {}
    for name, axis in space.axes.items():
        if axis.acts(params):
            params[name] = _draw(axis, rng)
    return params


def _draw(axis: Axis, rng: random.Random) -> Key:
    if axis.kind == "float" and axis.step is None:
        return round(rng.uniform(*axis.ends), 12)
    return rng.choice(axis.grid())
