"""What a training begins with, without the training."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab._compat.onednn import safe_strided_convolutions
from tcm_lab.data import Batches
from tcm_lab.training.log import OnProgress
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.trainer import TrainingLoop


def begin(
    codec: nn.Module,
    recipe: Recipe,
    crops: Batches,
    *,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
    accelerator: str = "auto",
) -> None:
    """Do to a codec what a training does before its first update: the recipe's start.

    Args:
        codec: changed in place; left where it was.
        recipe: its start and its linear phase.
        crops: what the start sees.
        cache: folder that keeps linear phases.
        on_progress: called every few steps of the linear phase.
        accelerator: as for `train`.
    """
    from lightning_fabric import Fabric

    keep_freed_memory()
    fabric = Fabric(accelerator=accelerator, devices=1, precision=recipe.precision)
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(safe_strided_convolutions(codec))
        TrainingLoop(codec, recipe, crops, fabric, None, on_progress).begin(
            resume=False, cache=cache
        )
    codec.cpu()
