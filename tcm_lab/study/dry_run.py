"""What a study would cost, before anything is trained."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from tcm_lab._utils.progress import duration
from tcm_lab.codec import VariantConfig, build
from tcm_lab.data import CropSource
from tcm_lab.errors import ConfigError
from tcm_lab.evaluation import evaluate
from tcm_lab.study.axes import Key
from tcm_lab.study.context import StudyContext, StudyData
from tcm_lab.study.run import cores, prepare, worker_count
from tcm_lab.study.space import Space
from tcm_lab.study.variants import Variant, Variants
from tcm_lab.training import Recipe, train

_COUNT_S = 5.0
_PROBES = 3  # variants that are timed: the baseline and the dearest and cheapest
_IMAGES_STEPS, _WARM_UP_STEPS, _TIMED_STEPS = 6, 1, 3


@dataclass(frozen=True)
class _Counted:
    """What counting has found.

    Attributes:
        variants: those that were counted and keep the constraints.
        drawn: how many points were looked at.
        unbuildable: points that make no codec, or one that another point made.
        over: variants over a constraint.
        whole: whether every point was looked at.
    """

    variants: list[tuple[Variant, float]]
    drawn: int
    unbuildable: int
    over: int
    whole: bool


def dry_run(
    space: Space,
    *,
    data: Path | None,
    eval_data: Path | None,
    workers: int | None,
    trials: int | None,
) -> str:
    """Return a space's size, the baseline's cost, what the constraints leave, and the time needed.

    Nothing is trained or written; a few steps of a few variants are timed and forgotten.

    Raises:
        LabError: what would stop the study itself.
    """
    context = prepare(space, data=data, eval_data=eval_data, trials=trials)
    variants = context.variants
    baseline = variants.baseline()
    cost = variants.cost(baseline).metrics
    points = variants.count()
    counted = _count(variants)
    size = "infinitely many" if points is None else f"{points:,}"
    lines = [
        f"Space {space.name}: {size} combinations of {len(space.axes)} axes "
        f"({', '.join(space.axes)}), mode {space.mode}, sampler {space.sampler}.",
        f"Baseline {baseline.config.name}: {cost['parameters']:,.0f} parameters, "
        f"{cost['kmacs_per_px']:.2f} kMAC/px (encode {cost['encode_kmacs_per_px']:.2f}, "
        f"decode {cost['decode_kmacs_per_px']:.2f}) at {space.size[0]}x{space.size[1]}.",
        _left(space, counted),
    ]
    if space.enumerated and counted.whole and len(counted.variants) < 2:
        raise ConfigError("constraints: leave no variant beside the baseline; raise them")
    fitting = len(counted.variants) if space.enumerated else context.trials
    trainings = fitting * (space.budget.seeds if space.mode == "ablation" else 1)
    seconds, dearest = _estimate(context, baseline, counted)
    phases = _phases(counted) if space.enumerated else trainings
    phase_s = _time_phase(baseline.config, variants.recipe(), context.data)
    count = min(worker_count(workers), trainings)
    recipe = variants.recipe()
    # Workers share the cores that the timing had alone.
    slower = max(1.0, count / max(1, cores()))
    total = (seconds * -(-trainings // count) + phase_s * -(-phases // count)) * slower
    shared = (
        f" A linear phase of {duration(phase_s)} is shared by variants with one entropy model "
        f"({phases} at most)."
    )
    lines += [
        f"Budget: {trainings} trainings of {recipe.steps:,} steps ({recipe.name}), each about "
        f"{duration(seconds)} alone on a core ({dearest}).{shared if phase_s else ''}",
        f"Estimated time: about {duration(total)} with {count} worker{'s' if count > 1 else ''}"
        f"{_more(space)}. Nothing was trained.",
    ]
    return "\n".join(lines)


def _more(space: Space) -> str:
    seeds = space.budget.seeds
    if seeds == 1 or space.mode == "ablation":
        return ""
    return f", and more for {seeds - 1} further seeds of each variant on the front"


def _count(variants: Variants) -> _Counted:
    """Count variants, all of them or as many as some seconds allow."""
    begun = time.monotonic()
    kept: list[tuple[Variant, float]] = []
    seen: set[str] = set()
    drawn = unbuildable = over = 0
    points = variants.count()
    if variants.space.enumerated or (points is not None and points <= 2000):
        source = variants.points()
        whole = True
    else:
        source = _draws(variants)
        whole = False
    for params in islice(source, 100_000):
        if time.monotonic() - begun > _COUNT_S:
            whole = False
            break
        drawn += 1
        try:
            variant = variants.build(params)
        except ConfigError:
            unbuildable += 1
            continue
        if variant.fingerprint in seen:
            unbuildable += 1
            continue
        seen.add(variant.fingerprint)
        if variants.exceeded(variant) and not variant.is_baseline:
            over += 1
        else:
            kept.append((variant, variants.cost(variant).complexity.kmacs_per_px))
    return _Counted(kept, drawn, unbuildable, over, whole)


def _draws(variants: Variants) -> Iterator[dict[str, Key]]:
    rng = random.Random(variants.space.seed)
    while True:
        yield variants.draw(rng)


def _left(space: Space, counted: _Counted) -> str:
    bounds = ", ".join(f"{name} <= {bound:g}" for name, bound in space.constraints.items())
    within = (
        f"keep the constraints ({bounds})" if bounds else "can be built; there are no constraints"
    )
    n = len(counted.variants)
    if counted.whole:
        same = f", {counted.unbuildable} more can't be built or repeat another"
        return (
            f"Variants: {n} {within}, {counted.over} are over one"
            f"{same if counted.unbuildable else ''}."
        )
    share = 100 * n / max(counted.drawn, 1)
    return f"Variants: {n} of {counted.drawn} drawn at random ({share:.0f} %) {within}."


def _estimate(context: StudyContext, baseline: Variant, counted: _Counted) -> tuple[float, str]:
    """Return the mean seconds of a training with its evaluation, and how they were measured."""
    space = context.space
    ordered = sorted(counted.variants, key=lambda pair: pair[1])
    probes = [baseline]
    if ordered:
        probes += [ordered[0][0], ordered[-1][0]]
    configs = {probe.fingerprint: probe.config for probe in probes[:_PROBES]}
    recipe = context.variants.recipe()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logger = logging.getLogger("tcm_lab.evaluation")
    level = logger.level
    logger.setLevel(logging.ERROR)  # untrained weights code badly, as expected
    try:
        times = [_time_one(config, recipe, context.data) for config in configs.values()]
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)
    step_s = sum(step for step, _ in times) / len(times)
    coding_s = sum(coding for _, coding in times) / len(times)
    seconds = step_s * recipe.steps + coding_s * (1 + len(space.rung_steps))
    return (
        seconds,
        f"{step_s:.3f} s a step, {coding_s:.0f} s of coding; {len(times)} variants timed",
    )


def _phases(counted: _Counted) -> int:
    """Return the number of linear phases that variants can't share."""
    sides = {
        variant.config.model_dump_json(exclude={"name", "g_a", "g_s", "shortcut"})
        for variant, _ in counted.variants
    }
    return max(len(sides), 1)


