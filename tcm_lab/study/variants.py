"""The variants of a space: built, counted once each, enumerated without repeats."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from tcm_lab._utils import Frozen
from tcm_lab.codec import VariantConfig, build
from tcm_lab.complexity import ComplexityRecord, TimingRecord, measure_complexity, measure_timing
from tcm_lab.errors import ConfigError
from tcm_lab.metrics import METRICS, Number
from tcm_lab.study.axes import AxisBase, Key, same, show
from tcm_lab.study.space import Space
from tcm_lab.training import Recipe, check_cca

Params = Mapping[str, Key]
_MAX_POINTS = 100_000


class VariantCost(Frozen):
    """The costs of a variant that are known before training; metrics are computed from them.

    Attributes:
        complexity: counts at the space's image size.
        timing: times of untrained weights, if the space asks for a time.
        rd: None, since there is no evaluation yet.
        lambdas: empty, since there are no rates yet.
    """

    complexity: ComplexityRecord
    timing: TimingRecord | None = None
    rd: None = None
    lambdas: tuple[float, ...] = ()

    @property
    def metrics(self) -> dict[str, Number]:
        """Every known metric by name."""
        known = ((name, metric.of(self)) for name, metric in METRICS.items())
        return {name: value for name, value in known if value is not None}


def _measure_cost(config: VariantConfig, space: Space) -> VariantCost:
    """Count a variant, and measure its memory and times if the space judges by them."""
    wanted = {*space.objectives, *space.constraints, *space.soft_constraints}
    needs = {METRICS[name].needs for name in wanted}
    complexity = measure_complexity(config, space.size, memory="memory" in needs)
    if "timing" not in needs:
        return VariantCost(complexity=complexity)
    codec = build(config).eval()
    codec.update(force=True)
    return VariantCost(complexity=complexity, timing=measure_timing(codec, space.size))


def violations(values: Mapping[str, Number], bounds: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each bound is violated; zero or less if it is satisfied.

    A bound is an upper limit for a metric to be minimised, a lower one for one to be maximised.
    """
    return {
        name: METRICS[name].loss(values[name]) - METRICS[name].loss(bound)
        for name, bound in bounds.items()
    }


@dataclass(frozen=True)
class Variant:
    """One point of a space.

    Attributes:
        params: key of every axis that acts, by axis.
        config: configuration of the codec.
        label: label in the study's tables.
        is_baseline: whether it is the base itself.
    """

    params: dict[str, Key]
    config: VariantConfig
    label: str
    is_baseline: bool

    @property
    def fingerprint(self) -> str:
        """The codec's identity: equal for equal codecs, whatever their names."""
        return self.config.fingerprint


