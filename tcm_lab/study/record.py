"""What a study knows of one training of one variant."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab.codec import VariantConfig
from tcm_lab.complexity import ComplexityRecord, TimingRecord
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, bd_rate, lagrangian_percent
from tcm_lab.metrics import METRICS
from tcm_lab.study.axes import Key
from tcm_lab.study.space import Space
from tcm_lab.training import Recipe, TrainingRecord

State = Literal["complete", "stopped"]


class Outcome(Frozen):
    """What training and evaluation give.

    Attributes:
        training: the finished training; ``None`` for one that was given up at a rung.
        more: those of the further lambdas, where each has weights of its own.
        rd: the evaluation by written bits at the last step that was reached.
        steps: that step.
    """

    training: TrainingRecord | None
    more: tuple[TrainingRecord, ...] = ()
    rd: RdRecord
    steps: int


class Rung(Frozen):
    """An evaluation on the way.

    Attributes:
        step: after how many steps.
        lagrangian: mean logarithm of the Lagrangian cost.
    """

    step: int
    lagrangian: float


class TrialRecord(Frozen):
    """One training of one variant, described completely enough to reproduce it.

    Attributes:
        number: of the trial in the study.
        label: what tables call the variant.
        params: the key of every axis that acts.
        config: the codec's whole configuration.
        fingerprint: the codec's identity.
        identity: of this training: codec, recipe, seed and data.
        is_baseline: whether the codec is the study's base.
        seed: of the training.
        recipe: how it was trained.
        lambdas: rate-distortion weights, one per point of ``rd``.
        state: whether it was trained to the end, or stopped at a rung.
        steps: training steps that it reached.
        complexity: what the codec costs.
        timing: encode and decode times measured apart, where the space asks for them.
        training: the training's own record, if it reached the end.
        more: those of the further lambdas, where each has weights of its own.
        rd: the evaluation.
        rungs: evaluations on the way.
        violations: by how much each soft constraint is exceeded (negative: is kept).
    """

    number: int
    label: str
    params: dict[str, Key]
    config: dict[str, Any]
    fingerprint: str
    identity: str
    is_baseline: bool
    seed: int
    recipe: Recipe
    lambdas: tuple[float, ...]
    state: State
    steps: int
    complexity: ComplexityRecord
    timing: TimingRecord | None = None
    training: TrainingRecord | None
    more: tuple[TrainingRecord, ...] = ()
    rd: RdRecord
    rungs: tuple[Rung, ...] = ()
    violations: dict[str, float] = Field(default_factory=dict)

    @property
    def variant(self) -> VariantConfig:
        """The codec's configuration, validated."""
        return VariantConfig.parse(self.config)

    def lagrangian_percent(self, baseline: TrialRecord) -> float:
        """Return by how many percent the Lagrangian cost is above the baseline's."""
        return lagrangian_percent(baseline.rd, self.rd, lambdas=self.lambdas)

    def bd_rate_percent(self, baseline: TrialRecord) -> float:
        """Return the BD-rate against the baseline.

        Raises:
            LabError: the curves do not compare.
        """
        return 0.0 if self is baseline else bd_rate(baseline.rd.curve(), self.rd.curve()).percent

    @property
    def feasible(self) -> bool:
        """Whether every soft constraint is kept."""
        return all(value <= 0 for value in self.violations.values())


def baseline_of(records: Sequence[TrialRecord]) -> TrialRecord:
    """Return the first training of the baseline.

    Raises:
        LabError: the baseline has not been trained yet.
    """
    found = next((record for record in records if record.is_baseline), None)
    if found is None:
        raise LabError("the baseline is not trained yet, so there is nothing to compare with")
    return found


def objective_losses(
    records: Sequence[TrialRecord], baseline: TrialRecord, space: Space
) -> list[float]:
    """Return a variant's objectives as numbers to be minimised, means over its trainings.

    An objective that a training does not have, such as a BD-rate without overlap, is NaN.
    """
    losses = []
    for metric in (METRICS[name] for name in space.objectives):
        values = [metric.known(record, baseline) for record in records]
        losses.append(fmean(math.nan if v is None else metric.loss(v) for v in values))
    return losses


def training_identity(
    fingerprint: str,
    recipe: Recipe,
    train_data: str,
    eval_data: str,
    *,
    requested: Sequence[str] = (),
) -> str:
    """Return sixteen hex digits, equal for trainings that would give the same record.

    A recipe's name and how often it saves its state change nothing.
    """
    facts: dict[str, Any] = {
        "codec": fingerprint,
        "recipe": recipe.identity(),
        "train": train_data,
        "eval": eval_data,
    }
    if requested:  # metrics that other records of this training don't have
        facts["metrics"] = sorted(requested)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
