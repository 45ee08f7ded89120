"""The linear start: a codec begins as the linear transform that fits its training images.

An untrained codec spends most of a short training on becoming a transform at all. Here its linear
shortcuts start as principal components, everything parallel to them at zero, and its entropy model
at the latent's statistics. Without shortcuts, the main path takes their place. Training then begins
at about JPEG's quality.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils.digests import digest
from tcm_lab.blocks.attention import GatedAttention
from tcm_lab.blocks.wavelet import HaarLinear
from tcm_lab.codec import Codec
from tcm_lab.codec.config import IMAGE_CHANNELS
from tcm_lab.codec.seeds import random_state
from tcm_lab.codec.state_dicts import fill, weights_of
from tcm_lab.codec.transforms import linear_map
from tcm_lab.data import Batches
from tcm_lab.errors import LabError
from tcm_lab.training.components import as_rows, components
from tcm_lab.training.linear_stages import (
    carries_linear_map,
    fit_main_path,
    fit_shortcuts,
    input_of_synthesis,
    set_map,
    stages_of,
    zero,
)
from tcm_lab.training.log import LinearStart, psnr_db
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.start import calibrate, whole_patches
from tcm_lab.training.state import Snapshot
from tcm_lab.training.wavelet_start import fit_wavelet, scale_input

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_CROPS = 64  # of 256 pixels: twenty patches of 16x16 for each of their 768 dimensions
_PIXELS = 2**20  # to which a main path is fitted: four positions of the latent per channel of 1,024
_MIN_UNIT = 0.3  # in steps: a narrower channel is only noise after rounding
_WIDE = 128  # channels of a latent, above which the linear phase's learning rate falls
_SCALE_SHARE = 0.7  # of a channel's spread: the network's predictions narrow it
_GATE_CLOSED = -4.0


def start_linear(
    codec: Codec,
    recipe: Recipe,
    crops: Batches,
    train_phase: Callable[[Codec, Recipe], None],
    cache: Path | None,
) -> LinearStart:
    """Make a codec the linear transform that fits the data, by its shortcuts or its main path.

    The shortcut between image and latent becomes the principal components of the crops' patches,
    divided by the step that suits the middle λ at high rate, Δ² = 6 / (255² ln 2 λ) times three
    colours. Shortcuts between stages carry the principal components of smaller patches. A wavelet
    path does the same step by step, with the components of each step's subbands. Residual branches
    start at zero, so the codec computes the same as its shortcuts. The entropy model starts at each
    channel's mean and spread, and a normalised one uses that spread as its unit. The linear phase
    trains it further.

    Without shortcuts, the resamplers are set so that the main path computes such a transform. Where
    a resampler cannot, as a ``patch`` with its layer norm, the codec gets everything except the
    components and the phase: residual branches at zero, the latent scaled by `calibrate`, and the
    means and spreads.

    Args:
        codec: changed in place.
        recipe: determines the step by its λ, and the linear phase.
        crops: source of the crops.
        train_phase: trains the linear codec by the recipe of the phase.
        cache: folder that stores linear phases for other codecs with the same entropy model.

    Raises:
        LabError: all crops are of the same single colour, or smaller than a patch.
    """
    device = next(codec.parameters()).device
    images = torch.cat([crops.batch(step, 8) for step in range(_CROPS // 8)])
    images = whole_patches(images, codec.config).to(device)
    few = images[: _CROPS // 4]
    initial = _weights_digest(codec)
    has_shortcut = codec.g_a.linear_path is not None
    with nullcontext() if has_shortcut else _temporary_shortcut(codec):
        record = _become_linear(codec, images, recipe.middle_lambda)
        path, back = codec.g_a.linear_path, codec.g_s.linear_path
        if path is None or back is None:
            return record
        if recipe.linear_steps:
            started = time.perf_counter()
            _train_or_load(codec, initial, recipe, crops, train_phase, cache)
            wall_s = time.perf_counter() - started
            record = record.model_copy(
                update={"phase_steps": recipe.linear_steps, "phase_wall_s": wall_s}
            )
    with torch.no_grad():
        if not has_shortcut:
            several = images[: max(len(few), _PIXELS // images[0, 0].numel())]
            y = path(several)
            fit_main_path(codec, several, y, back(input_of_synthesis(codec, y)))
        elif codec.g_a.wavelet is None:
            fit_shortcuts(codec, few)
        deviation = float((codec.g_a(few[:4]) - path(few[:4])).square().mean().sqrt())
    return record.model_copy(update={"deviation": deviation})


def starts_linear(codec: nn.Module) -> bool:
    """Return whether a linear start makes a codec a linear transform, with a linear phase."""
    has_path = isinstance(codec, Codec) and codec.g_a.linear_path is not None
    return has_path or carries_linear_map(codec)


@contextmanager
def _temporary_shortcut(codec: Codec) -> Iterator[None]:
    """Give a codec a shortcut between image and latent, if its main path can take its place."""
    if not carries_linear_map(codec):
        yield
        return
    m, factor = codec.config.latent_channels, codec.config.stride[0]
    colours, device = IMAGE_CHANNELS, next(codec.parameters()).device
    with random_state(0):  # leaves the caller's random numbers alone
        codec.g_a.shortcut = linear_map(colours, m, factor, "down").to(device)
        codec.g_s.shortcut = linear_map(m, colours, factor, "up").to(device)
    try:
        yield
    finally:
        codec.g_a.shortcut = codec.g_s.shortcut = None


def linear_phase(recipe: Recipe, latent_channels: int) -> Recipe:
    """Return the recipe of the linear phase, which trains the entropy model alone.

    An update of Adam changes what a layer computes the more, the more channels it adds up, so wide
    entropy models get a lower learning rate: at 5e-3, those of 320 channels lose what the start
    gave them within ten steps, while those of 64 and 128 learn fastest.
    """
    narrower = min(1.0, _WIDE / latent_channels)
    return recipe.changed(
        steps=recipe.linear_steps,
        batch=recipe.linear_batch,
        lr=recipe.linear_lr * narrower**2,
        optimizer="adam",
        entropy_lr=None,
        schedule="cosine",
        warmup=min(20, recipe.linear_steps // 10),
        start="none",
        linear_steps=0,
        shortcut_lr=0.0,
        cca=0.0,
        ema=0.0,
    )


def _train_or_load(
    codec: Codec,
    initial: str,
    recipe: Recipe,
    crops: Batches,
    train_phase: Callable[[Codec, Recipe], None],
    cache: Path | None,
) -> None:
    """Train the entropy model on the shortcuts' latent, or load its weights from the cache.

    ``initial`` identifies the weights that the codec was built with.
    """
    phase, view = linear_phase(recipe, codec.config.latent_channels), linear_view(codec)
    facts = _facts(view, initial, phase, crops.fingerprint)
    key = digest(facts)
    cached = None if cache is None else cache / f"linear-phase-{key}.safetensors"
    if cached is not None and cached.exists():
        tensors = Snapshot.load(cached).tensors
        fill(view, tensors, origin=str(cached), name=codec.config.name)
        return
    with frozen((*view.g_a.parameters(), *view.g_s.parameters())):
        train_phase(view, phase)
    if cached is not None:
        weights = {n: v.detach().cpu().contiguous() for n, v in weights_of(view).items()}
        Snapshot(weights, facts).save(cached)


def _weights_digest(codec: Codec) -> str:
    """Return hex digits that identify the weights of all but the transforms."""
    hashed = hashlib.sha256()
    for name, weight in sorted(codec.named_parameters()):
        if not name.startswith(("g_a.", "g_s.")):
            hashed.update(name.encode())
            hashed.update(weight.detach().double().cpu().numpy().tobytes())
    return hashed.hexdigest()[:16]


def _facts(view: Codec, initial: str, phase: Recipe, data: str) -> dict[str, Any]:
    """Return everything that determines the result of a linear phase."""
    facts: dict[str, Any] = {
        "initial": initial,
        "recipe": phase.identity(),
        "data": data,
        "stride": view.config.stride,
        "config": view.config.model_dump(mode="json", exclude={"name", "g_a", "g_s", "shortcut"}),
    }
    steps = [m for m in (*view.g_a.modules(), *view.g_s.modules()) if isinstance(m, HaarLinear)]
    if steps:  # the latent depends on them
        facts["wavelet"] = [[step.in_features, step.out_features, step.factor] for step in steps]
    return facts


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Exclude parameters from gradients while the block runs."""
    changed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


