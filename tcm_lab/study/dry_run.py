"""What a study would cost, before anything is trained."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean

import torch

from tcm_lab._utils.progress import duration
from tcm_lab.codec import VariantConfig, build
from tcm_lab.data import CropSource
from tcm_lab.errors import ConfigError
from tcm_lab.evaluation import evaluate
from tcm_lab.study.axes import Key
from tcm_lab.study.context import StudyContext, StudyData
from tcm_lab.study.run import cores, worker_count
from tcm_lab.study.variants import Variant, Variants
from tcm_lab.training import Recipe, train

_COUNT_S = 5.0
_FEW_POINTS = 2000
_IMAGES_STEPS, _WARM_UP_STEPS, _TIMED_STEPS = 6, 1, 3


def dry_run(context: StudyContext, workers: int | None = None) -> str:
    """Return a space's size, the baseline's cost, what the constraints leave, and the time needed.

    Nothing is trained or written; a few steps of a few variants are timed and forgotten.

    Args:
        context: the study.
        workers: processes that it would get.

    Raises:
        LabError: what would stop the study itself.
    """
    space, variants, recipe = context.space, context.variants, context.variants.recipe()
    budget, points, baseline = space.budget, variants.count(), variants.baseline()
    cost = variants.cost(baseline).metrics
    kept, left = _count(variants, points)
    trainings = len(kept) if space.enumerated else context.trials
    trainings *= budget.seeds if space.mode == "ablation" else 1
    if not budget.rate_levels:  # a training for each lambda, and a fraction of the coding
        trainings *= len(recipe.lambdas)
        recipe = recipe.per_lambda()[0]
    dearest = sorted([*kept, baseline], key=lambda v: variants.cost(v).complexity.kmacs_per_px)
    probes = {v.fingerprint: v.config for v in (baseline, dearest[0], dearest[-1])}
    with _alone():
        times = [_time_one(config, recipe, context.data) for config in probes.values()]
        phase_s = _time_phase(baseline.config, recipe, context.data)
    step_s, coding_s = (fmean(column) for column in zip(*times, strict=True))
    seconds = step_s * recipe.steps + coding_s * (1 + len(space.rung_steps))
    phases = _phases(kept) if space.enumerated else trainings
    count = min(worker_count(workers), trainings)
    slower = max(1.0, count / cores())  # workers share the cores that the timing had alone
    total = (seconds * -(-trainings // count) + phase_s * -(-phases // count)) * slower
    shared = (
        f" A linear phase of {duration(phase_s)} is shared by variants with one entropy model "
        f"({phases} at most)."
    )
    more = f", and more for {budget.seeds - 1} further seeds of each variant on the front"
    has_more = budget.seeds > 1 and space.mode != "ablation"
    return "\n".join((
        f"Space {space.name}: {'infinitely many' if points is None else f'{points:,}'} "
        f"combinations of {len(space.axes)} axes ({', '.join(space.axes)}), mode {space.mode}, "
        f"sampler {space.sampler}.",
        f"Baseline {baseline.config.name}: {cost['parameters']:,.0f} parameters, "
        f"{cost['kmacs_per_px']:.2f} kMAC/px (encode {cost['encode_kmacs_per_px']:.2f}, "
        f"decode {cost['decode_kmacs_per_px']:.2f}) at {space.size[0]}x{space.size[1]}.",
        left,
        f"Budget: {trainings} trainings of {recipe.steps:,} steps ({recipe.name}), each about "
        f"{duration(seconds)} alone on a core ({step_s:.3f} s a step, {coding_s:.0f} s of coding; "
        f"{len(times)} variants timed).{shared if phase_s else ''}",
        f"Estimated time: about {duration(total)} with {count} worker{'s' if count > 1 else ''}"
        f"{more if has_more else ''}. Nothing was trained.",
    ))  # fmt: skip


def _count(variants: Variants, points: int | None) -> tuple[list[Variant], str]:
    """Return the variants that keep the constraints, and a sentence about them.

    All are looked at, or as many as some seconds allow.

    Raises:
        ConfigError: the constraints leave nothing beside the baseline.
    """
    space, begun = variants.space, time.monotonic()
    listed = space.enumerated or (points is not None and points <= _FEW_POINTS)
    looked = over = 0

    def look() -> Iterator[dict[str, Key]]:
        nonlocal looked
        rng = random.Random(space.seed)
        draws = iter(lambda: variants.draw(rng), None)
        for params in variants.points() if listed else draws:
            if time.monotonic() - begun > _COUNT_S:
                return
            looked += 1
            yield params

    kept = []
    for variant in variants.different(look()):
        if variants.exceeded(variant) and not variant.is_baseline:
            over += 1
        else:
            kept.append(variant)
    bounds = ", ".join(f"{name} <= {bound:g}" for name, bound in space.constraints.items())
    within = (
        f"keep the constraints ({bounds})" if bounds else "can be built; there are no constraints"
    )
    if not listed or looked != points:
        share = 100 * len(kept) / max(looked, 1)
        return kept, f"Variants: {len(kept)} of {looked} drawn at random ({share:.0f} %) {within}."
    if space.enumerated and len(kept) < 2:
        raise ConfigError("constraints: leave no variant beside the baseline; raise them")
    others = looked - over - len(kept)
    same = f", {others} more can't be built or repeat another" if others else ""
    return kept, f"Variants: {len(kept)} {within}, {over} are over one{same}."


def _phases(variants: list[Variant]) -> int:
    """Return the number of linear phases that variants can't share."""
    own = {"name", "g_a", "g_s", "shortcut"}
    return max(1, len({variant.config.model_dump_json(exclude=own) for variant in variants}))


