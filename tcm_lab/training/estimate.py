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

_FEWEST_STEPS, _MOST_STEPS = 3, 48  # that are timed, beside a first one
_LEAST_S = 0.5  # that they should take together


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
    codec = build()
    plain = recipe.changed(start="none", linear_steps=0, warmup=0)
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
    """Return seconds of a linear start and its phase; 0 for another start."""
    config = CodecAdapter(build()).config
    if not recipe.linear_steps or config is None or config.shortcut == "none":
        return 0.0
    crops = CropSource(images, crop=recipe.crop, seed=recipe.seed)

    def whole_s(steps: int) -> float:
        timed = recipe.changed(steps=1, linear_steps=steps)
        _decode(crops, steps, recipe.linear_batch)
        return seconds(lambda: train(build(), timed, crops, accelerator=accelerator))

    step_s, once_s = _per_step(whole_s)
    return once_s + recipe.linear_steps * step_s


def _per_step(whole_s: Callable[[int], float]) -> tuple[float, float]:
    """Return seconds of a step, and of what comes once, from those of trainings of some steps."""
    short_s, more = whole_s(1), _FEWEST_STEPS
    while (added_s := whole_s(1 + more) - short_s) < _LEAST_S and more < _MOST_STEPS:
        more *= 4
    step_s = max(added_s, 0.0) / more
    return step_s, max(short_s - step_s, 0.0)


def _decode(crops: CropSource, steps: int, batch: int) -> None:
    """Let the images of the first steps be cached, as those of most steps of a training are."""
    for step in range(steps):
        crops.batch(step, batch)


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
