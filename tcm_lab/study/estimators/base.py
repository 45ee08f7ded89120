"""The interface of an estimator, and its registry.

An estimator finds the Lagrangian cost of a variant relative to the study's baseline: by training it
(``train``), or by something cheaper. It is a configuration that does two things. ``run`` does the
work for one variant and seed and returns an `Outcome`, which becomes a record. ``percent`` and
``difference`` compare the records of a variant and of the baseline. Everything else (queue,
resuming, sampling, rungs, tables, plots) belongs to the study, and is the same for all estimators::

    @tcm_lab.register_estimator("parameters")
    class Parameters(tcm_lab.study.Estimator):
        \"\"\"Assumes that a thousand more parameters save a tenth of a percent.\"\"\"

        bias = "knows nothing about coding"

        def run(self, task, context, watch):
            count = sum(p.numel() for p in tcm_lab.build(task.config).parameters())
            return Outcome(estimate=Estimate(log_cost=-1e-6 * count, sd_percent=1), steps=0)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeVar, cast

from pydantic import BeforeValidator, Field, SerializeAsAny, WithJsonSchema

from tcm_lab._utils import ConfigRegistry, Frozen, named_config
from tcm_lab.codec import VariantConfig
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.evaluation import RdRecord, Seeds, lagrangian_interval, lagrangian_percent
from tcm_lab.stats import (
    NORMAL,
    IncompleteInterval,
    Interval,
    as_percent,
    mean_noise,
    over_images,
)
from tcm_lab.training import Recipe, TrainingRecord

if TYPE_CHECKING:
    from tcm_lab.study.context import StudyContext
    from tcm_lab.study.noise import Noise
    from tcm_lab.study.record import TrialRecord


class Estimate(Frozen):
    """A variant's cost, from an estimator that does not evaluate the variant's own codec.

    Attributes:
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE), on a scale shared by the
            study's variants of one seed: only differences count, 0.01 being one percent.
        sd_percent: standard deviation of its difference from the baseline's, in percent.
        parts: contributions to the cost, in percent, by name; for tables.
    """

    log_cost: float
    sd_percent: float = Field(ge=0)
    parts: dict[str, float] = Field(default_factory=dict)


class Outcome(Frozen):
    """The result of the work on one variant.

    Attributes:
        training: the finished training; ``None`` if it was stopped at a rung, or if no weights are
            trained for the variant alone.
        more: trainings of the further lambdas, if each has its own weights.
        rd: an evaluation at the last step; ``None`` without one.
        estimate: the cost, if it is not that of ``rd``.
        steps: training steps done.
        reused_s: CPU seconds that another study spent on results that this work reuses.
    """

    training: TrainingRecord | None = None
    more: tuple[TrainingRecord, ...] = ()
    rd: RdRecord | None = None
    estimate: Estimate | None = None
    steps: int
    reused_s: float = 0.0


@dataclass(frozen=True)
class Task:
    """One variant to estimate, with one seed.

    Attributes:
        config: configuration of the codec.
        recipe: recipe of the training, including the seed, as returned by the estimator's
            ``recipe``.
        directory: folder of its state, weights and records; work found there is resumed. The
            parent folder is shared by all variants of the study.
        rungs: steps at which to evaluate during training.
    """

    config: VariantConfig
    recipe: Recipe
    directory: Path
    rungs: tuple[int, ...] = ()


class Watch(Protocol):
    """Callbacks of a training."""

    def progress(self, step: int, text: str) -> None:
        """Report that ``step`` steps are done."""

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Judge an evaluation at a rung; return whether training continues."""


@dataclass(frozen=True)
class Comparison:
    """The records of a variant and of the baseline, to be compared.

    Attributes:
        own: records of the variant, one per seed.
        baseline: records of the baseline; if ``paired``, with the same seeds in the same order.
        paired: whether the two share their seeds, and with them all random numbers.
        noise: noise of the recipe, if it was measured.
        samples: number of bootstrap resamples.
        seed: seed of the resampling.
    """

    own: Sequence[TrialRecord]
    baseline: Sequence[TrialRecord]
    paired: bool = True
    noise: Noise | None = None
    samples: int = 1000
    seed: int = 0

    @property
    def seed_sd_loss(self) -> float:
        """Measured standard deviation between seeds of paired training losses; 0 if unknown."""
        return self.noise.widened(self.noise.seed_sd_loss or 0.0) if self.noise else 0.0


