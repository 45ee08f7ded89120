"""The record of one training of one variant in a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab._utils.digests import digest
from tcm_lab.codec import VariantConfig
from tcm_lab.complexity import ComplexityRecord, TimingRecord
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, bd_rate
from tcm_lab.metrics import METRICS
from tcm_lab.study.axes import Key
from tcm_lab.study.estimators import AnyEstimator, Estimate, Estimator, Train
from tcm_lab.study.space import Space
from tcm_lab.training import Recipe, TrainingRecord

State = Literal["complete", "stopped"]


class Rung(Frozen):
    """An evaluation during training.

    Attributes:
        step: number of steps before it.
        lagrangian: mean logarithm of the Lagrangian cost.
    """

    step: int
    lagrangian: float


class TrialRecord(Frozen):
    """One training of one variant, described completely enough to reproduce it.

    Attributes:
        number: number of the trial in the study.
        label: label of the variant in tables.
        params: key of every axis that acts.
        config: complete configuration of the codec.
        fingerprint: identity of the codec.
        identity: identity of this training: codec, recipe, seed and data.
        is_baseline: whether the codec is the study's base.
        seed: seed of the training.
        estimator: estimator of its cost.
        recipe: recipe of the training.
        lambdas: rate-distortion weights, one per point of ``rd``.
        state: whether it was trained to the end, or stopped at a rung.
        steps: training steps done.
        complexity: counts of the codec.
        timing: encoding and decoding times of the codec, if the space asks for them.
        training: the training's own record, if it reached the end.
        more: training records of the further lambdas, if each has its own weights.
        rd: the evaluation, if the estimator makes one.
        estimate: the estimator's cost, if it is not that of ``rd``.
        cpu_s: CPU seconds that workers spent on it, summed across interruptions; for the baseline,
            also those that another study spent on shared work.
        rungs: evaluations during training.
        violations: excess over each soft constraint; zero or less if it is satisfied.
    """

    number: int
    label: str
    params: dict[str, Key]
    config: dict[str, Any]
    fingerprint: str
    identity: str
    is_baseline: bool
    seed: int
    estimator: AnyEstimator = Train()
    recipe: Recipe
    lambdas: tuple[float, ...]
    state: State
    steps: int
    complexity: ComplexityRecord
    timing: TimingRecord | None = None
    training: TrainingRecord | None
    more: tuple[TrainingRecord, ...] = ()
    rd: RdRecord | None
    estimate: Estimate | None = None
    cpu_s: float = 0.0
    rungs: tuple[Rung, ...] = ()
    violations: dict[str, float] = Field(default_factory=dict)

    @property
    def variant(self) -> VariantConfig:
        """The codec's configuration, validated."""
        return VariantConfig.parse(self.config)

    @property
    def trainings(self) -> tuple[TrainingRecord, ...]:
        """The records of all training runs that reached the end."""
        return () if self.training is None else (self.training, *self.more)

    def lagrangian_percent(self, baseline: TrialRecord) -> float:
        """Return how far the estimated Lagrangian cost is above the baseline's, in percent.

        Raises:
            LabError: the two are from different estimators, or not comparable.
        """
        if self.estimator != baseline.estimator:
            raise LabError(
                f"{self.label} is measured by {self.estimator.type} and the baseline by "
                f"{baseline.estimator.type}; they are not comparable"
            )
        return self.estimator.percent(self, baseline)

    def bd_rate_percent(self, baseline: TrialRecord) -> float:
        """Return the BD-rate against the baseline.

        Raises:
            LabError: the curves are not comparable.
        """
        if self is baseline:
            return 0.0
        return bd_rate(baseline.evaluation.curve(), self.evaluation.curve()).percent

    @property
    def evaluation(self) -> RdRecord:
        """The evaluation.

        Raises:
            LabError: the estimator makes none.
        """
        if self.rd is None:
            raise LabError(f"{self.label}: was not evaluated by {self.estimator.type}")
        return self.rd

    @property
    def feasible(self) -> bool:
        """Whether every soft constraint is satisfied."""
        return all(value <= 0 for value in self.violations.values())


def baseline_of(records: Sequence[TrialRecord]) -> TrialRecord:
    """Return the first training of the baseline.

    Raises:
        LabError: the baseline has not been trained yet.
    """
    baseline = next((record for record in records if record.is_baseline), None)
    if baseline is None:
        raise LabError("the baseline is not trained yet, so there is nothing to compare with")
    return baseline


def objective_losses(
    records: Sequence[TrialRecord], baseline: Sequence[TrialRecord], space: Space
) -> list[float]:
    """Return a variant's objectives as numbers to be minimised, averaged over its trainings.

    Each training is compared with the baseline's of the same seed, or else with the baseline's
    first. An objective that a training does not have, such as a BD-rate without overlap, is NaN.
    """
    same = {record.seed: record for record in reversed(baseline)}
    losses = []
    for metric in (METRICS[name] for name in space.objectives):
        values = [metric.known(record, same.get(record.seed, baseline[0])) for record in records]
        losses.append(fmean(math.nan if v is None else metric.loss(v) for v in values))
    return losses


def training_identity(
    fingerprint: str,
    recipe: Recipe,
    train_data: str,
    eval_data: str,
    *,
    requested: Sequence[str] = (),
    estimator: Estimator | None = None,
) -> str:
    """Return sixteen hex digits, equal for trainings that would give the same record.

    The name of the recipe, how often it saves its state, and an estimator that only reads a
    training's results do not change the identity.
    """
    facts: dict[str, Any] = {
        "codec": fingerprint,
        "recipe": recipe.identity(),
        "train": train_data,
        "eval": eval_data,
    }
    if requested:  # metrics that other records of this training lack
        facts["metrics"] = sorted(requested)
    if estimator is not None and (own := estimator.identity()):
        facts["estimator"] = own
    return digest(facts)