@contextmanager
def _alone() -> Iterator[None]:
    """Use one core, and say nothing about untrained weights, which code badly."""
    threads, logger = torch.get_num_threads(), logging.getLogger("tcm_lab.evaluation")
    level = logger.level
    torch.set_num_threads(1)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)


def _time_phase(config: VariantConfig, recipe: Recipe, data: StudyData) -> float:
    """Return seconds of a linear start and its phase; 0 for another start."""
    if not recipe.linear_steps or config.shortcut in ("none", "wavelet"):
        return 0.0
    crops = _crops(recipe, data, recipe.linear_batch)
    short, long = (recipe.changed(steps=1, linear_steps=n) for n in (1, 1 + _TIMED_STEPS))
    short_s = _seconds(lambda: train(build(config), short, crops))
    long_s = _seconds(lambda: train(build(config), long, crops))
    per_step = max(0.0, long_s - short_s) / _TIMED_STEPS
    return long_s + per_step * (recipe.linear_steps - 1 - _TIMED_STEPS)


def _time_one(config: VariantConfig, recipe: Recipe, data: StudyData) -> tuple[float, float]:
    """Return seconds of one training step, and of coding all evaluation images at all rates."""
    codec, crops = build(config), _crops(recipe, data, recipe.batch)
    plain = recipe.changed(start="none", linear_steps=0, warmup=0)
    train(codec, plain.changed(steps=_WARM_UP_STEPS), crops)
    steps_s = _seconds(lambda: train(codec, plain.changed(steps=_TIMED_STEPS), crops))
    pixels = [height * width for height, width in data.evaluation.sizes]
    smallest = pixels.index(min(pixels))
    image = data.evaluation[smallest : smallest + 1]
    lowest = [0.0] if config.rate_levels else None
    one_s = _seconds(lambda: evaluate(codec, image, rates=lowest))
    rates = max(config.rate_levels, 1)
    return steps_s / _TIMED_STEPS, one_s * rates * sum(pixels) / pixels[smallest]


def _crops(recipe: Recipe, data: StudyData, batch: int) -> CropSource:
    """Return crops of which the first are painted, which must not count for every step."""
    crops = CropSource(data.train, crop=recipe.crop, seed=recipe.seed)
    for step in range(_IMAGES_STEPS):
        crops.batch(step, batch)
    return crops


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
