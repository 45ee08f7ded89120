"""What every worker of a study is told, and what it tells: plain values that cross processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tcm_lab.codec import VariantConfig
from tcm_lab.evaluation import RdRecord
from tcm_lab.study.record import Outcome
from tcm_lab.study.space import Space
from tcm_lab.training import Recipe


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        config: the codec.
        recipe: how to train it.
        directory: where its state, weights and records go; a training that is found there goes on.
        rungs: steps at which to evaluate on the way.
    """

    config: VariantConfig
    recipe: Recipe
    directory: Path
    rungs: tuple[int, ...]


class Watch(Protocol):
    """Who is told how a training goes."""

    def progress(self, step: int, text: str) -> None:
        """Note that ``step`` steps are done."""

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Judge an evaluation on the way; return whether training goes on."""


class Trainer(Protocol):
    """What trains and evaluates: the real one, or a surrogate of the same shape."""

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        """Train and evaluate one codec.

        Raises:
            CannotTrainError: this variant can't be trained; others may.
        """


class CannotTrainError(Exception):
    """A variant that can't be trained, and why; the study goes on without it."""


@dataclass(frozen=True)
class Plan:
    """A study as its workers see it.

    Attributes:
        space: what is searched.
        out: the study's folder.
        storage: address of the database.
        name: of the study in it.
        train_data: fingerprint of the training images.
        eval_data: fingerprint of the evaluation images.
        trainer: what trains.
        trials: variants to train, where the space is not enumerated.
        seeds: trainings of a promising variant.
        cache: folder of records that studies share, if any.
        threads: of each worker, on the CPU.
    """

    space: Space
    out: Path
    storage: str
    name: str
    train_data: str
    eval_data: str
    trainer: Trainer
    trials: int | None
    seeds: int
    cache: Path | None
    threads: int


Kind = Literal["started", "progress", "complete", "known", "stopped", "failed", "waiting", "killed"]


@dataclass(frozen=True)
class Event:
    """What a worker tells.

    Attributes:
        kind: what happened; ``known`` is a training whose record was there already.
        worker: which worker.
        number: of the trial.
        label: of the variant.
        step: training steps done.
        steps: training steps to do.
        text: figures, or the reason.
    """

    kind: Kind
    worker: int
    number: int = -1
    label: str = ""
    step: int = 0
    steps: int = 0
    text: str = ""


Tell = Callable[[Event], None]
