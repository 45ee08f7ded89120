"""The real trainer: trains a codec on crops, evaluates written bits, and may stop at rungs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from tcm_lab import codec as codecs
from tcm_lab import evaluation, training
from tcm_lab.data import CropSource
from tcm_lab.evaluation import RdRecord, join_records
from tcm_lab.study.context import StudyData
from tcm_lab.study.estimators import Outcome, Task, Watch
from tcm_lab.training import Recipe, TrainingProgress


@dataclass(frozen=True)
class CodecTrainer:
    """Trains and evaluates on a study's images; ``requested`` names additional metrics."""

    data: StudyData
    requested: tuple[str, ...] = ()

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        """Train and evaluate one codec, or one set of weights per lambda; see ``Trainer``."""
        if task.config.rate_levels:
            return self._train(task, watch, task.directory.parent)
        recipes, outcomes = task.recipe.per_lambda(), list[Outcome]()
        for done, recipe in enumerate(recipes):
            folder = task.directory / f"lambda-{recipe.lambdas[0]:g}"
            own = replace(task, recipe=recipe, directory=folder)
            share = _Share(watch, done, len(recipes), recipe.steps)
            outcomes.append(self._train(own, share, task.directory.parent))
        first, *others = (o.training for o in outcomes if o.training is not None)
        return Outcome(
            training=first,
            more=tuple(others),
            rd=join_records([outcome.rd for outcome in outcomes if outcome.rd is not None]),
            steps=task.recipe.steps,
        )

    def _train(self, task: Task, watch: Watch, cache: Path) -> Outcome:
        """Train and evaluate one set of weights; trainings share their linear phases in a cache."""
        recipe = task.recipe
        codec = codecs.build(task.config, seed=recipe.seed)
        crops = self.data.crops(recipe)
        branches = _branches(task)

        def judge(step: int, rd: RdRecord) -> None:
            if not watch.rung(step, rd):
                raise _StoppedError(rd, step)

        def on_progress(progress: TrainingProgress) -> None:
            if progress.phase:
                watch.progress(0, progress.text)
                return
            step = progress.step
            watch.progress(step, progress.text)
            for folder, shorter in branches.items():
                if step == shorter.cooldown_begins:
                    judge(shorter.steps, self._cool_down(task, watch, shorter, folder, crops))
            if step in task.rungs and not branches:
                judge(step, self._evaluate(codec, task, watch, step))
                codec.train()

        try:
            trained = training.train(
                codec,
                recipe,
                crops,
                directory=task.directory,
                resume=True,
                on_progress=on_progress,
                cache=cache,
                branches=branches,
            )
            rd = self._evaluate(codec, task, watch, recipe.steps, trained.recipe)
        except _StoppedError as stop:
            return Outcome(training=None, rd=stop.rd, steps=stop.step)
        return Outcome(training=trained, rd=rd, steps=recipe.steps)

    def _cool_down(
        self, task: Task, watch: Watch, recipe: Recipe, folder: Path, crops: CropSource
    ) -> RdRecord:
        """Run the cooldown of a training of fewer steps, and return its evaluation."""
        codec = codecs.build(task.config, seed=recipe.seed)
        training.train(codec, recipe, crops, directory=folder, resume=True)
        return self._evaluate(codec, task, watch, recipe.steps, recipe)

    def _evaluate(
        self, codec: nn.Module, task: Task, watch: Watch, step: int, recipe: Recipe | None = None
    ) -> RdRecord:
        def on_progress(done: int, total: int) -> None:
            watch.progress(step, f"coding image {done} of {total}")

        images, name = self.data.evaluation, task.config.name
        return evaluation.evaluate(
            codec, images, name=name, recipe=recipe, metrics=self.requested, on_progress=on_progress
        )


def _branches(task: Task) -> dict[Path, Recipe]:
    """Return the shorter trainings that end at the rungs, by folder, for a constant schedule."""
    if task.recipe.schedule != "constant":
        return {}
    return {
        task.directory / f"steps-{step}": task.recipe.changed(steps=step) for step in task.rungs
    }


@dataclass(frozen=True)
class _Share:
    """Reports the progress of one of several trainings as a share of the whole."""

    watch: Watch
    done: int
    whole: int
    steps: int

    def progress(self, step: int, text: str) -> None:
        """Report that ``step`` steps of this training are done."""
        step = (self.done * self.steps + step) // self.whole
        self.watch.progress(step, f"training {self.done + 1} of {self.whole}, {text}")

    def rung(self, step: int, rd: RdRecord) -> bool:
        """Judge an evaluation at a rung; spaces refuse rungs for trainings at a single rate."""
        return self.watch.rung(step, rd)


class _StoppedError(Exception):
    """Training was stopped at a rung."""

    def __init__(self, rd: RdRecord, step: int) -> None:
        super().__init__(step)
        self.rd, self.step = rd, step
