"""What every worker of a study is given, and what it reports back; all of it crosses processes."""

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

    def crops(self, recipe: Recipe) -> CropSource:
        """Return the crops that a training by ``recipe`` sees, in its order."""
        return CropSource(self.train, crop=recipe.crop, seed=recipe.seed)


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

    @property
    def trials_folder(self) -> Path:
        """Where every trial has a folder, by its identity; they may share files beside these."""
        return self.out / TRIALS

    def task(self, variant: Variant, seed: int, estimator: Estimator) -> Task:
        """Return what is to be done for a variant; its folder's name is the work's identity."""
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

    def baseline_task(self, beside: Task, estimator: Estimator) -> Task:
        """Return what is to be done for the baseline, with another task's seed."""
        return self.task(self.variants.baseline(), beside.recipe.seed - self.space.seed, estimator)

    def find_record(self, identity: str, estimator: Estimator) -> TrialRecord | None:
        """Return the record of a finished task, of this study or one that shares its cache."""
        found = (read_kept(path, TrialRecord) for path in self._places(identity, estimator))
        return next((record for record in found if record and record.identity == identity), None)

    def keep_record(self, record: TrialRecord) -> None:
        """Write a training's record; one that was stopped is not shared with other studies.

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
        # An estimate that needs the baseline's files stays in their study.
        if self.cache is None or estimator.baseline_first:
            return [own]
        return [own, self.cache / f"{identity}.json"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process import the user's layers before it unpickles what is made of them."""
        return _unpacked, (self.space.imports, pickle.dumps(self.__dict__))


def _unpacked(imports: tuple[str, ...], fields: bytes) -> StudyContext:
    import_layers(imports)
    return StudyContext(**pickle.loads(fields))


EventKind = Literal[
    "started", "progress", "complete", "known", "stopped", "failed", "waiting", "aside", "killed"
]


@dataclass(frozen=True)
class Event:
    """What a worker reports.

    Attributes:
        kind: what happened; ``known`` is a training whose record existed already, ``aside`` one
            that another worker is at, too.
        worker: which worker.
        label: of the variant.
        step: training steps done.
        steps: training steps in all.
        text: metrics, or the reason.
        finalist: whether it is a training of what a search by another estimator has chosen.
        finalists: how many such trainings the study ends with.
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
