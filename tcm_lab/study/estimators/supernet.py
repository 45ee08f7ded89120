"""``supernet``: one set of weights is trained for all variants; each is cut out and evaluated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tcm_lab import training
from tcm_lab._utils.files import write_atomically
from tcm_lab.codec import VariantConfig
from tcm_lab.complexity import measure_complexity
from tcm_lab.data import CropSource
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.study.estimators.base import (
    Estimate,
    Estimator,
    Outcome,
    Task,
    Watch,
    register_estimator,
)
from tcm_lab.study.estimators.middles import MiddleCost, middle_cost, sd_over_images
from tcm_lab.training import OnProgress, Recipe, TrainingProgress

if TYPE_CHECKING:
    from tcm_lab.study.axes import Key
    from tcm_lab.study.context import StudyContext
    from tcm_lab.training import SuperNet

_MEMBERS = 256  # that are drawn from a large space to be trained
_NEAR = 64  # of these, neighbours of the baseline
_SIZE = (256, 256)  # that MACs are counted for, to order the members by


@register_estimator("supernet")
class Supernet(Estimator):
    """Trains one set of weights for all variants, cuts each one out, and evaluates it.

    The budget's recipe trains the shared weights; a step trains the largest variant, the smallest
    and two others. Evaluations are of estimated bits on the middle of each evaluation image.

    Attributes:
        distillation: share of the distortion against the largest variant's images.
        tune: updates of each variant alone, before it is evaluated.
        crop: side of the middle that is evaluated, in pixels.
    """

    type: str = "supernet"
    bias = (
        "favours variants that agree with the largest one, and shows small ones as their share of "
        "common weights rather than as trained alone"
    )
    over = "images"
    baseline_first = True

    distillation: float = Field(default=0.5, ge=0, le=1)
    tune: int = Field(default=0, ge=0, le=10**9)
    crop: int = Field(default=256, gt=0, le=2**16)

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse a base whose rates have weights of their own: one set must serve them all."""
        if not base.rate_levels:
            raise ConfigError(
                "estimator supernet: needs one set of weights for all rates; set "
                "budget.rate_levels to 2 or more"
            )

    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Cut out a variant and evaluate it; with the baseline, train the weights first."""
        seed = task.recipe.seed - context.space.seed
        baseline = context.task(context.variants.baseline(), seed, self)
        path = baseline.directory.parent / f"supernet-{baseline.directory.name}.safetensors"
        if not path.exists():
            self._train(baseline, path, context, watch)
        codec = _loaded(str(path), path.stat().st_mtime_ns).codec(task.config)
        if self.tune:
            training.train(
                codec,
                _tuning(task.recipe, self.tune),
                CropSource(context.data.train, crop=task.recipe.crop, seed=task.recipe.seed),
                directory=task.directory / "tune",
                resume=True,
                on_progress=_report(watch, "tuning"),
            )
        images, lambdas = context.data.evaluation, task.recipe.lambdas
        cost, kept = middle_cost(codec, images, lambdas, crop=self.crop), path.with_suffix(".json")
        if task.directory == baseline.directory:
            write_atomically(kept, cost.model_dump_json() + "\n")
        apart = cost.shares - MiddleCost.model_validate_json(kept.read_bytes()).shares
        estimate = Estimate(log_cost=cost.log_cost, sd_percent=sd_over_images(apart))
        return Outcome(estimate=estimate, steps=task.recipe.steps)

    def _train(self, task: Task, path: Path, context: StudyContext, watch: Watch) -> None:
        recipe, configs = task.recipe, _by_size(_members(context))
        supernet = training.SuperNet(configs)
        training.train_supernet(
            supernet,
            recipe,
            CropSource(context.data.train, crop=recipe.crop, seed=recipe.seed),
            distillation=self.distillation,
            directory=task.directory / "supernet",
            on_progress=_report(watch, f"supernet of {len(configs)}"),
            cache=task.directory.parent,
        )
        supernet.save(path)


@lru_cache(maxsize=1)
def _loaded(path: str, _: int) -> SuperNet:
    """Return the weights in a file, read anew where it was written anew."""
    return training.SuperNet.load(Path(path))


def _tuning(recipe: Recipe, steps: int) -> Recipe:
    return recipe.changed(
        steps=steps, warmup=min(recipe.warmup, steps // 10), start="none", linear_steps=0, ema=0.0
    )


def _report(watch: Watch, what: str) -> OnProgress:
    def on_progress(progress: TrainingProgress) -> None:
        watch.progress(0 if progress.phase else progress.step, f"{what}: {progress.text}")

    return on_progress


def _members(context: StudyContext) -> list[VariantConfig]:
    """Return what is trained: every variant of a small space, or some of a large one.

    Raises:
        LabError: one set of weights cannot serve them.
    """
    variants, space = context.variants, context.space
    found = [
        variant.config
        for variant in variants.different(_points(context))
        if variant.is_baseline or not space.constraints or not variants.exceeded(variant)
    ]
    if len(found) < 2:
        raise LabError("supernet: the space has no variant beside the baseline to share with.")
    return found


def _points(context: StudyContext) -> Iterator[Mapping[str, Key]]:
    variants = context.variants
    baseline, count = variants.baseline().params, variants.count()
    yield baseline
    if count is not None and count <= _MEMBERS:
        yield from variants.points()
        return
    rng = random.Random(f"supernet {context.space.seed}")
    for _ in range(_NEAR):
        yield variants.neighbour(baseline, rng)
    for _ in range(_MEMBERS - _NEAR):
        yield variants.draw(rng)


def _by_size(configs: Sequence[VariantConfig]) -> list[VariantConfig]:
    return sorted(configs, key=lambda config: measure_complexity(config, _SIZE).kmacs_per_px)