def linear_view(codec: Codec) -> Codec:
    """Return the codec with only the shortcuts as its transforms; everything else is shared."""
    view = copy.copy(codec)
    view.__dict__["_modules"] = {
        **codec._modules,
        "g_a": codec.g_a.linear_path,
        "g_s": codec.g_s.linear_path,
    }
    return view


@torch.no_grad()
def _become_linear(codec: Codec, crops: Tensor, lmbda: float) -> LinearStart:
    """Fit the shortcut to the components of ``crops``, and the entropy model to their latent."""
    step = math.sqrt(18 / (255**2 * math.log(2) * lmbda))
    zero_branches(codec)
    kept = floor = None
    if bool((crops == crops[:1, :, :1, :1]).all()):
        raise LabError(
            f"{len(crops)} crops of the same single colour: there is nothing to train on. Name "
            "other images."
        )
    if codec.g_a.linear_path is None:
        calibrate(codec, crops[:4])
        y = torch.cat([codec.g_a(part) for part in crops[:16].split(4)])
    else:
        fit = _fit_patches if codec.g_a.wavelet is None else fit_wavelet
        y, lost = fit(codec, crops, step)
        variance = float((crops - crops.mean((0, 2, 3))[:, None, None]).square().mean())
        kept, floor = 1 - lost / variance, psnr_db(lost)
    if codec.y_unit is not None:
        codec.y_unit.copy_(_units(codec, y.std((0, 2, 3))))
    start_entropy_model(codec, y)
    return LinearStart(
        crops=len(crops), pixels=crops.shape[-1], kept=kept, floor_psnr_db=floor, step=step
    )


