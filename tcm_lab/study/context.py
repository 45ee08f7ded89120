"""What every worker of a study is given, and what it reports back; all of it crosses processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tcm_lab._utils.plugins import import_layers
from tcm_lab.codec import VariantConfig
from tcm_lab.data import ImageSet
from tcm_lab.evaluation import RdRecord
from tcm_lab.study.record import Outcome
from tcm_lab.study.space import Space
from tcm_lab.study.variants import Variants
from tcm_lab.training import Recipe


@dataclass(frozen=True)
class StudyData:
    """The images of a study, found and checked once."""

    train: ImageSet
    evaluation: ImageSet

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a training's identity holds of each set of images."""
        leaves = "+leaves" if self.train.embedded else ""
        return {
            "training images": f"{self.train.fingerprint}{leaves}",
            "evaluation images": self.evaluation.fingerprint,
        }


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        config: the codec.
        recipe: how to train it.
        directory: where its state, weights and records go; a training found there is resumed.
        rungs: steps at which to evaluate on the way.
    """

    config: VariantConfig
    recipe: Recipe
    directory: Path
    rungs: tuple[int, ...]


class Watch(Protocol):
    """Callbacks of a training."""

    def progress(self, step: int, text: str) -> None:
        """Note that ``step`` steps are done."""

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Judge an evaluation on the way; return whether training goes on."""


class Trainer(Protocol):
    """What trains and evaluates: the real one, or a surrogate of the same shape."""

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        """Train and evaluate one codec.

        Raises:
            FileError: a file or the disk fails, so no other variant can be trained either.
            LabError: this variant can't be trained; others may.
        """


@dataclass(frozen=True)
class StudyContext:
    """A study as its workers see it, made once.

    Attributes:
        variants: of the space: its base, loaded, and the costs that are counted already.
        data: training and evaluation images.
        out: the study's folder.
        storage: address of the database.
        name: of the study in it.
        trainer: what trains.
        trials: variants to train, where the space is not enumerated.
        cache: folder of records that studies share, if any.
        threads: of each worker, on the CPU.
    """

    variants: Variants
    data: StudyData
    out: Path
    storage: str
    name: str
    trainer: Trainer
    trials: int
    cache: Path | None = None
    threads: int = 1

    @property
    def space(self) -> Space:
        """What is searched."""
        return self.variants.space

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process import the user's layers before it unpickles what is made of them."""
        return _unpacked, (self.space.imports, pickle.dumps(self.__dict__))


def _unpacked(imports: tuple[str, ...], fields: bytes) -> StudyContext:
    import_layers(imports)
    return StudyContext(**pickle.loads(fields))


EventKind = Literal[
    "started", "progress", "complete", "known", "stopped", "failed", "waiting", "killed"
]


@dataclass(frozen=True)
class Event:
    """What a worker reports.

    Attributes:
        kind: what happened; ``known`` is a training whose record existed already.
        worker: which worker.
        label: of the variant.
        step: training steps done.
        steps: training steps in all.
        text: metrics, or the reason.
    """

    kind: EventKind
    worker: int
    label: str = ""
    step: int = 0
    steps: int = 0
    text: str = ""


OnEvent = Callable[[Event], None]
