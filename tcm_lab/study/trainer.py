"""The real trainer: trains a codec on crops, stops at rungs if told to, evaluates written bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tcm_lab.codec import build
from tcm_lab.data import CropSource, ImageSet, open_images
from tcm_lab.evaluation import evaluate
from tcm_lab.study.plan import CannotTrainError, Task, Watch
from tcm_lab.study.record import Outcome
from tcm_lab.training import DivergedError, TrainingProgress, train


@dataclass
class CodecTrainer:
    """Trains and evaluates on folders of images, or on the embedded ones.

    Attributes:
        data: folder of training images; ``None`` for the embedded ones.
        eval_data: folder of evaluation images; likewise.
        accelerator: as Lightning Fabric takes it.
    """

    data: Path | None = None
    eval_data: Path | None = None
    accelerator: str = "auto"
    _opened: dict[str, ImageSet] = field(default_factory=dict, repr=False)

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        """Train and evaluate one codec; see ``Trainer``."""
        recipe = task.recipe
        codec = build(task.config, seed=recipe.seed)
        crops = CropSource(self.images("train"), crop=recipe.crop, seed=recipe.seed)
        listener = _Listener(self, codec, task, watch)
        try:
            training = train(
                codec,
                recipe,
                crops,
                directory=task.directory,
                resume=True,
                on_progress=listener,
                accelerator=self.accelerator,
            )
            rd = self.evaluated(codec, task, watch, recipe.steps)
        except _StoppedError as stop:
            return Outcome(training=None, rd=stop.rd, steps=stop.step)
        except DivergedError as error:
            raise CannotTrainError(str(error)) from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise CannotTrainError(
                f"out of memory ({str(error).splitlines()[0] if str(error) else 'host'})"
            ) from error
        return Outcome(training=training, rd=rd, steps=recipe.steps)

    def images(self, role: Any) -> ImageSet:
        """Return the training or evaluation images, opened once."""
        if role not in self._opened:
            self._opened[role] = open_images(self.data if role == "train" else self.eval_data, role)
        return self._opened[role]

    def evaluated(self, codec: Any, task: Task, watch: Watch, step: int) -> Any:
        """Evaluate the codec as it is."""
        note = partial(_note_image, watch, step)
        return evaluate(codec, self.images("eval"), name=task.config.name, on_progress=note)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": {}}


class _StoppedError(Exception):
    """Training was told to stop at a rung."""

    def __init__(self, rd: Any, step: int) -> None:
        super().__init__(step)
        self.rd, self.step = rd, step


class _Listener:
    """Passes progress on, and evaluates at rungs."""

    def __init__(self, trainer: CodecTrainer, codec: Any, task: Task, watch: Watch) -> None:
        self.trainer, self.codec, self.task, self.watch = trainer, codec, task, watch

    def __call__(self, progress: TrainingProgress) -> None:
        self.watch.progress(progress.step, progress.text)
        if progress.step in self.task.rungs:
            rd = self.trainer.evaluated(self.codec, self.task, self.watch, progress.step)
            self.codec.train()
            if not self.watch.rung(progress.step, rd):
                raise _StoppedError(rd, progress.step)


def _note_image(watch: Watch, step: int, done: int, of: int) -> None:
    watch.progress(step, f"coding image {done} of {of}")