@torch.no_grad()
def zero_branches(codec: Codec) -> None:
    """Set everything parallel to a codec's linear paths to zero."""
    for module in codec.modules():
        zero_branch(module)
    if codec.g_a.linear_path is None:
        return
    for transform in (codec.g_a, codec.g_s):
        for stage in stages_of(transform):
            has_parallel_path = stage.shortcut is not None or transform.wavelet is not None
            if has_parallel_path or stage is stages_of(transform)[-1]:
                zero_resampler(stage.resample)


def _units(codec: Codec, spread: Tensor) -> Tensor:
    """Return each channel's unit, (M,), and adapt the synthesis' path to a latent in it."""
    if codec.g_s.wavelet is not None:
        unit = spread.square().mean().sqrt().clamp(min=_MIN_UNIT).expand_as(spread)
        scale_input(codec, float(unit[0]))
        return unit
    unit = spread.clamp(min=_MIN_UNIT)
    if codec.g_s.shortcut is not None:
        codec.g_s.shortcut.weight.mul_(unit[:, None, None, None])
    return unit


@torch.no_grad()
def start_entropy_model(codec: Codec, y: Tensor) -> None:
    """Start the entropy model at the means and spreads of a latent (B, M, h, w), if it can."""
    mean, spread = y.mean((0, 2, 3)), y.std((0, 2, 3))
    if codec.y_unit is not None:
        mean, spread = mean / codec.y_unit, spread / codec.y_unit
    entropy_model: Any = codec.entropy_model
    if hasattr(entropy_model, "start_at"):
        entropy_model.start_at(mean, _SCALE_SHARE * spread, codec.h_s)


def zero_branch(module: Any) -> None:
    """Make a residual module the identity; leave any other module as it is.

    The method ``branch_ends()`` of a block returns the layers to set to zero for this.
    """
    if isinstance(module, import_compressai().layers.ResidualBlock):
        zero([module.conv2])
    elif isinstance(module, GatedAttention):
        gate: Any = module.conv_b[-1]
        nn.init.constant_(gate.bias, _GATE_CLOSED)
    elif hasattr(module, "branch_ends"):
        zero(module.branch_ends())


def zero_resampler(module: Any) -> None:
    """Make a resampler's output zero."""
    layers = import_compressai().layers
    if isinstance(module, layers.ResidualBlockWithStride):
        zero([module.conv2, module.skip])
    elif isinstance(module, layers.ResidualBlockUpsample):
        zero([module.conv, *(m for m in module.upsample.modules() if isinstance(m, nn.Conv2d))])
    elif hasattr(module, "branch_ends"):
        zero(module.branch_ends())
    else:
        kinds = (*_CONVOLUTIONS, nn.Linear)
        zero([part for part in module.modules() if isinstance(part, kinds)][-1:])


def _fit_patches(codec: Codec, crops: Tensor, step: float) -> tuple[Tensor, float]:
    """Set the shortcuts to the principal components of the codec's patches, in steps.

    Returns:
        The latent of ``crops``, and the mean squared error that its components leave.
    """
    down, up = codec.g_a.shortcut, codec.g_s.shortcut
    assert down is not None
    assert down.bias is not None
    m, side = codec.config.latent_channels, codec.config.stride[0]
    colour = crops.mean((0, 2, 3))
    patches = F.pixel_unshuffle(crops - colour[:, None, None], side)
    basis, variances, _ = components(as_rows(patches), m)
    down.weight.copy_((basis / step).view(down.weight.shape))
    down.bias.copy_(-(down.weight.sum((2, 3)) @ colour))
    set_map(up, basis * step, colour)
    return down(crops), float(variances[m:].sum()) / variances.numel()
