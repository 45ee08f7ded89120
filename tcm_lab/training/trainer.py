"""Training of one codec with one recipe on any device, or of its start alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab._compat.onednn import safe_strided_convolutions
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.held import held
from tcm_lab.codec import Codec, CodecAdapter, save_weights
from tcm_lab.codec.state_dicts import refuse_other_state
from tcm_lab.data import Batches
from tcm_lab.data.crops import check_shares
from tcm_lab.errors import LabError
from tcm_lab.training.linear_start import frozen, linear_view, starts_linear
from tcm_lab.training.log import OnProgress, TrainingRecord
from tcm_lab.training.loop import TrainingLoop
from tcm_lab.training.objective import (
    MakeObjective,
    entropy_models_in_float32,
    rate_distortion,
)
from tcm_lab.training.optimizers import shortcuts
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.start import as_itself
from tcm_lab.training.state import FILE_NAME
from tcm_lab.training.trackers import Tracker, check_libraries

_WEIGHTS = "model.safetensors"
_RECORD = "training.json"
_REFUSAL = "another process trains here. Wait until it ends, or choose another folder."


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
    cache: Path | None = None,
    trackers: Sequence[Tracker] = (),
    objective: MakeObjective = rate_distortion,
    branches: Mapping[Path, Recipe] | None = None,
) -> TrainingRecord:
    """Train ``codec`` in place.

    With a ``directory``, the state is saved there every ``checkpoint_every`` steps and on Ctrl-C,
    and a later call with ``resume`` ends with the same weights as an uninterrupted one (bit for bit
    on a CPU with the same number of threads). Crops, noise and rate levels follow from the recipe's
    seed and the step alone. Processes that share a batch also share its noise, so their gradients
    are those of one process.

    Args:
        codec: called as ``codec(x)``, or ``codec(x, rate=...)`` if it has ``rate_levels``.
            Parameters named ``…quantiles`` belong to the auxiliary optimiser, whose loss is the
            codec's ``aux_loss()``. It is left in evaluation mode with its entropy tables updated.
        recipe: recipe of the training; a compiled codec is trained by compiled steps. A linear
            start replaces the weights: to keep a checkpoint's, pass ``recipe.without_start()``.
        crops: source of the batches.
        directory: folder of state, log, record and weights; ``None`` saves nothing.
        resume: continue from the state in ``directory`` if there is one.
        on_progress: called every few steps.
        accelerator: ``auto``, ``cpu`` or ``cuda``, as in Lightning Fabric.
        devices: number of processes, one device each.
        cache: folder that stores linear phases, for codecs that can share them.
        trackers: further receivers of the log's rows, from ``open_trackers``; they need a
            ``directory``, whose log a resumed run continues.
        objective: makes the loss from codec and recipe.
        branches: shorter trainings with a constant rate, by their folders. This training is their
            beginning: it saves its state there when their cooldown begins.

    Raises:
        LabError: recipe and codec or crops don't match, a module saves something other than
            tensors, ``directory`` holds another training, another process trains there, there are
            trackers without a directory, or the disk is full. The last checkpoint stays intact.
        DivergedError: training diverges repeatedly. The last checkpoint stays intact.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    from lightning_fabric import Fabric

    codec, recipe = _suited(codec, recipe, crops, devices)
    if trackers and directory is None:
        raise LabError("trackers: give a directory, too, whose log a resumed run continues.")
    # The layers with which CCA's auxiliary model would refine its last slices get no gradient.
    ddp = "ddp_find_unused_parameters_true" if recipe.cca else "ddp"
    strategy = ddp if devices > 1 else "auto"
    fabric = Fabric(
        accelerator=accelerator, devices=devices, strategy=strategy, precision=recipe.precision
    )
    own_directory = directory if fabric.is_global_zero else None
    with nullcontext() if own_directory is None else held(own_directory, _REFUSAL):
        if directory is not None:
            check_directory(directory, resume=resume)
            check_libraries(trackers)
        if devices > 1:  # after all checks, so that no process waits for one that was refused
            fabric.launch()
        with conditions(codec, recipe, fabric.device):
            loop = TrainingLoop(
                codec,
                recipe,
                crops,
                fabric,
                directory,
                on_progress,
                objective=objective,
                branches=branches,
            )
            loop.begin(resume=resume, cache=cache)
            record = loop.run(trackers)
        _finish(codec, record, own_directory)
    return record


