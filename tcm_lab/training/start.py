"""Starts of a training: weights of an earlier one, and a latent scaled above the noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab.codec import CodecAdapter, VariantConfig, load_checkpoint, read_extra, read_state
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.codec.state_dicts import CONSTANTS, TABLES, own_name, weights_of
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.training.optimizers import is_shortcut
from tcm_lab.training.recipe import Recipe

logger = logging.getLogger(__name__)

TARGET_STD = 3.0
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_ROUNDING = 1e-3  # of an image's norm: what a calibration changes at most


def as_itself(codec: nn.Module, recipe: Recipe) -> tuple[nn.Module, Recipe]:
    """Return the codec inside a compiled one, and the recipe that compiles it.

    Raises:
        LabError: the codec is wrapped in something other than ``torch.compile``.
    """
    inner = unwrapped(codec)
    if inner is codec:
        return codec, recipe
    if inner is getattr(codec, "_orig_mod", None):
        return inner, recipe.changed(compile=True)
    raise LabError(
        f"{type(codec).__name__}: pass the codec inside it. The training itself compiles it "
        "(compile), averages it (ema) and distributes it (devices)."
    )


def warm_start(codec: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy the tensors of a checkpoint whose names and shapes match the codec's.

    They are parameters, and buffers such as the units of a normalised latent. Linear shortcuts that
    the checkpoint lacks become zero, so that they change nothing. A recipe's linear start would
    replace all of them: train with its ``without_start()``.

    Args:
        codec: changed in place.
        path: one of our checkpoints, or one of the authors' in the layout of LIC_TCM; for a codec
            that was not assembled here, any file with its tensors.

    Returns:
        The names of the codec's tensors that the checkpoint lacks, such as the gains of a
        rate-conditioned codec that starts from a single-rate one. All but shortcuts keep their own
        values.

    Raises:
        LabError: the checkpoint can't be read, or holds less than half of the codec's weights.
    """
    assembled = CodecAdapter(codec).config is not None
    parameters = dict(codec.named_parameters())
    theirs = load_checkpoint(path).state_dict() if assembled else read_state(path, parameters)
    own = {n: v for n, v in weights_of(codec).items() if isinstance(v, Tensor)}
    fitting = {n: v for n, v in own.items() if n in theirs and theirs[n].shape == v.shape}
    matched = sum(fitting[n].numel() for n in parameters if n in fitting)
    total = sum(p.numel() for p in parameters.values())
    if 2 * matched < total:
        raise LabError(
            f"{path}: fits only {matched:,} of the codec's {total:,} weights. "
            "Start from a checkpoint of the same architecture."
        )
    for name, value in fitting.items():
        value.data.copy_(theirs[name])
    missing = tuple(name for name in own if name not in fitting)
    for name in missing:
        if assembled and is_shortcut(name):
            own[name].data.zero_()
    if missing:
        logger.warning("%s: lacks %d of the codec's tensors (%s …)", path, len(missing), missing[0])
    unused = [n for n in theirs if n not in own and own_name(n) not in (*TABLES, *CONSTANTS)]
    if assembled and unused:
        logger.warning("%s: %d of its tensors are unused (%s …)", path, len(unused), unused[0])
    codec.warm_from = str(path)  # type: ignore[assignment]  # not a submodule
    return missing


def refuse_lost_weights(codec: nn.Module) -> None:
    """Refuse a linear start of a codec whose weights `warm_start` has loaded.

    Raises:
        LabError: its weights would be replaced; the message says how to keep them.
    """
    origin = getattr(codec, "warm_from", None)
    if isinstance(origin, str):
        raise LabError(
            f"start: linear would replace the weights loaded from {origin}. Train with "
            "recipe.without_start()."
        )


def whole_patches(crops: Tensor, config: VariantConfig) -> Tensor:
    """Cut crops (B, 3, H, W) to a size that the codec's transforms take without padding.

    Raises:
        ConfigError: they are smaller than a position of the latent.
    """
    size, patch = tuple(crops.shape[-2:]), config.stride[0]
    height, width = (side - side % patch for side in size)
    if not (height and width):
        raise ConfigError(
            f"crops of {size[0]}x{size[1]}: a start needs at least the {patch}x{patch} pixels of a "
            "position of the latent. Make them larger, or set start to none."
        )
    return crops if (height, width) == size else crops[..., :height, :width].contiguous()


