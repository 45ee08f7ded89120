"""What a training starts from: an earlier one's weights, a wide latent, or a linear transform."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils import Frozen
from tcm_lab.blocks.attention import GatedAttention
from tcm_lab.blocks.convolutional import ChannelsLastMlp, Skip
from tcm_lab.blocks.swin import SwinLayer
from tcm_lab.blocks.tcm import TcmBlock
from tcm_lab.codec import Codec, load_checkpoint
from tcm_lab.data import Batches
from tcm_lab.errors import LabError
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.state import Snapshot, load_weights

logger = logging.getLogger(__name__)

TARGET_STD = 3.0
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_CROPS = 64  # of 256 pixels: twenty patches of 16x16 for each of their 768 dimensions
_MIN_UNIT = 0.3  # of a step: what is narrower is noise after rounding
_SCALE_SHARE = 0.7  # of a channel's spread: what a network knows beforehand narrows it
_GATE_CLOSED = -4.0


def warm_start(codec: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy every parameter of a checkpoint that has the name and shape of one of the codec's.

    Args:
        codec: changed in place.
        path: one of our checkpoints, or one of the authors' in the layout of LIC_TCM.

    Returns:
        The names of the codec's parameters that kept their own values, such as the gains of a
        rate-conditioned codec that starts from a single-rate one.

    Raises:
        LabError: the checkpoint can't be read, or holds less than half of the codec's weights.
    """
    theirs = load_checkpoint(path).state_dict()
    own = dict(codec.named_parameters())
    fitting = {n: p for n, p in own.items() if n in theirs and theirs[n].shape == p.shape}
    taken = sum(p.numel() for p in fitting.values())
    whole = sum(p.numel() for p in own.values())
    if 2 * taken < whole:
        raise LabError(
            f"{path}: fits only {taken:,} of the codec's {whole:,} weights. "
            "Start from a checkpoint of the same architecture."
        )
    for name, parameter in fitting.items():
        parameter.data.copy_(theirs[name])
    kept = tuple(name for name in own if name not in fitting)
    if kept:
        logger.warning("%s: %d parameters keep their own values (%s …)", path, len(kept), kept[0])
    return kept


@torch.no_grad()
def calibrate(codec: nn.Module, batch: Tensor) -> float:
    """Scale the latent of ``batch`` up to a standard deviation of ``TARGET_STD`` steps.

    With torch's default initialisation the latent of a deep analysis is several times smaller
    than the noise that stands for rounding, and a short training is spent on making it grow.
    Scaling the analysis' last convolution, and unscaling the synthesis' first ones, changes the
    function by nothing but the noise.

    Args:
        codec: with ``g_a`` and ``g_s``; changed in place. Left as it is where its analysis does
            not end in a convolution, or its latent is wide enough already.
        batch: (B, 3, H, W) in [0, 1].

    Returns:
        The factor that was applied.
    """
    g_a, g_s = getattr(codec, "g_a", None), getattr(codec, "g_s", None)
    if g_a is None or g_s is None:
        return 1.0
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        calls.append((module, args[0], output))

    convs = [m for m in (*g_a.modules(), *g_s.modules()) if isinstance(m, _CONVOLUTIONS)]
    handles = [module.register_forward_hook(note) for module in convs]
    try:
        y = g_a(batch)
        g_s(y)
    finally:
        for handle in handles:
            handle.remove()
    last = [module for module, _, output in calls if _same(output, y)]
    first = [module for module, taken, _ in calls if _same(taken, y)]
    spread = (y - y.mean((0, 2, 3), keepdim=True)).std().item()
    if not last or not first or not 0 < spread < TARGET_STD:
        return 1.0
    factor: float = TARGET_STD / spread
    _scale(last[-1:], lambda p: p.mul_(factor), with_bias=True)
    _scale(first, lambda p: p.div_(factor), with_bias=False)
    return factor


def _scale(
    modules: list[nn.Module], change: Callable[[Tensor], Tensor], *, with_bias: bool
) -> None:
    for module in dict.fromkeys(modules):
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" or with_bias:
                change(parameter)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


