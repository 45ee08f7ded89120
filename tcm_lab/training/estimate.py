"""How long a training will take on this machine, estimated from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from tcm_lab.data import CropSource, ImageSet
from tcm_lab.training.linear_start import starts_linear
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.trainer import train

_FEWEST_STEPS, _MOST_STEPS = 3, 48  # timed steps, in addition to a first one
_LEAST_S = 0.5  # duration to reach with them


class Pace(NamedTuple):
    """Pace of a training.

    Attributes:
        step_s: seconds of one step.
        start_s: seconds before the first step: of a linear start and its phase, if any.
    """

    step_s: float
    start_s: float

    def training_s(self, steps: int) -> float:
        """Return the seconds of a whole training."""
        return self.start_s + steps * self.step_s


def measure_pace(
    build: Callable[[], nn.Module], recipe: Recipe, images: ImageSet, accelerator: str = "auto"
) -> Pace:
    """Time a few steps of a training, and its start if it is a linear one.

    Args:
        build: builds the codec; codecs built here are trained and discarded.
        recipe: recipe of the training.
        images: source of the crops.
        accelerator: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        LabError: the training itself would be refused or fail.
    """
    codec = build()
    plain = recipe.without_start().changed(warmup=0)
    crops = CropSource(images, crop=recipe.crop, seed=recipe.seed)

    def whole_s(steps: int) -> float:
        timed = plain.changed(steps=steps)
        _decode(crops, steps, recipe.batch)
        return seconds(lambda: train(codec, timed, crops, accelerator=accelerator))

    whole_s(1)
    step_s, _ = _per_step(whole_s)
    return Pace(step_s, _start_s(build, recipe, images, accelerator))


def _start_s(
    build: Callable[[], nn.Module], recipe: Recipe, images: ImageSet, accelerator: str
) -> float:
    """Return the seconds of a linear start and its phase; 0 for another start."""
    if not recipe.linear_steps or not starts_linear(build()):
        return 0.0
    crops = CropSource(images, crop=recipe.crop, seed=recipe.seed)

    def whole_s(steps: int) -> float:
        timed = recipe.changed(steps=1, linear_steps=steps)
        _decode(crops, steps, recipe.linear_batch)
        return seconds(lambda: train(build(), timed, crops, accelerator=accelerator))

    step_s, once_s = _per_step(whole_s)
    return once_s + recipe.linear_steps * step_s


def _per_step(whole_s: Callable[[int], float]) -> tuple[float, float]:
    """Return the seconds per step, and those spent once, from trainings of different lengths."""
    short_s, more = whole_s(1), _FEWEST_STEPS
    while (added_s := whole_s(1 + more) - short_s) < _LEAST_S and more < _MOST_STEPS:
        more *= 4
    step_s = max(added_s, 0.0) / more
    return step_s, max(short_s - step_s, 0.0)


def _decode(crops: CropSource, steps: int, batch: int) -> None:
    """Cache the images of the first steps, as they are cached for most steps of a training."""
    for step in range(steps):
        crops.batch(step, batch)


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
