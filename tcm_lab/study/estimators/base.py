"""The interface of an estimator, and its registry.

An estimator says what a variant will cost to code with, against the study's baseline: by training
it (``train``), or by something cheaper. It is a configuration that does two things. ``run`` does
the work for one variant and seed and returns an `Outcome`, which becomes a record. ``percent`` and
``difference`` read the records of a variant and of the baseline. Everything else (queue, resuming,
sampling, rungs, tables, plots) is the study's, and the same for all::

    @tcm_lab.register_estimator("parameters")
    class Parameters(tcm_lab.study.Estimator):
        \"\"\"Takes a tenth of a percent for every thousand parameters.\"\"\"

        bias = "knows nothing of coding"

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
from tcm_lab.stats import NORMAL, Interval, mean_noise, over_images
from tcm_lab.training import Recipe, TrainingRecord

if TYPE_CHECKING:
    from tcm_lab.study.context import StudyContext
    from tcm_lab.study.noise import Noise
    from tcm_lab.study.record import TrialRecord


class Estimate(Frozen):
    """What a variant costs to code with, of an estimator that evaluates no codec for it.

    Attributes:
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE), on a scale that the
            study's variants of one seed share: only differences count, 0.01 being one percent.
        sd_percent: standard deviation of its difference from the baseline's, in percent.
        parts: what it is the sum of, in percent, by name; for tables.
    """

    log_cost: float
    sd_percent: float = Field(ge=0)
    parts: dict[str, float] = Field(default_factory=dict)


class Outcome(Frozen):
    """What the work on one variant gives.

    Attributes:
        training: the finished training; ``None`` for one that was given up at a rung, and where
            no weights are trained for the variant alone.
        more: those of the further lambdas, where each has weights of its own.
        rd: an evaluation at the last step that was reached; ``None`` where none was made.
        estimate: the cost, where it is not that of ``rd``.
        steps: training steps that it reached.
        reused_s: seconds of CPU time that another study spent on what this work builds on.
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
        config: the codec.
        recipe: how it is trained, the seed included, as the estimator's ``recipe`` made it.
        directory: where its state, weights and records go; what is found there is resumed. Its
            parent is shared by all variants of the study.
        rungs: steps at which to evaluate on the way.
    """

    config: VariantConfig
    recipe: Recipe
    directory: Path
    rungs: tuple[int, ...] = ()


class Watch(Protocol):
    """Callbacks of a training."""

    def progress(self, step: int, text: str) -> None:
        """Note that ``step`` steps are done."""

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Judge an evaluation on the way; return whether training goes on."""


@dataclass(frozen=True)
class Comparison:
    """A variant beside the baseline.

    Attributes:
        own: its records, one per seed.
        baseline: the baseline's; where ``paired``, of the same seeds in the same order.
        paired: whether the two have their seeds in common, and with them all random numbers.
        noise: what the recipe's seeds vary by, where that was measured.
        samples: number of bootstrap resamples.
        seed: of the resampling.
    """

    own: Sequence[TrialRecord]
    baseline: Sequence[TrialRecord]
    paired: bool = True
    noise: Noise | None = None
    samples: int = 1000
    seed: int = 0

    @property
    def seed_sd_loss(self) -> float:
        """What paired training losses were measured to differ by between seeds; 0 if unknown."""
        return self.noise.widened(self.noise.seed_sd_loss or 0.0) if self.noise else 0.0


