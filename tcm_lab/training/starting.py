"""What a training begins with, without the training."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import nn

from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab._compat.onednn import safe_strided_convolutions
from tcm_lab.data import Batches
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.trainer import TrainingLoop


def begin(
    codec: nn.Module,
    recipe: Recipe,
    crops: Batches,
    *,
    accelerator: str = "auto",
) -> None:
    """Do to a codec what a training does before its first update: the recipe's start.

    Args:
        codec: changed in place; left where it was.
        recipe: its start and its linear phase.
        crops: what the start sees.
        accelerator: as for `train`.
    """
    from lightning_fabric import Fabric

    keep_freed_memory()
    fabric = Fabric(accelerator=accelerator, devices=1, precision=recipe.precision)
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(safe_strided_convolutions(codec))
        loop = TrainingLoop(codec, recipe, crops, fabric, directory=None, on_progress=None)
        loop.begin(resume=False, cache=None)
    codec.cpu()
