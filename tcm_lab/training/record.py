"""What is known of a finished training."""

from __future__ import annotations

from typing import Any

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment
from tcm_lab.training.recipe import Recipe


class TrainingRecord(Frozen):
    """A training, told completely enough to run it again.

    Attributes:
        model: the codec's configuration, or its class name where it has none.
        recipe: how it was trained, its seed included.
        steps: updates done.
        processes: how many shared each batch.
        loss: mean of lambda D + bpp over the last twentieth of the steps.
        bpp: mean estimated rate over them.
        psnr_db: PSNR of the mean squared error over them.
        wall_s: seconds of training, all its resumed parts together.
        images_per_s: crops per second.
        rollbacks: how often the training diverged and was taken back.
        data_fingerprint: stands for the crops.
        skipped: images that could not be used.
        environment: device and versions of the last part.
    """

    model: dict[str, Any] | str
    recipe: Recipe
    steps: int
    processes: int
    loss: float
    bpp: float
    psnr_db: float
    wall_s: float
    images_per_s: float
    rollbacks: int
    data_fingerprint: str
    skipped: tuple[str, ...]
    environment: Environment
