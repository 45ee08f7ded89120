"""Inputs of a study's workers, and the events they report; all are sent between processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.plugins import import_layers
from tcm_lab.data import CropSource, ImageSet
from tcm_lab.study.estimators import Estimator, Outcome, Task, Watch
from tcm_lab.study.folder import TRIALS, read_kept
from tcm_lab.study.record import TrialRecord, training_identity
from tcm_lab.study.space import Space
from tcm_lab.study.variants import Variant, Variants
from tcm_lab.training import Recipe

_RECORD_FILE = "record.json"


@dataclass(frozen=True)
class StudyData:
    """The images of a study, opened and checked once."""

    train: ImageSet
    evaluation: ImageSet

    @property
    def fingerprints(self) -> dict[str, str]:
        """Identifiers of the image sets, as used in a training's identity."""
        leaves = "+leaves" if self.train.embedded else ""
        return {
            "training images": f"{self.train.fingerprint}{leaves}",
            "evaluation images": self.evaluation.fingerprint,
        }

    def crops(self, recipe: Recipe) -> CropSource:
        """Return the crops of a training by ``recipe``, in training order."""
        return CropSource(self.train, crop=recipe.crop, seed=recipe.seed)


class Trainer(Protocol):
    """Trains and evaluates codecs: ``CodecTrainer``, or a surrogate with the same interface."""

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        """Train and evaluate one codec.

        Raises:
            FileError: a file or the disk fails, so no other variant can be trained either.
            LabError: this variant can't be trained; others may be.
        """


@dataclass(frozen=True)
class StudyContext:
    """Everything that a study's workers need, prepared once.

    Attributes:
        variants: the space's variants, with its loaded base and the costs counted so far.
        data: training and evaluation images.
        out: folder of the study.
        storage: address of the database.
        name: name of the study in the database.
        trainer: trains and evaluates codecs.
        trials: number of variants to train, if the space is not enumerated.
        cache: folder of records shared between studies, if any.
        threads: CPU threads of each worker.
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
        """The search space."""
        return self.variants.space

    @property
    def trials_folder(self) -> Path:
        """Folder with a subfolder per trial, named by its identity, and files that trials share."""
        return self.out / TRIALS

    def task(self, variant: Variant, seed: int, estimator: Estimator) -> Task:
        """Return the task for a variant and seed; its folder is named by the work's identity."""
        recipe = estimator.recipe(self.variants.recipe(seed))
        prints = self.data.fingerprints.values()
        identity = training_identity(
            variant.fingerprint,
            recipe,
            *prints,
            requested=self.space.requested,
            estimator=estimator,
        )
        is_searched = estimator == self.space.estimator and estimator.trains
        rungs = self.space.rung_steps(recipe) if is_searched else ()
        return Task(variant.config, recipe, self.trials_folder / identity, rungs)

    def baseline_task(self, other: Task, estimator: Estimator) -> Task:
        """Return the baseline's task with the same seed as another task."""
        return self.task(self.variants.baseline(), other.recipe.seed - self.space.seed, estimator)

    def find_record(self, identity: str, estimator: Estimator) -> TrialRecord | None:
        """Return a finished task's record, from this study or the shared cache, or None."""
        records = (read_kept(path, TrialRecord) for path in self._places(identity, estimator))
        return next((record for record in records if record and record.identity == identity), None)

    def keep_record(self, record: TrialRecord) -> None:
        """Write a training's record, and share it with other studies unless it was stopped.

        Raises:
            LabError: a folder can't be written.
        """
        text = record.model_dump_json(indent=1) + "\n"
        own, *shared = self._places(record.identity, record.estimator)
        write_atomically(own, text)
        if record.state == "complete":
            for path in shared:
                write_atomically(path, text)

    def _places(self, identity: str, estimator: Estimator) -> list[Path]:
        own = self.trials_folder / identity / _RECORD_FILE
        # An estimate that depends on the baseline's files stays in its own study.
        if self.cache is None or estimator.baseline_first:
            return [own]
        return [own, self.cache / f"{identity}.json"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Make another process import the user's layers before it unpickles objects using them."""
        return _unpacked, (self.space.imports, pickle.dumps(self.__dict__))


def _unpacked(imports: tuple[str, ...], fields: bytes) -> StudyContext:
    import_layers(imports)
    return StudyContext(**pickle.loads(fields))


EventKind = Literal[
    "started", "progress", "complete", "known", "stopped", "failed", "waiting", "aside", "killed"
]


@dataclass(frozen=True)
class Event:
    """A report from a worker.

    Attributes:
        kind: what happened; ``known`` if the training's record already existed, ``aside`` if
            another process is running the training.
        worker: index of the worker.
        label: label of the variant.
        step: training steps done.
        steps: training steps in total.
        text: metrics, or the reason.
        finalist: whether the training is of a finalist of a search by another estimator.
        finalists: number of finalist trainings at the end of the study.
    """

    kind: EventKind
    worker: int
    label: str = ""
    step: int = 0
    steps: int = 0
    text: str = ""
    finalist: bool = False
    finalists: int = 0


OnEvent = Callable[[Event], None]
