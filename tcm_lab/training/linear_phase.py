"""A linear start and its phase alone, for what can be said before the transforms are trained."""

from __future__ import annotations

from pathlib import Path

from tcm_lab.codec import Codec
from tcm_lab.data import Batches
from tcm_lab.training.conditions import conditions
from tcm_lab.training.linear_start import linear_view
from tcm_lab.training.log import OnProgress
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.trainer import TrainingLoop


def train_linear_phase(
    codec: Codec,
    recipe: Recipe,
    crops: Batches,
    *,
    directory: Path,
    cache: Path,
    on_progress: OnProgress | None = None,
) -> Codec:
    """Do what a linear start does before the first step, and return the linear codec it trained.

    Args:
        codec: changed in place.
        recipe: whose start is linear, with a phase.
        crops: makes the batch of any step.
        directory: where the phase's state goes; one that is found there is resumed.
        cache: folder that keeps linear phases, for codecs that can share them.
        on_progress: called every few steps.

    Returns:
        The codec whose transforms are the shortcuts alone, ready for coding.

    Raises:
        LabError: as `train`.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(precision=recipe.precision)
    with conditions(codec, recipe, fabric.device):
        loop = TrainingLoop(codec, recipe, crops, fabric, directory, on_progress)
        loop.begin(resume=True, cache=cache)
    view = linear_view(codec)
    view.eval()
    view.update(force=True)
    return view