class Variants:
    """The variants of a space and their costs; pickled together with the costs counted so far."""

    def __init__(self, space: Space) -> None:
        self.space, self.base = space, space.baseline
        self._costs: dict[str, VariantCost] = {}
        self._recipe = space.budget.recipe_for(space.seed)
        if levels := space.budget.rate_levels:  # else weights of their own for each lambda
            self._recipe = self._recipe.suited(self.base.latent_channels, levels)
        points = self.count() if space.sampler == "grid" and space.mode == "search" else None
        if points is not None and points > _MAX_POINTS:
            raise ConfigError(
                f"{space.name}: the axes span {points:,} variants, too many to train all of them; "
                "choose sampler tpe, and set their number with budget.trials"
            )

    def build(self, params: Params) -> Variant:
        """Return the variant with these keys.

        Raises:
            ConfigError: no codec can be built from these values together.
        """
        changes: dict[str, Any] = {}
        for name, key in params.items():
            for path, value in self.space.axes[name].changes(name, key).items():
                changes.pop(path, None)  # insert again, to keep the order of the axes
                changes[path] = value
        words = [self.base.name, *(f"{name}={show(key)}" for name, key in params.items())]
        changes["name"] = re.sub(r"[^A-Za-z0-9 ._/@=,+*?-]+", "-", " ".join(words))
        config = self.base.override(changes)
        check_cca(self._recipe, config)
        is_baseline = config.fingerprint == self.base.fingerprint
        return Variant(dict(params), config, self.space.label(params) or "baseline", is_baseline)

    def recipe(self, seed: int = 0) -> Recipe:
        """Return the recipe of every variant, with the rates that suit the baseline."""
        return self._recipe.changed(seed=self.space.seed + seed)

    def cost(self, variant: Variant) -> VariantCost:
        """Return the costs of a variant that are known before training, counted once."""
        if variant.fingerprint not in self._costs:
            self._costs[variant.fingerprint] = _measure_cost(variant.config, self.space)
        return self._costs[variant.fingerprint]

    def exceeded(self, variant: Variant) -> dict[str, tuple[Number, float]]:
        """Return the value and the bound of every hard constraint that a variant violates."""
        values = self.cost(variant).metrics
        bounds = {name: b for name, b in self.space.constraints.items() if name in values}
        over = violations(values, bounds)
        return {name: (values[name], bounds[name]) for name, by in over.items() if by > 0}

    def check_defined(self, variant: Variant) -> None:
        """Refuse a variant that lacks a metric of the space that must be known before training.

        Raises:
            ConfigError: the message names the metric.
        """
        space, known = self.space, self.cost(variant).metrics
        for name in (*space.objectives, *space.constraints, *space.soft_constraints):
            if not METRICS[name].needs_training and name not in known:
                raise ConfigError(f"{name} is undefined for {variant.config.name}")

    def baseline(self) -> Variant:
        """Return the base as a point of the space."""
        return self.build(self.walk(lambda name, axis: axis.base_key(name, self.base)))

    def draw(self, rng: random.Random) -> dict[str, Key]:
        """Draw a point of the space uniformly, axis by axis."""
        return self.walk(lambda name, axis: axis.draw(rng))

    def neighbour(self, params: Params, rng: random.Random) -> dict[str, Key]:
        """Redraw one axis of a point, and any axis that acts only after this change."""
        changed = rng.choice(list(params))

        def key(name: str, axis: AxisBase) -> Key:
            return params[name] if name in params and name != changed else axis.draw(rng)

        return self.walk(key)

    def walk(self, key_of: Callable[[str, AxisBase], Key]) -> dict[str, Key]:
        """Return a key for every axis that acts."""
        params: dict[str, Key] = {}
        for name, axis in self.space.axes.items():
            if axis.acts(params):
                params[name] = key_of(name, axis)
        return params

    def all(self) -> Iterator[Variant]:
        """Yield every distinct variant of an enumerated space once, the baseline first."""
        return self.different(chain([self.baseline().params], self.points()))

    def different(self, points: Iterable[Params]) -> Iterator[Variant]:
        """Yield the variants of points, skipping codecs that can't be built or came before."""
        seen = set()
        for params in points:
            try:
                variant = self.build(params)
            except ConfigError:
                continue
            if variant.fingerprint not in seen:
                seen.add(variant.fingerprint)
                yield variant

    def known(self) -> list[Variant]:
        """Return the variants that are certain to be trained: in a search, only the baseline."""
        return self.fitting() if self.space.enumerated else [self.baseline()]

    def fitting(self) -> list[Variant]:
        """Return the variants of an enumerated space within the constraints, the baseline first.

        Raises:
            ConfigError: there is no variant besides the baseline.
        """
        kept = [v for v in self.all() if v.is_baseline or not self.exceeded(v)]
        if len(kept) < 2:
            raise self.lone_baseline()
        return kept

    def lone_baseline(self) -> ConfigError:
        """Return an error that says why there is no variant besides the baseline."""
        if not self.space.constraints:
            return ConfigError(
                "axes: no variant besides the baseline, since every other value is the base's own "
                "or cannot be built; add choices"
            )
        bounds = ", ".join(f"{name} = {b:g}" for name, b in self.space.constraints.items())
        return ConfigError(
            f"constraints {bounds}: leave no variant besides the baseline; relax them"
        )

    def count(self) -> int | None:
        """Return the number of points that the axes span, or None if it is infinite."""
        if self.space.mode == "ablation":
            return sum(1 for _ in self._one_at_a_time())
        deciding = {name for axis in self.space.axes.values() for name in axis.when}
        try:
            return _count(self.space.axes, {}, deciding)
        except ConfigError:
            return None

    def points(self) -> Iterator[dict[str, Key]]:
        """Yield every combination of values that the mode covers, repeats included."""
        if self.space.mode == "ablation":
            return self._one_at_a_time()
        return _points(list(self.space.axes.items()), {})

    def _one_at_a_time(self) -> Iterator[dict[str, Key]]:
        origin = self.baseline().params
        yield origin
        for changed, own in origin.items():
            for key in self.space.axes[changed].grid():
                if same(key, own):
                    continue
                yield self.walk(partial(_changed, {**origin, changed: key}))


def _changed(params: Params, name: str, axis: AxisBase) -> Key:
    """Return an axis's key among ``params``, or its first one if it acts only after a change."""
    return params[name] if name in params else axis.grid()[0]


def _points(axes: list[tuple[str, AxisBase]], params: dict[str, Key]) -> Iterator[dict[str, Key]]:
    if not axes:
        yield params
        return
    (name, axis), rest = axes[0], axes[1:]
    if not axis.acts(params):
        yield from _points(rest, params)
        return
    for key in axis.grid():
        yield from _points(rest, {**params, name: key})


def _count(axes: Mapping[str, AxisBase], params: dict[str, Key], deciding: set[str]) -> int:
    """Count points, branching only on the axes that conditions refer to."""
    total = 1
    rest = dict(axes)
    for name, axis in axes.items():
        del rest[name]
        if not axis.acts(params):
            continue
        keys = axis.grid()
        if name in deciding:
            return total * sum(_count(rest, {**params, name: key}, deciding) for key in keys)
        total *= len(keys)
    return total
