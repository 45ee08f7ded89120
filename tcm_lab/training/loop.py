"""Training one codec by one recipe on any device, resumable at every checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab._compat.onednn import safe_strided_convolutions
from tcm_lab._utils.files import write_atomically
from tcm_lab.data.prefetch import Batches
from tcm_lab.errors import LabError
from tcm_lab.training.objective import entropy_models_in_float32
from tcm_lab.training.progress import OnProgress
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.record import TrainingRecord
from tcm_lab.training.run import Run
from tcm_lab.training.state import FILE_NAME


def train(
    codec: nn.Module,
    recipe: Recipe,
    crops: Batches,
    *,
    directory: Path | None = None,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    accelerator: str = "auto",
    devices: int = 1,
) -> TrainingRecord:
    """Train ``codec`` in place.

    With a ``directory``, the state goes there every ``checkpoint_every`` steps and on Ctrl-C, and
    a later call with ``resume`` ends at the same weights as an uninterrupted one (bit for bit on a
    CPU with the same number of threads). Crops, noise and rate levels follow from the recipe's
    seed and the step alone; processes that share a batch share its noise too, so their gradients
    are those of one process.

    Args:
        codec: called as ``codec(x)``, or ``codec(x, rate=...)`` where its configuration says
            ``rate_levels``; must have ``aux_loss()``. Parameters named ``…quantiles`` belong to
            the auxiliary optimiser. Left in evaluation mode with its entropy tables updated.
        recipe: how to train.
        crops: makes the batch of any step.
        directory: where state, log, record and weights go; ``None`` keeps nothing.
        resume: go on from the state in ``directory`` if there is one.
        on_progress: told about every few steps.
        accelerator: ``auto``, ``cpu`` or ``cuda``, as in Lightning Fabric.
        devices: processes, one device each.

    Raises:
        LabError: recipe and codec don't match, ``directory`` holds another training, the disk is
            full, or training diverges again and again. The last checkpoint stays intact.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    from lightning_fabric import Fabric

    levels = _rate_levels(codec)
    if len(recipe.lambdas) != max(levels, 1):
        needed = f"{levels} levels need as many" if levels else "one rate needs one"
        raise LabError(
            f"lambdas {recipe.lambdas}: the codec's {needed}. "
            "Change them by recipe.spread(levels) or recipe.with_lambdas(value)."
        )
    strategy = "ddp" if devices > 1 else "auto"
    fabric = Fabric(
        accelerator=accelerator, devices=devices, strategy=strategy, precision=recipe.precision
    )
    if devices > 1:
        fabric.launch()
    if directory is not None and not resume and (directory / FILE_NAME).exists():
        raise LabError(f"{directory}: holds a training already. Resume it, or name another folder.")
    keep_freed_memory()
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        if fabric.device.type == "cpu":
            stack.enter_context(safe_strided_convolutions(codec))
        if recipe.precision != "32-true":
            stack.enter_context(entropy_models_in_float32(codec))
        run = Run(codec, recipe, crops, levels, fabric, directory, on_progress)
        run.begin(resume=resume)
        record = run.until_done()
    _finish(codec, record, directory if fabric.is_global_zero else None)
    return record


def _finish(codec: nn.Module, record: TrainingRecord, directory: Path | None) -> None:
    """Make the codec ready for coding, and write its weights and the record."""
    codec.eval()
    codec.update(force=True)  # type: ignore[operator]  # CompressAI's method
    if directory is None:
        return
    from tcm_lab.codec.checkpoint import save_checkpoint
    from tcm_lab.codec.model import Codec

    if isinstance(codec, Codec):  # others, such as CompressAI's, have training.safetensors alone
        save_checkpoint(codec, directory / "model.safetensors", {"recipe": record.recipe.name})
    write_atomically(directory / "training.json", record.model_dump_json(indent=2) + "\n")


def _rate_levels(codec: nn.Module) -> int:
    return int(getattr(getattr(codec, "config", None), "rate_levels", 0))