class LinearStart(Frozen):
    """What a linear start found in the data.

    Attributes:
        crops: number of crops that it saw.
        pixels: side of a crop.
        kept: share of the variance of the crops' patches that the latent's components keep.
        floor_psnr_db: PSNR of the patches from these components, unrounded.
        step: quantisation step in pixel values (of 1), that of the middle λ.
        deviation: root mean square of what g_a's stages add to the shortcut, in steps; 0 where
            every layer can start as the identity.
        phase_steps: updates of the linear phase; 0 without one.
        phase_wall_s: its seconds, or those of the training that it is shared with.
    """

    crops: int
    pixels: int
    kept: float
    floor_psnr_db: float
    step: float
    deviation: float = 0.0
    phase_steps: int = 0
    phase_wall_s: float = 0.0


def start_linear(
    codec: Codec,
    recipe: Recipe,
    crops: Batches,
    train_phase: Callable[[Codec, Recipe], None],
    cache: Path | None,
) -> LinearStart:
    """Make a codec the linear transform that suits the data, as far as its shortcuts allow.

    The shortcut between image and latent becomes the principal components of the crops' patches,
    divided by the step that suits the middle λ at high rate, Δ² = 6 / (255² ln 2 λ) times three
    colours; those between stages carry the principal components of smaller patches. Residual
    branches start at zero, so that the whole computes what the shortcuts do. The entropy model
    starts at each channel's mean and spread, and a normalised one measures in that spread; the
    linear phase trains it further.

    A codec without shortcuts gets all but the components and the phase: residual branches at zero,
    a latent scaled to `TARGET_STD` steps, and the means and spreads.

    Args:
        codec: changed in place.
        recipe: its λ set the step; its linear phase is run.
        crops: makes the crops.
        train_phase: trains the linear codec by the recipe of the phase.
        cache: folder that keeps linear phases for other codecs with the same entropy model.
    """
    device = next(codec.parameters()).device
    seen = torch.cat([crops.batch(step, 8) for step in range(_CROPS // 8)]).to(device)
    few = seen[: _CROPS // 4]
    found = _become_linear(codec, seen, recipe.lambdas)
    if codec.g_a.shortcut is None:
        return found
    if recipe.linear_phase is not None:
        started = time.perf_counter()
        _linear_phase(codec, recipe, crops, train_phase, cache)
        wall_s = time.perf_counter() - started
        found = found.model_copy(
            update={"phase_steps": recipe.linear_phase.steps, "phase_wall_s": wall_s}
        )
    with torch.no_grad():
        _fit_stages(codec, few)
        deviation = float(codec.g_a.stages(few[:4]).square().mean().sqrt())
    return found.model_copy(update={"deviation": deviation})


def _linear_phase(
    codec: Codec,
    recipe: Recipe,
    crops: Batches,
    train_phase: Callable[[Codec, Recipe], None],
    cache: Path | None,
) -> None:
    """Train the entropy model on the shortcuts' latent, or take the weights from the cache."""
    assert recipe.linear_phase is not None
    phase = recipe.changed(
        steps=recipe.linear_phase.steps,
        batch=recipe.linear_phase.batch,
        lr=recipe.linear_phase.lr,
        optimizer="adam",
        entropy_lr=None,
        schedule="cosine",
        warmup=min(20, recipe.linear_phase.steps // 10),
        start="none",
        linear_phase=None,
        shortcut_lr=0.0,
        ema=0.0,
    )
    view = linear_view(codec)
    with frozen((*view.g_a.parameters(), *view.g_s.parameters())):
        _train_or_take(view, phase, crops, train_phase, cache)


def _train_or_take(
    view: Codec,
    phase: Recipe,
    crops: Batches,
    train_phase: Callable[[Codec, Recipe], None],
    cache: Path | None,
) -> None:
    if cache is None:
        train_phase(view, phase)
        return
    facts = {
        "recipe": phase.model_dump(mode="json", exclude={"name", "checkpoint_every"}),
        "data": crops.fingerprint,
        "stride": view.config.stride,
        "config": view.config.model_dump(mode="json", exclude={"name", "g_a", "g_s", "shortcut"}),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    kept = cache / f"linear-phase-{key}.safetensors"
    if kept.exists():
        load_weights(view, Snapshot.load(kept).tensors)
        return
    train_phase(view, phase)
    weights = {n: v.detach().cpu().contiguous() for n, v in view.state_dict().items()}
    Snapshot(weights, facts).save(kept)


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep gradients from parameters while the block runs."""
    changed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


def linear_view(codec: Codec) -> Codec:
    """Return the codec whose transforms are the shortcuts alone; everything else is shared."""
    view = copy.copy(codec)
    view.__dict__["_modules"] = {
        **codec._modules,
        "g_a": codec.g_a.shortcut,
        "g_s": codec.g_s.shortcut,
    }
    return view


@torch.no_grad()
def _become_linear(codec: Codec, crops: Tensor, lambdas: tuple[float, ...]) -> LinearStart:
    """Set the shortcut to the components of ``crops``, and the entropy model to what they give."""
    step = math.sqrt(18 / (255**2 * math.log(2) * math.sqrt(lambdas[0] * lambdas[-1])))
    for module in codec.modules():
        _zero_branch(module)
    for slice_codec in codec.slices:
        if slice_codec.lrp is not None:
            _zero(slice_codec.lrp[-1])
    kept, floor = 1.0, math.inf
    if codec.g_a.shortcut is None:
        calibrate(codec, crops[:4])
        y = torch.cat([codec.g_a(some) for some in crops[:16].split(4)])
    else:
        for transform in (codec.g_a, codec.g_s):
            for stage in transform.stages:
                if stage.shortcut is not None or stage is transform.stages[-1]:
                    _zero_resampler(stage.resample)
        basis, colour, kept, floor = _patch_components(codec, crops)
        down, up = codec.g_a.shortcut, codec.g_s.shortcut
        down.weight.copy_((basis / step).view(down.weight.shape))
        down.bias.copy_(-(down.weight.sum((2, 3)) @ colour))
        up.weight.copy_((basis * step).view(up.weight.shape))
        up.bias.copy_(colour)
        y = down(crops)
    mean, spread = y.mean((0, 2, 3)), y.std((0, 2, 3))
    if codec.y_unit is not None:
        codec.y_unit.copy_(spread.clamp(min=_MIN_UNIT))
        mean, spread = mean / codec.y_unit, spread / codec.y_unit
        if codec.g_s.shortcut is not None:
            codec.g_s.shortcut.weight.mul_(codec.y_unit[:, None, None, None])
    _start_heads(codec, mean, _SCALE_SHARE * spread)
    return LinearStart(
        crops=len(crops), pixels=crops.shape[-1], kept=kept, floor_psnr_db=floor, step=step
    )


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters(recurse=False):
        parameter.zero_()


def _zero_branch(module: nn.Module) -> None:
    """Make a residual module the identity; leave any other as it is.

    A user's own has a method ``branch_ends()``, which returns the layers whose zero does this.
    """
    layers = import_compressai().layers
    ends: list[Any] = []
    if isinstance(module, TcmBlock):
        ends = [module.mix_out]
    elif isinstance(module, layers.ResidualBlock):
        ends = [module.conv2]
    elif isinstance(module, SwinLayer):
        ends = [module.attention.proj, module.mlp[-1]]
    elif isinstance(module, Skip):
        last: Any = module.body[-1]
        ends = [last.mlp[-1] if isinstance(last, ChannelsLastMlp) else last]
    elif isinstance(module, GatedAttention):
        gate: Any = module.conv_b[-1]
        nn.init.constant_(gate.bias, _GATE_CLOSED)
    elif hasattr(module, "branch_ends"):
        ends = list(module.branch_ends())
    for layer in ends:
        _zero(layer)


def _zero_resampler(module: nn.Module) -> None:
    """Let a resampler's output start at zero."""
    layers = import_compressai().layers
    ends: list[Any]
    if isinstance(module, layers.ResidualBlockWithStride):
        ends = [module.conv2, module.skip]
    elif isinstance(module, layers.ResidualBlockUpsample):
        ends = [module.conv, *(m for m in module.upsample.modules() if isinstance(m, nn.Conv2d))]
    elif hasattr(module, "branch_ends"):
        ends = list(module.branch_ends())
    else:
        kinds = (*_CONVOLUTIONS, nn.Linear)
        ends = [part for part in module.modules() if isinstance(part, kinds)][-1:]
    for layer in ends:
        _zero(layer)


def _components(features: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return principal components (count, D) of features (N, D), all variances, and the mean.

    Components beyond D are zero.
    """
    mean = features.double().mean(0)
    centred = features.double() - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    basis = features.new_zeros(count, features.shape[1])
    kept = min(count, features.shape[1])
    basis[:kept] = vectors.flip(1)[:, :kept].T
    return basis, variances.flip(0).clamp(min=0).float(), mean.float()


def _as_rows(maps: Tensor) -> Tensor:
    """Return the positions of maps (B, C, H, W) as rows (B H W, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _patch_components(codec: Codec, crops: Tensor) -> tuple[Tensor, Tensor, float, float]:
    """Return components of the codec's patches, mean colour, variance kept and PSNR in dB."""
    m, side = codec.config.latent_channels, codec.config.stride[0]
    colour = crops.mean((0, 2, 3))
    patches = F.pixel_unshuffle(crops - colour[:, None, None], side)
    basis, variances, _ = _components(_as_rows(patches), m)
    lost = float(variances[m:].sum()) / variances.numel()
    kept = float(variances[:m].sum() / variances.sum())
    return basis, colour, kept, -10 * math.log10(max(lost, 1e-10))


def _fit_stages(codec: Codec, crops: Tensor) -> None:
    """Let the stages' shortcuts carry principal components of ever larger patches.

    In the analysis each one takes those of its input's patches; in the synthesis each one is the
    least-squares fit from its input to the components at its own scale.
    """
    x = crops
    for stage in codec.g_a.stages:
        if stage.shortcut is not None:
            map_ = stage.shortcut
            patches = _as_rows(F.pixel_unshuffle(x, map_.stride[0]))
            basis, variances, mean = _components(patches, map_.out_channels)
            basis /= variances[: map_.out_channels].mean().sqrt()
            map_.weight.copy_(basis.view(map_.weight.shape))
            map_.bias.copy_(-(basis @ mean))
        x = stage(x)
    if codec.g_s.shortcut is None or all(stage.shortcut is None for stage in codec.g_s.stages):
        return
    y = codec.g_a(crops)
    x = y if codec.y_unit is None else y / codec.y_unit[:, None, None]
    scale = codec.config.stride[0]
    for stage in codec.g_s.stages:
        if stage.shortcut is not None:
            map_ = stage.shortcut
            factor = map_.stride[0]
            scale //= factor
            patches = F.pixel_unshuffle(crops, scale)
            basis, variances, mean = _components(_as_rows(patches), map_.out_channels)
            basis /= variances[: map_.out_channels].mean().sqrt()
            target = F.conv2d(patches, basis[:, :, None, None], -(basis @ mean))
            weight, bias = _least_squares(_as_rows(x), _as_rows(F.pixel_unshuffle(target, factor)))
            map_.weight.copy_(weight.view(map_.weight.shape))
            map_.bias.copy_(bias.view(map_.out_channels, -1).mean(1))
        x = stage(x)


def _least_squares(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Fit targets (N, E) by inputs (N, D): weights (D, E) and bias (E,)."""
    rows = torch.cat((inputs, inputs.new_ones(len(inputs), 1)), 1).double()
    ridge = 1e-3 * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    solution = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ targets.double()).float()
    return solution[:-1], solution[-1]


def _start_heads(codec: Codec, mean: Tensor, scale: Tensor) -> None:
    """Let the entropy model start at each channel's mean and scale."""
    if codec.config.entropy_model.hidden is None:
        both = {"mean": mean, "scale": scale, "shared": torch.cat((mean, scale))}
        for name, transform in codec.h_s.named_children():
            last = [m for m in transform.modules() if isinstance(m, _CONVOLUTIONS)][-1]
            assert last.bias is not None
            repeats = last.bias.numel() // both[name].numel()  # sub-pixel upsampling
            last.bias.copy_(both[name].repeat_interleave(repeats))
            last.weight.mul_(0.3)
        return
    sides = zip(mean.split(codec.slice_widths), scale.split(codec.slice_widths), strict=True)
    for slice_codec, of_slice in zip(codec.slices, sides, strict=True):
        biases = torch.cat([network[-1].bias for network in slice_codec.networks])
        biases.copy_(torch.cat(of_slice))
        for network, values in zip(
            slice_codec.networks, biases.chunk(len(slice_codec.networks)), strict=True
        ):
            network[-1].bias.copy_(values)
