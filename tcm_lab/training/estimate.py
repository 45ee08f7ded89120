"""How long a training will take on this machine, from a few steps that are timed and forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from tcm_lab.codec import CodecAdapter
from tcm_lab.data import CropSource, ImageSet
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.trainer import train

_CACHED_STEPS, _WARM_UP_STEPS, _TIMED_STEPS = 6, 1, 3


class Pace(NamedTuple):
    """Seconds of a training.

    Attributes:
        step_s: of one step.
        start_s: of what goes before the first one: a linear start and its phase, if any.
    """

    step_s: float
    start_s: float

    def training_s(self, steps: int) -> float:
        """Return seconds of a whole training."""
        return self.start_s + steps * self.step_s


def measure_pace(
    build: Callable[[], nn.Module], recipe: Recipe, images: ImageSet, accelerator: str = "auto"
) -> Pace:
    """Time a few steps of a training, and its start if that is a linear one.

    Args:
        build: makes the codec; what it makes is trained and dropped.
        recipe: how it will be trained.
        images: what the crops are of.
        accelerator: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        LabError: what would stop the training itself.
    """
    codec, crops = build(), _cached_crops(recipe, images, recipe.batch)
    plain = recipe.changed(start="none", linear_steps=0, warmup=0)
    train(codec, plain.changed(steps=_WARM_UP_STEPS), crops, accelerator=accelerator)
    timed = plain.changed(steps=_TIMED_STEPS)
    steps_s = seconds(lambda: train(codec, timed, crops, accelerator=accelerator))
    return Pace(steps_s / _TIMED_STEPS, _start_s(build, recipe, images, accelerator))


def _start_s(
    build: Callable[[], nn.Module], recipe: Recipe, images: ImageSet, accelerator: str
) -> float:
    """Return seconds of a linear start and its phase; 0 for another start."""
    config = CodecAdapter(build()).config
    if not recipe.linear_steps or config is None or config.shortcut == "none":
        return 0.0
    crops = _cached_crops(recipe, images, recipe.linear_batch)
    short, long = (recipe.changed(steps=1, linear_steps=n) for n in (1, 1 + _TIMED_STEPS))

    def whole_s(recipe: Recipe) -> float:
        return seconds(lambda: train(build(), recipe, crops, accelerator=accelerator))

    short_s, long_s = whole_s(short), whole_s(long)
    per_step = max(0.0, long_s - short_s) / _TIMED_STEPS
    return long_s + per_step * (recipe.linear_steps - 1 - _TIMED_STEPS)


def _cached_crops(recipe: Recipe, images: ImageSet, batch: int) -> CropSource:
    """Return crops whose first batches are cached, since making them would count as training."""
    crops = CropSource(images, crop=recipe.crop, seed=recipe.seed)
    for step in range(_CACHED_STEPS):
        crops.batch(step, batch)
    return crops


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
