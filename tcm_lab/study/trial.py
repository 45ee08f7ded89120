"""One trial of a study as stored in the database: its key and its typed attributes."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from tcm_lab._utils import Frozen
from tcm_lab.metrics import Number
from tcm_lab.study.record import TrialRecord


def key_of(fingerprint: str, seed: int, *, finalist: bool = False) -> str:
    """Return the key of one training."""
    return f"{fingerprint}-s{seed}{'-finalist' if finalist else ''}"


class TrialAttributes(Frozen):
    """The user attributes of a trial."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    key: str | None = None
    """Key of the training; a sampled trial has none until its codec is built."""
    seed: int = 0
    """Seed of the training."""
    baseline: bool = False
    """Whether it trains the base."""
    finalist: bool = False
    """Whether it trains a finalist of a search by another estimator."""
    begun: bool = False
    """Whether an earlier trial has begun this training."""
    retries: int = 0
    """How often this training was lost with its worker."""
    rungs: dict[int, float] = Field(default_factory=dict)
    """Mean log Lagrangian cost of evaluations during training, by step."""
    owner: str | None = None
    """The process that took it, and the queue in that process."""
    label: str = ""
    """Label of the variant in tables."""
    cost: dict[str, Number] = Field(default_factory=dict)
    """Metrics that are known before training."""
    discarded: str | None = None
    """Why it did not become a training."""
    reason: str | None = None
    """Why the variant can't be trained."""
    out_of_memory: bool = False
    """Whether it ran out of memory, so that the next run tries it again."""
    record: TrialRecord | None = None
    """The finished training."""


class StudyTrial(TrialAttributes):
    """A trial of the database with its typed attributes."""

    number: int
    """Its number in the study."""
    state: Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]
    """State of the trial, as named by Optuna."""

    @property
    def is_lost(self) -> bool:
        """Whether it ended without a result, so that its training is open again."""
        return self.state == "FAIL" and self.reason is None
