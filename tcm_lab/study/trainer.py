"""The real trainer: trains a codec on crops, evaluates written bits, stops at rungs if asked to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tcm_lab.codec import Codec, build
from tcm_lab.data import CropSource
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdRecord, evaluate
from tcm_lab.study.context import StudyData, Task, Watch
from tcm_lab.study.record import Outcome
from tcm_lab.training import TrainingProgress, train


@dataclass(frozen=True)
class CodecTrainer:
    """Trains and evaluates on a study's images."""

    data: StudyData

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        """Train and evaluate one codec; see ``Trainer``."""
        recipe = task.recipe
        codec = build(task.config, seed=recipe.seed)
        crops = CropSource(self.data.train, crop=recipe.crop, seed=recipe.seed)

        def on_progress(progress: TrainingProgress) -> None:
            if progress.phase:
                watch.progress(0, progress.text)
                return
            watch.progress(progress.step, progress.text)
            if progress.step in task.rungs:
                rd = self._evaluate(codec, task, watch, progress.step)
                codec.train()
                if not watch.rung(progress.step, rd):
                    raise _StoppedError(rd, progress.step)

        try:
            training = train(
                codec,
                recipe,
                crops,
                directory=task.directory,
                resume=True,
                on_progress=on_progress,
                cache=task.directory.parent,
            )
            rd = self._evaluate(codec, task, watch, recipe.steps)
        except _StoppedError as stop:
            return Outcome(training=None, rd=stop.rd, steps=stop.step)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise LabError(
                f"out of memory ({str(error).splitlines()[0] if str(error) else 'host'})"
            ) from error
        return Outcome(training=training, rd=rd, steps=recipe.steps)

    def _evaluate(self, codec: Codec, task: Task, watch: Watch, step: int) -> RdRecord:
        def on_progress(done: int, total: int) -> None:
            watch.progress(step, f"coding image {done} of {total}")

        return evaluate(codec, self.data.evaluation, name=task.config.name, on_progress=on_progress)


class _StoppedError(Exception):
    """Training was stopped at a rung."""

    def __init__(self, rd: RdRecord, step: int) -> None:
        super().__init__(step)
        self.rd, self.step = rd, step
