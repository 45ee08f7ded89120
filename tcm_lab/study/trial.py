"""One trial of a study as the database holds it: its key and its typed attributes."""

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
    """What a trial's user attributes hold."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    key: str | None = None
    """What is trained; a sampled trial has none until its codec is built."""
    seed: int = 0
    """Of the training."""
    baseline: bool = False
    """Whether it trains the base."""
    finalist: bool = False
    """Whether it trains what a search by another estimator has chosen."""
    begun: bool = False
    """Whether an earlier trial has begun this training."""
    retries: int = 0
    """How often this training was lost with its worker."""
    rungs: dict[int, float] = Field(default_factory=dict)
    """Mean log Lagrangian cost by step, of evaluations on the way."""
    owner: str | None = None
    """The process that took it, and which of its queues."""
    label: str = ""
    """What tables call the variant."""
    cost: dict[str, Number] = Field(default_factory=dict)
    """Metrics that are known before training."""
    discarded: str | None = None
    """Why it is not a training after all."""
    reason: str | None = None
    """Why the variant can't be trained."""
    out_of_memory: bool = False
    """Whether it failed for lack of memory, so that the next call tries it again."""
    record: TrialRecord | None = None
    """The finished training."""


class StudyTrial(TrialAttributes):
    """A trial of the database with its typed attributes."""

    number: int
    """Its place in the study."""
    state: Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]
    """As Optuna names it."""

    @property
    def is_lost(self) -> bool:
        """Whether it ended without a result, so that its training is open again."""
        return self.state == "FAIL" and self.reason is None
