"""Forecast of a study: how long it will take, and which differences its budget can resolve."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import NormalDist, fmean

import torch

from tcm_lab import evaluation, training
from tcm_lab._utils.progress import duration
from tcm_lab.codec import VariantConfig, build
from tcm_lab.stats import NORMAL
from tcm_lab.study.capacity import cores, visible_gpus
from tcm_lab.study.context import StudyContext, StudyData
from tcm_lab.study.estimators.linear_phase import BEYOND_LINEAR_PHASE
from tcm_lab.study.noise import FEWEST, design_of, noise_in
from tcm_lab.study.variants import Variant
from tcm_lab.training import Recipe

_POWERED = (NormalDist().inv_cdf(0.8) + NORMAL) / NORMAL  # for a power of 80 %


def time_lines(
    context: StudyContext, kept: Sequence[Variant], trainings: int, workers: int
) -> list[str]:
    """Estimate the time from a few steps of the baseline, the cheapest and costliest variants."""
    space, variants = context.space, context.variants
    if not space.estimator.trains:
        return [f"Time: unknown for estimator {space.estimator.type}; its first variants show it."]
    recipe, budget = space.estimator.recipe(variants.recipe()), space.budget
    sets = 1  # of weights per training
    if not budget.rate_levels:
        sets, recipe = len(recipe.lambdas), recipe.per_lambda()[0]
    trainings *= sets
    ranked = sorted(kept, key=lambda v: variants.cost(v).complexity.kmacs_per_px)
    probes = {v.fingerprint: v.config for v in (variants.baseline(), ranked[0], ranked[-1])}
    with _alone():
        paces = [
            training.measure_pace(partial(build, config), recipe, context.data.train)
            for config in probes.values()
        ]
        coding_s = fmean(_coding_s(config, context.data) for config in probes.values())
    step_s, phase_s = (fmean(column) for column in zip(*paces, strict=True))
    rungs = space.rung_steps(recipe)
    steps = recipe.steps + _cooldown_steps(recipe, rungs)
    each_s = step_s * steps + coding_s * (1 + len(rungs))
    phases = trainings
    if space.enumerated:  # each seed and each set of weights has its own
        seeds = budget.seeds if space.trains_every_seed else 1
        phases = min(_phases(kept) * seeds * sets, trainings)
    count = min(workers, trainings)
    gpus = len(visible_gpus())
    slower = max(1.0, count / (gpus or cores()))  # workers share what the timing had to itself
    total_s = (each_s * -(-trainings // count) + phase_s * -(-phases // count)) * slower
    if finalists := budget.finalists:
        rounds = -(-(finalists + 1) * budget.seeds * sets // count)
        total_s += (step_s * variants.recipe().steps + coding_s) * rounds * slower
    shared = (
        f" A linear phase of {duration(phase_s)} is shared by variants with the same entropy model "
        f"(at most {phases} phases)."
    )
    more = budget.seeds > 1 and not (finalists or space.trains_every_seed)
    alone = f"alone on a {'GPU' if gpus else 'core'}"
    return [
        f"Each training takes about {duration(each_s)} {alone} ({step_s:.3f} s a step, "
        f"{coding_s:.0f} s of coding; {len(paces)} variants timed).{shared if phase_s else ''}",
        f"Estimated time: about {duration(total_s)} with {count} worker{'s' if count > 1 else ''}"
        f"{', plus the further seeds of the front' * more}.",
    ]


def resolution_line(context: StudyContext, recipe: Recipe) -> str:
    """Describe which differences the budget can tell from zero."""
    seeds, images = context.space.budget.seeds, len(context.data.evaluation)
    noise = noise_in(context.space)
    if noise is None:
        return (
            f"Resolution: unknown, since the noise of recipe {recipe.name} was not measured at "
            f"about {recipe.steps:,} steps with these settings (tcm-lab noise measures it)."
        )
    if images < FEWEST:
        return (
            f"Resolution: unknown, since {images} image does not show the variation between "
            "images; give more with --eval-data."
        )
    size = noise.resolution(seeds, images)
    own = design_of(context.variants.base.model_dump(mode="json"))
    borrowed = (
        f" It was measured for another baseline, {noise.base}: the study's intervals will use its "
        "own seeds."
        if noise.design != own
        else ""
    )
    return (
        f"Resolution: ±{size:.2g} % of Lagrangian cost, with {seeds} "
        f"seed{'s' if seeds > 1 else ''} and {images} images ({noise.base} at {noise.steps:,} "
        f"steps: {noise.seed_sd:.2g} % between seeds, {noise.image_sd:.2g} % between images). A "
        "true difference of that size is detected half of the time, one of "
        f"{_POWERED * size:.2g} % four times in five.{borrowed}"
    )


def _cooldown_steps(recipe: Recipe, rungs: Sequence[int]) -> int:
    """Return the additional steps that the cooldowns of a training's rungs take, if any."""
    if recipe.schedule != "constant":
        return 0
    return sum(rung - recipe.changed(steps=rung).cooldown_begins for rung in rungs)


def _phases(variants: Sequence[Variant]) -> int:
    """Return the number of different linear phases of the variants."""
    seen = {variant.config.model_dump_json(exclude=BEYOND_LINEAR_PHASE) for variant in variants}
    return max(1, len(seen))


@contextmanager
def _alone() -> Iterator[None]:
    """Use one core, and suppress warnings about untrained weights, which code badly."""
    threads, logger = torch.get_num_threads(), logging.getLogger("tcm_lab.evaluation")
    level = logger.level
    torch.set_num_threads(1)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)


def _coding_s(config: VariantConfig, data: StudyData) -> float:
    """Return the seconds needed to code all evaluation images at all rates."""
    pixels = [height * width for height, width in data.evaluation.sizes]
    smallest = pixels.index(min(pixels))
    image = data.evaluation[smallest : smallest + 1]
    codec, lowest = build(config), [0.0] if config.rate_levels else None
    one_s = training.seconds(lambda: evaluation.evaluate(codec, image, rates=lowest))
    return one_s * max(config.rate_levels, 1) * sum(pixels) / pixels[smallest]