class Estimator(Frozen):
    """How a study finds what its variants cost to code with; ``type`` is its registered name.

    Its Lagrangian cost is that of the study's metric ``lagrangian_percent``, in percent above the
    baseline's, whatever it is found by.
    """

    type: str
    #: What its numbers favour or cannot see, as the rest of "NAME …".
    bias: ClassVar[str] = "has no known bias"
    #: What its 95 % intervals are over, as the rest of "intervals: 95 % over …".
    over: ClassVar[str] = "the error that the estimator states"
    #: Whether nothing can be estimated before the baseline's record of the same seed exists.
    baseline_first: ClassVar[bool] = False
    #: Whether ``run`` trains the variant itself by ``task.recipe`` and evaluates at ``task.rungs``.
    trains: ClassVar[bool] = False

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse a base or a recipe that it cannot work with, when a space is read.

        Raises:
            ConfigError: the message says what does not fit and what would.
        """

    def check_variant(self, base: VariantConfig, variant: VariantConfig) -> None:
        """Refuse a variant that it cannot set against the base, or that is more than it can serve.

        Each option of a space is tried alone when the space is read.

        Raises:
            ConfigError: the message says what does not fit and what would.
        """

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the budget's recipe as this estimator shortens it."""
        return recipe

    def identity(self) -> dict[str, Any]:
        """Return what decides, beside codec, recipe, seed and images, what ``run`` gives."""
        return self.model_dump(mode="json")

    @abstractmethod
    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Do the work for one variant and seed, resuming what its directory holds.

        Args:
            task: the variant.
            context: the study: images, space and variants, folder, and what trains a codec
                (``context.trainer(task, watch)``).
            watch: receives how far it is.

        Raises:
            FileError: a file or the disk fails, so no other variant can be estimated either.
            LabError: this variant cannot be estimated; others may.
            KeyboardInterrupt: Ctrl-C, after the state was saved.
        """

    def percent(self, own: TrialRecord, baseline: TrialRecord) -> float:
        """Return by how many percent a record's cost is above the baseline's, for the sampler.

        Raises:
            LabError: the two are not comparable.
        """
        if own.estimate is not None and baseline.estimate is not None:
            return 100 * math.expm1(own.estimate.log_cost - baseline.estimate.log_cost)
        if own.rd is None or baseline.rd is None:
            raise LabError("not evaluated")
        return lagrangian_percent(baseline.rd, own.rd, lambdas=own.lambdas)

    def difference(self, compared: Comparison) -> Interval:
        """Return the same over all seeds, with its 95 % interval.

        Raises:
            LabError: the two are not comparable.
        """
        own, baseline = (
            [record.estimate for record in side if record.estimate is not None]
            for side in (compared.own, compared.baseline)
        )
        if (len(own), len(baseline)) == (len(compared.own), len(compared.baseline)):
            found = _between_estimates(own, baseline, paired=compared.paired)
            is_of_one = self.over == "images" and not any(each.sd_percent for each in own)
            return over_images(found) if is_of_one else found
        return _between_evaluations(compared)

    def findings(self, trials: Path) -> list[str]:
        """Return in sentences what its own checks found in a study's folder of trials."""
        del trials
        return []


def check_one_set_of_weights(kind: str, base: VariantConfig) -> None:
    """Refuse, for an estimator called ``kind``, a base whose rates have weights of their own.

    Raises:
        ConfigError: the base is not rate-conditioned.
    """
    if not base.rate_levels:
        raise ConfigError(
            f"estimator {kind}: needs one set of weights for all rates; set budget.rate_levels to "
            "2 or more"
        )


def normal_interval(value: float, sd: float) -> Interval:
    """Return a value's 95 % interval by a standard deviation that was not resampled."""
    return Interval(value=value, low=value - NORMAL * sd, high=value + NORMAL * sd, noise=sd)


def _between_estimates(
    own: Sequence[Estimate], baseline: Sequence[Estimate], *, paired: bool
) -> Interval:
    """Return the difference of the means; the seeds share their images, but not their luck."""
    logs = [[estimate.log_cost for estimate in side] for side in (own, baseline)]
    if paired:
        of_seeds = mean_noise([100 * (one - other) for one, other in zip(*logs, strict=True)])
    else:
        of_seeds = math.hypot(*(100 * mean_noise(side) for side in logs))
    of_images = math.sqrt(fmean(estimate.sd_percent**2 for estimate in own))
    percent = 100 * math.expm1(fmean(logs[0]) - fmean(logs[1]))
    return normal_interval(percent, math.hypot(of_images, of_seeds))


def _between_evaluations(compared: Comparison) -> Interval:
    """Return the difference between evaluations, with its interval over images and seeds.

    Seeds that both sides have are paired. How much one seed differs from another is the recipe's
    measured noise, where there is any, and else by the seeds at hand.

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
        return cast("E", config)  # a subclass of what came

    return decorate


def _schema() -> dict[str, Any]:
    value = {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"type": "string"}]}
    options = {"type": "object", "required": ["type"], "additionalProperties": value}
    return {"anyOf": [{"type": "string"}, options]}


AnyEstimator = Annotated[
    SerializeAsAny[Estimator], BeforeValidator(ESTIMATORS.parse), WithJsonSchema(_schema())
]