@torch.no_grad()
def calibrate(codec: nn.Module, batch: Tensor) -> float:
    """Scale the latent of ``batch`` up to a standard deviation of ``TARGET_STD`` steps.

    With torch's default initialisation the latent of a deep analysis is several times smaller
    than the noise that replaces rounding, and a short training is spent on making it grow. Scaling
    the analysis' last convolution and unscaling the synthesis' first ones changes nothing in the
    function but the effect of the noise.

    Args:
        codec: changed in place. It is left as it is without ``g_a`` and ``g_s``, if its analysis
            does not end in a convolution (and a linear path) or its synthesis does not begin with
            one, or if its latent is wide enough already; a codec that was not assembled here also
            if ``g_s`` does not accept the output of ``g_a``, with a warning.
        batch: (B, 3, H, W) in [0, 1].

    Returns:
        The factor applied; 1 if the codec was left as it is.
    """
    g_a, g_s = getattr(codec, "g_a", None), getattr(codec, "g_s", None)
    if g_a is None or g_s is None:
        return 1.0
    config = CodecAdapter(codec).config
    is_own = config is not None
    if config is not None:
        batch = whole_patches(batch, config)
    try:
        y, x_hat, calls = _traced(g_a, g_s, batch)
    except Exception as error:  # whatever a user's code raises
        if is_own:
            raise
        logger.warning(
            "%s: is not calibrated, since g_s(g_a(x)) fails (%s: %s)",
            *(CodecAdapter(codec).name, type(error).__name__, error),
        )
        return 1.0
    has_path = is_own and g_a.linear_path is not None
    if has_path:  # y is the sum of two ends
        last = [m for m, _, output in calls if m in _ends(g_a) and output.shape == y.shape][-1:]
        beside = [m for m, _, _ in calls if m is g_a.shortcut]
    else:
        last, beside = [m for m, _, output in calls if _same(output, y)][-1:], []
    first = [module for module, inputs, _ in calls if _same(inputs, y)]
    spread = (y - y.mean((0, 2, 3), keepdim=True)).std().item()
    if not last or not first or not 0 < spread < TARGET_STD:
        return 1.0
    factor: float = TARGET_STD / spread
    steps = [g_a.wavelet[-1], g_s.wavelet[0]] if has_path and g_a.wavelet is not None else []
    changed = dict.fromkeys((*last, *beside, *first, *steps))
    before = {p: p.clone() for m in changed for p in m.parameters(recurse=False)}
    for module in (*last, *beside):
        for parameter in module.parameters(recurse=False):
            parameter.mul_(factor)
    for module in dict.fromkeys(first):
        module.weight.div_(factor)
    for step in steps:  # gains, so that projections are unchanged
        step.log_gain.add_(math.log(factor))
        step.bias.mul_(factor)
    if has_path and (g_s(g_a(batch)) - x_hat).norm() > _ROUNDING * x_hat.norm():
        for parameter, value in before.items():  # something else takes part in an end
            parameter.copy_(value)
        return 1.0
    return factor


def _traced(
    g_a: nn.Module, g_s: nn.Module, batch: Tensor
) -> tuple[Tensor, Tensor, list[tuple[Any, Tensor, Tensor]]]:
    """Return latent, image, and each convolution that ran, with its input and its output."""
    calls: list[tuple[Any, Tensor, Tensor]] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        calls.append((module, args[0], output))

    convs = [m for m in (*g_a.modules(), *g_s.modules()) if isinstance(m, _CONVOLUTIONS)]
    with ExitStack() as stack:
        for module in convs:
            stack.enter_context(module.register_forward_hook(note))
        y = g_a(batch)
        if not isinstance(y, Tensor):
            raise TypeError(f"g_a gives a {type(y).__name__}")
        x_hat = g_s(y)
    return y, x_hat, calls


def _ends(g_a: Any) -> list[nn.Module]:
    """Return the convolutions of the last resampler, if nothing follows it."""
    stage = g_a.stages[-1]
    follows = (*stage.blocks.modules(), *stage.attention.modules())
    if any(True for module in follows for _ in module.parameters(recurse=False)):
        return []
    return [m for m in stage.resample.modules() if isinstance(m, _CONVOLUTIONS)]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def read_recipe(checkpoint: str | Path) -> Recipe | None:
    """Return the recipe stored in one of our checkpoints, or ``None`` if the file has none.

    Files in other layouts have none, nor do those written by early versions.
    """
    stored = read_extra(checkpoint).get("recipe")
    try:
        return Recipe.parse(stored) if isinstance(stored, Mapping) else None
    except ConfigError as error:
        logger.warning("%s: its recipe cannot be read: %s", checkpoint, error)
        return None