def _time_phase(config: VariantConfig, recipe: Recipe, data: StudyData) -> float:
    """Return seconds of a linear start and its phase on one core; 0 for another start."""
    if not recipe.linear_steps or config.shortcut == "none":
        return 0.0
    crops = CropSource(data.train, crop=recipe.crop, seed=recipe.seed)
    for step in range(_IMAGES_STEPS):  # what is painted once must not count for every step
        crops.batch(step, recipe.linear_batch)
    times = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for steps in (1, 1 + _TIMED_STEPS):
            begun = time.perf_counter()
            train(build(config), recipe.changed(steps=1, linear_steps=steps), crops)
            times.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    per_step = max(0.0, times[1] - times[0]) / _TIMED_STEPS
    return times[1] + per_step * (recipe.linear_steps - 1 - _TIMED_STEPS)


def _time_one(config: VariantConfig, recipe: Recipe, data: StudyData) -> tuple[float, float]:
    """Return seconds of one training step, and of coding all evaluation images at all rates."""
    codec = build(config)
    crops = CropSource(data.train, crop=recipe.crop, seed=recipe.seed)
    for step in range(_IMAGES_STEPS):  # what is painted once must not count for every step
        crops.batch(step, recipe.batch)
    plain = recipe.changed(start="none", linear_steps=0, warmup=0)
    train(codec, plain.changed(steps=_WARM_UP_STEPS), crops, directory=None)
    timed = plain.changed(steps=_TIMED_STEPS)
    begun = time.perf_counter()
    train(codec, timed, crops, directory=None)
    step_s = (time.perf_counter() - begun) / _TIMED_STEPS
    images = data.evaluation
    pixels = [height * width for height, width in images.sizes]
    smallest = min(range(len(images)), key=pixels.__getitem__)
    begun = time.perf_counter()
    evaluate(codec, images[smallest : smallest + 1], rates=[0.0])
    one_s = time.perf_counter() - begun
    rates = max(config.rate_levels, 1)
    return step_s, one_s * rates * sum(pixels) / pixels[smallest]