class Estimator(Frozen):
    """How a study finds the Lagrangian cost of its variants; ``type`` is the registered name.

    Whatever the estimator, this cost is the study's metric ``lagrangian_percent``, in percent above
    the baseline's.
    """

    type: str
    #: What its estimates favour or cannot see, to complete "NAME …".
    bias: ClassVar[str] = "has no known bias"
    #: What its 95 % intervals cover, to complete "intervals: 95 % over …".
    over: ClassVar[str] = "the error that the estimator states"
    #: Whether the baseline's record of the same seed must exist before anything can be estimated.
    baseline_first: ClassVar[bool] = False
    #: Whether ``run`` trains the variant itself by ``task.recipe`` and evaluates at ``task.rungs``.
    trains: ClassVar[bool] = False

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse a base or a recipe that the estimator cannot work with, when a space is read.

        Raises:
            ConfigError: the message says what does not fit and what would.
        """

    def check_variant(self, base: VariantConfig, variant: VariantConfig) -> None:
        """Refuse a variant that the estimator cannot compare with the base, or cannot estimate.

        When a space is read, each of its options is checked alone.

        Raises:
            ConfigError: the message says what does not fit and what would.
        """

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the budget's recipe, shortened for this estimator."""
        return recipe

    def identity(self) -> dict[str, Any]:
        """Return the facts that determine ``run``, besides codec, recipe, seed and images."""
        return self.model_dump(mode="json")

    @abstractmethod
    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Do the work for one variant and seed, resuming what its directory holds.

        Args:
            task: the variant to estimate.
            context: the study: images, space and variants, folder, and the trainer of codecs
                (``context.trainer(task, watch)``).
            watch: receives progress reports.

        Raises:
            FileError: a file or the disk fails, so no other variant can be estimated either.
            LabError: this variant cannot be estimated; others may be.
            KeyboardInterrupt: Ctrl-C, after the state was saved.
        """

    def percent(self, own: TrialRecord, baseline: TrialRecord) -> float:
        """Return how far a record's cost is above the baseline's, in percent, for the sampler.

        Raises:
            LabError: the two are not comparable.
        """
        if own.estimate is not None and baseline.estimate is not None:
            return 100 * math.expm1(own.estimate.log_cost - baseline.estimate.log_cost)
        if own.rd is None or baseline.rd is None:
            raise LabError("not evaluated")
        return lagrangian_percent(baseline.rd, own.rd, lambdas=own.lambdas)

    def difference(self, compared: Comparison) -> Interval:
        """Return the difference in percent over all seeds, with its 95 % interval.

        Raises:
            LabError: the two are not comparable.
        """
        own, baseline = (
            [record.estimate for record in side if record.estimate is not None]
            for side in (compared.own, compared.baseline)
        )
        if (len(own), len(baseline)) == (len(compared.own), len(compared.baseline)):
            interval = _between_estimates(own, baseline, paired=compared.paired)
            # Of several images, no spread on either side means a tie with the study's baseline.
            has_spread = any(each.sd_percent for each in (*own, *baseline))
            is_of_one = self.over == "images" and interval.value and not has_spread
            return over_images(interval) if is_of_one else interval
        return _between_evaluations(compared)

    def findings(self, trials: Path) -> list[str]:
        """Return sentences about the estimator's own checks in a study's folder of trials."""
        del trials
        return []


def check_one_set_of_weights(kind: str, base: VariantConfig) -> None:
    """Refuse, for an estimator called ``kind``, a base whose rates have separate weights.

    Raises:
        ConfigError: the base is not rate-conditioned.
    """
    if not base.rate_levels:
        raise ConfigError(
            f"estimator {kind}: needs one set of weights for all rates; set budget.rate_levels to "
            "2 or more"
        )


def normal_interval(value: float, sd: float) -> Interval:
    """Return a value's normal 95 % interval for a standard deviation that was not resampled."""
    return Interval(value=value, low=value - NORMAL * sd, high=value + NORMAL * sd, noise=sd)


def _between_estimates(
    own: Sequence[Estimate], baseline: Sequence[Estimate], *, paired: bool
) -> Interval:
    """Return the difference of the means; seeds share the images but vary independently.

    Each side states the deviation of its difference from the study's baseline, which states 0. Of
    two other variants, the two deviations count as independent. With a single seed, the interval is
    incomplete.
    """
    logs = [[estimate.log_cost for estimate in side] for side in (own, baseline)]
    if paired:
        of_seeds = mean_noise([one - other for one, other in zip(*logs, strict=True)])
    else:
        of_seeds = math.hypot(*map(mean_noise, logs))
    of_images = math.sqrt(sum(fmean(e.sd_percent**2 for e in side) for side in (own, baseline)))
    log_ratio = fmean(logs[0]) - fmean(logs[1])
    interval = as_percent(normal_interval(log_ratio, math.hypot(of_images / 100, of_seeds)))
    return interval if min(map(len, logs)) > 1 else IncompleteInterval(**dict(interval))


def _between_evaluations(compared: Comparison) -> Interval:
    """Return the difference between evaluations, with its interval over images and seeds.

    Seeds that both sides have are paired. The variation between seeds is the recipe's measured
    noise if there is any, else that of the available seeds.

    Raises:
        LabError: the evaluations are not comparable.
    """
    sides = [
        [record.rd for record in side if record.rd is not None]
        for side in (compared.baseline, compared.own)
    ]
    noise = compared.noise if compared.paired else None
    return lagrangian_interval(
        *sides,
        lambdas=compared.own[0].lambdas,
        seeds=Seeds(paired=compared.paired, sd_percent=noise and noise.widened(noise.seed_sd)),
        samples=compared.samples,
        seed=compared.seed,
    )


E = TypeVar("E", bound=type[Estimator])
ESTIMATORS: ConfigRegistry[Estimator] = ConfigRegistry("estimator", Estimator)
"""Estimators by registered name."""


def register_estimator(name: str) -> Callable[[E], E]:
    """Return a class decorator that registers a subclass of `Estimator` as ``name``.

    Raises:
        ConfigError: the name is taken, or the class is not an estimator.
    """
    ESTIMATORS.check_name(name)

    def decorate(cls: E) -> E:
        if not (isinstance(cls, type) and issubclass(cls, Estimator)):
            raise ConfigError(f"estimator '{name}': {cls!r} is not a subclass of Estimator")
        config = named_config(name, cls, {})
        if config.__abstractmethods__:
            raise ConfigError(f"estimator '{name}': {cls.__qualname__} must implement run()")
        ESTIMATORS.add(name, config)
        return cast("E", config)  # a subclass of cls

    return decorate


def _schema() -> dict[str, Any]:
    value = {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"type": "string"}]}
    options = {"type": "object", "required": ["type"], "additionalProperties": value}
    return {"anyOf": [{"type": "string"}, options]}


AnyEstimator = Annotated[
    SerializeAsAny[Estimator], BeforeValidator(ESTIMATORS.parse), WithJsonSchema(_schema())
]