def _suited(
    codec: nn.Module, recipe: Recipe, crops: Batches, devices: int = 1
) -> tuple[nn.Module, Recipe]:
    """Return the codec itself, and the recipe with the λ that suit it.

    Raises:
        LabError: they don't match, the crops have another size than the recipe's, or the codec
            saves something other than tensors.
    """
    side = getattr(crops, "crop", recipe.crop)
    if side != recipe.crop:
        raise LabError(
            f"crop = {recipe.crop}: these crops are {side}x{side}. Make the CropSource with "
            "crop=recipe.crop."
        )
    codec, recipe = as_itself(codec, recipe)
    refuse_other_state(codec)
    adapter = CodecAdapter(codec)
    recipe = recipe.suited(adapter.latent_channels, adapter.rate_levels)
    adapter.check_crop(recipe.crop)
    check_shares(recipe.batch, devices)
    if recipe.linear_steps and starts_linear(codec):
        check_shares(recipe.linear_batch, devices, "linear_batch")
    return codec, recipe


def check_directory(directory: Path, *, resume: bool) -> None:
    """Refuse a folder in which a training would replace another's files.

    Raises:
        LabError: it is a file, or holds a training that is not resumed or has no state.
    """
    if directory.exists() and not directory.is_dir():
        raise LabError(f"{directory}: is a file; name a folder.")
    if (directory / FILE_NAME).exists():
        if resume:
            return
        raise LabError(
            f"{directory}: already holds a training. Resume it (--resume) or choose another."
        )
    for name in (_WEIGHTS, _RECORD):
        if (directory / name).exists():
            raise LabError(
                f"{directory / name}: would be replaced, but belongs to a finished training whose "
                "state is gone. Choose another folder, or move it away."
            )


def _finish(codec: nn.Module, record: TrainingRecord, directory: Path | None) -> None:
    """Prepare the codec for coding, and write its weights and the record."""
    codec.eval()
    CodecAdapter(codec).update_tables()
    if directory is None:
        return
    extra = {"recipe": record.recipe.model_dump(mode="json")}
    save_weights(codec, directory / _WEIGHTS, extra)
    write_atomically(directory / _RECORD, record.model_dump_json(indent=2) + "\n")


def begin(
    codec: nn.Module,
    recipe: Recipe,
    crops: Batches,
    *,
    directory: Path | None = None,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
    accelerator: str = "auto",
) -> None:
    """Apply a recipe's start to a codec, as a training does before its first update.

    Arguments and errors are those of `train`; the directory keeps the state of a linear phase. The
    codec is left on the device.
    """
    from lightning_fabric import Fabric

    codec, recipe = _suited(codec, recipe, crops)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=recipe.precision)
    with conditions(codec, recipe, fabric.device):
        loop = TrainingLoop(codec, recipe, crops, fabric, directory, on_progress)
        loop.begin(resume=directory is not None, cache=cache)


def train_linear_phase(
    codec: Codec,
    recipe: Recipe,
    crops: Batches,
    *,
    directory: Path,
    cache: Path,
    on_progress: OnProgress | None = None,
) -> Codec:
    """Apply a linear start with its linear phase, and return the linear codec.

    Arguments and errors are those of `train`; the recipe has a linear phase, and the directory
    keeps its state.

    Returns:
        The codec with only the shortcuts as its transforms, ready for coding.
    """
    begin(codec, recipe, crops, directory=directory, cache=cache, on_progress=on_progress)
    view = linear_view(codec)
    view.eval()
    view.update(force=True)
    return view


@contextmanager
def conditions(codec: nn.Module, recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Run the block as device and recipe require, and preserve the caller's random state."""
    keep_freed_memory()
    with ExitStack() as stack:
        cuda = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        if device.type == "cpu":
            stack.enter_context(safe_strided_convolutions(codec))
        if recipe.precision != "32-true":
            stack.enter_context(entropy_models_in_float32(codec))
        if recipe.shortcut_lr == 0:
            stack.enter_context(frozen(shortcuts(codec)))
        yield
