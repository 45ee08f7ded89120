"""``supernet``: trains one set of weights for all variants; each is cut out and evaluated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tcm_lab import codec as codecs
from tcm_lab import training
from tcm_lab._utils.digests import digest
from tcm_lab._utils.files import write_atomically
from tcm_lab.codec import VariantConfig
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import FileError, LabError
from tcm_lab.study.estimators.base import (
    Estimate,
    Estimator,
    Outcome,
    Task,
    Watch,
    check_one_set_of_weights,
    register_estimator,
)
from tcm_lab.study.estimators.middles import MiddleCost, middle_cost, sd_over_images
from tcm_lab.study.folder import read_kept
from tcm_lab.study.spending import CpuTime
from tcm_lab.training import OnProgress, Recipe, TrainingProgress

if TYPE_CHECKING:
    from tcm_lab.study.axes import Key
    from tcm_lab.study.context import StudyContext
    from tcm_lab.training import SuperNet

_MEMBERS = 256  # variants to draw from a large space for training
_NEAR = 64  # of these, neighbours of the baseline
_DECIDING = {"axes", "mode", "constraints", "size", "seed"}  # fields that determine the variants
_SIZE = (256, 256)  # image size for the MACs that order the members


@register_estimator("supernet")
class Supernet(Estimator):
    """Trains one set of weights for all variants, cuts each one out, and evaluates it.

    The budget's recipe trains the shared weights; each step trains the largest variant, the
    smallest and two others. Options that can't be cut from one layer, such as two blocks, have
    separate weights. A recipe's linear phase is left out if the largest variant has no shortcut.
    Evaluations use estimated bits on the centre crop of each image.

    Attributes:
        steps: updates of the shared weights, instead of the budget's.
        distillation: share of the distortion measured against the largest variant's images.
        tune: updates of each variant alone, before it is evaluated.
        crop: side of the centre crop, in pixels.
    """

    type: str = "supernet"
    bias = (
        "favours variants similar to the largest one, shows small ones with shared weights rather "
        "than as trained alone, and trains options with separate weights only in steps that draw "
        "them"
    )
    over = "images"
    baseline_first = True

    steps: int | None = Field(default=None, gt=0, le=10**9)
    distillation: float = Field(default=0.5, ge=0, le=1)
    tune: int = Field(default=0, ge=0, le=10**9)
    crop: int = Field(default=256, gt=0, le=2**16)

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse a base whose rates have separate weights: one set must serve them all."""
        check_one_set_of_weights(self.type, base)

    def check_variant(self, base: VariantConfig, variant: VariantConfig) -> None:
        """Refuse a variant that cannot share one set of weights with the base."""
        codecs.check_shared((base, variant))

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the budget's recipe with the steps of the shared weights."""
        return recipe if self.steps is None else recipe.changed(steps=self.steps)

    def identity(self) -> dict[str, Any]:
        """Return all options but ``steps``, which the recipe contains."""
        return self.model_dump(mode="json", exclude={"steps"})

    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Cut out a variant and evaluate it; train the shared weights first if there are none."""
        baseline = context.baseline_task(task, self)
        is_baseline = task.directory == baseline.directory
        weights, folder = self._places(context, task.recipe)
        is_reused = is_baseline and weights.exists() and not folder.exists()
        if not weights.exists():
            self._train(weights, task.recipe, folder, context, watch)
        codec = _loaded(str(weights), weights.stat().st_mtime_ns).codec(task.config)
        if self.tune:
            training.train(
                codec,
                _tuning(task.recipe, self.tune),
                context.data.crops(task.recipe),
                directory=task.directory / "tune",
                resume=True,
                on_progress=_report(watch, "tuning"),
            )
        images, lambdas = context.data.evaluation, task.recipe.lambdas
        cost = middle_cost(codec, images, lambdas, crop=self.crop)
        kept = baseline.directory / "cost.json"
        if is_baseline:
            write_atomically(kept, cost.model_dump_json() + "\n")
        base = read_kept(kept, MiddleCost)
        if base is None:
            raise FileError(
                f"{kept}: the baseline's cost, which all are compared with, is missing. Restore "
                "it, or start over in another folder with --out."
            )
        spread = sd_over_images(cost.shares - base.shares)
        estimate = Estimate(log_cost=cost.log_cost, sd_percent=spread)
        spent = codecs.read_extra(weights) if is_reused else {}
        reused_s = float(spent.get("cpu_s", 0.0))  # missing in files from earlier versions
        return Outcome(estimate=estimate, steps=task.recipe.steps, reused_s=reused_s)

    def _places(self, context: StudyContext, recipe: Recipe) -> tuple[Path, Path]:
        """Return the file of the shared weights, and the folder in which this study trains them.

        Both are named by everything that determines the weights, and nothing else.
        """
        facts = {
            "recipe": recipe.identity(),
            "distillation": self.distillation,
            "train": context.data.fingerprints["training images"],
            "base": context.variants.base.fingerprint,
            "space": context.space.model_dump(mode="json", include=_DECIDING),
        }
        name = f"supernet-{digest(facts)}"
        path = (context.cache or context.trials_folder) / f"{name}.safetensors"
        return path, context.trials_folder / name

    def _train(
        self, path: Path, recipe: Recipe, folder: Path, context: StudyContext, watch: Watch
    ) -> None:
        spent = CpuTime(folder / "supernet_cpu_s.txt")
        try:
            members, others = _variants(context)
            by_size = sorted(members, key=lambda c: measure_complexity(c, _SIZE).kmacs_per_px)
            supernet = training.SuperNet(by_size, others)
            training.train_supernet(
                supernet,
                recipe,
                context.data.crops(recipe),
                distillation=self.distillation,
                directory=folder,
                on_progress=_report(watch, f"supernet of {len(members)}", spent),
            )
        finally:
            spent.keep()
        supernet.save(path, cpu_s=spent.total_s)


@lru_cache(maxsize=1)
def _loaded(path: str, _: int) -> SuperNet:
    """Return the weights in a file, which is read again if it was rewritten."""
    return training.SuperNet.load(Path(path))


def _tuning(recipe: Recipe, steps: int) -> Recipe:
    warmup = min(recipe.warmup, steps // 10)
    return recipe.without_start().changed(steps=steps, warmup=warmup, ema=0.0)


def _report(watch: Watch, what: str, spent: CpuTime | None = None) -> OnProgress:
    def on_progress(progress: TrainingProgress) -> None:
        if spent is not None:
            spent.keep_at_times()
        watch.progress(0 if progress.phase else progress.step, f"{what}: {progress.text}")

    return on_progress


def _variants(context: StudyContext) -> tuple[list[VariantConfig], list[VariantConfig]]:
    """Return the variants to train (all of a small space, some of a large one), and others.

    The others violate a constraint and are not trained; they only show how large layers may be.

    Raises:
        LabError: there is no variant to train besides the baseline.
    """
    variants, space = context.variants, context.space
    members, others = list[VariantConfig](), list[VariantConfig]()
    for variant in variants.different(_points(context)):
        is_over = bool(space.constraints) and bool(variants.exceeded(variant))
        (others if is_over and not variant.is_baseline else members).append(variant.config)
    if len(members) < 2:
        raise LabError("supernet: the space has no variant besides the baseline to share with.")
    return members, others


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
