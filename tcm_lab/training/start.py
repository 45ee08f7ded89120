"""What a training starts from: weights of an earlier one, and a latent that outgrows its noise."""

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
from tcm_lab.codec.state_dicts import CONSTANTS, TABLES, constant_names, own_name, table_names
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.training.recipe import Recipe

logger = logging.getLogger(__name__)

TARGET_STD = 3.0
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def as_itself(codec: nn.Module, recipe: Recipe) -> tuple[nn.Module, Recipe]:
    """Return the codec inside one that ``torch.compile`` made, and the recipe that compiles it.

    Raises:
        LabError: something else is around it.
    """
    inner = unwrapped(codec)
    if inner is codec:
        return codec, recipe
    if inner is getattr(codec, "_orig_mod", None):
        return inner, recipe.changed(compile=True)
    raise LabError(
        f"{type(codec).__name__}: give the codec inside of it. The recipe compiles it (compile), "
        "averages it (ema), and spreads it (devices)."
    )


def warm_start(codec: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy what a checkpoint learned or measured, where name and shape are those of the codec's.

    That is its parameters and buffers such as the units of a normalised latent. A recipe's linear
    start would replace them: train by its ``without_start()``.

    Args:
        codec: changed in place.
        path: one of our checkpoints, or one of the authors' in the layout of LIC_TCM; for a codec
            that was not assembled here, any file with its tensors.

    Returns:
        The names of the codec's tensors that kept their own values, such as the gains of a
        rate-conditioned codec that starts from a single-rate one.

    Raises:
        LabError: the checkpoint can't be read, or holds less than half of the codec's weights.
    """
    assembled = CodecAdapter(codec).config is not None
    parameters = dict(codec.named_parameters())
    theirs = load_checkpoint(path).state_dict() if assembled else read_state(path, parameters)
    state = {n: v for n, v in codec.state_dict().items() if isinstance(v, Tensor)}
    derived = table_names(codec) | constant_names(codec)
    own = {name: value for name, value in state.items() if name not in derived}
    fitting = {n: v for n, v in own.items() if n in theirs and theirs[n].shape == v.shape}
    taken = sum(fitting[n].numel() for n in parameters if n in fitting)
    whole = sum(p.numel() for p in parameters.values())
    if 2 * taken < whole:
        raise LabError(
            f"{path}: fits only {taken:,} of the codec's {whole:,} weights. "
            "Start from a checkpoint of the same architecture."
        )
    for name, value in fitting.items():
        value.data.copy_(theirs[name])
    kept = tuple(name for name in own if name not in fitting)
    if kept:
        logger.warning("%s: %d tensors keep their own values (%s …)", path, len(kept), kept[0])
    unused = [n for n in theirs if n not in own and own_name(n) not in (*TABLES, *CONSTANTS)]
    if assembled and unused:
        logger.warning("%s: %d of its tensors have no place (%s …)", path, len(unused), unused[0])
    codec.warm_from = str(path)  # type: ignore[assignment]  # no submodule
    return kept


def refuse_lost_weights(codec: nn.Module) -> None:
    """Refuse a linear start of a codec that `warm_start` has filled.

    Raises:
        LabError: the message says how to keep the weights.
    """
    origin = getattr(codec, "warm_from", None)
    if isinstance(origin, str):
        raise LabError(
            f"start: linear would replace the weights that the codec has from {origin}. Train by "
            "recipe.without_start()."
        )


def whole_patches(crops: Tensor, config: VariantConfig) -> Tensor:
    """Cut crops (B, 3, H, W) so that a codec's transforms take them without padding.

    Raises:
        ConfigError: nothing is left.
    """
    size, patch = tuple(crops.shape[-2:]), config.stride[0]
    height, width = (side - side % patch for side in size)
    if not (height and width):
        raise ConfigError(
            f"crops of {size[0]}x{size[1]}: below the {patch}x{patch} pixels of a position of the "
            "latent, which a start measures. Make them larger, or set start to none."
        )
    return crops if (height, width) == size else crops[..., :height, :width].contiguous()


@torch.no_grad()
def calibrate(codec: nn.Module, batch: Tensor) -> float:
    """Scale the latent of ``batch`` up to a standard deviation of ``TARGET_STD`` steps.

    With torch's default initialisation the latent of a deep analysis is several times smaller
    than the noise that stands for rounding, and a short training is spent on making it grow.
    Scaling the analysis' last convolution, and unscaling the synthesis' first ones, changes the
    function by nothing but the noise.

    Args:
        codec: with ``g_a`` and ``g_s``; changed in place. Left as it is where its analysis does
            not end in a convolution, or its latent is wide enough already; a foreign one also where
            ``g_s`` doesn't take what ``g_a`` gives, of which a warning tells.
        batch: (B, 3, H, W) in [0, 1].

    Returns:
        The factor that was applied.
    """
    g_a, g_s = getattr(codec, "g_a", None), getattr(codec, "g_s", None)
    if g_a is None or g_s is None:
        return 1.0
    config = CodecAdapter(codec).config
    is_own = config is not None
    if config is not None:
        batch = whole_patches(batch, config)
    try:
        y, calls = _traced(g_a, g_s, batch)
    except Exception as error:  # whatever a user's code raises
        if is_own:
            raise
        logger.warning(
            "%s: is not calibrated, since g_s(g_a(x)) is no pass through it (%s: %s)",
            *(CodecAdapter(codec).name, type(error).__name__, error),
        )
        return 1.0
    down, up = (g_a.wavelet, g_s.wavelet) if is_own else (None, None)
    if down is None:
        last = [m for m, _, output in calls if _same(output, y)]
    else:  # y is the sum of two ends
        last = [m for m, _, output in calls if m in _ends(g_a) and output.shape == y.shape]
    first = [module for module, taken, _ in calls if _same(taken, y)]
    spread = (y - y.mean((0, 2, 3), keepdim=True)).std().item()
    if not last or not first or not 0 < spread < TARGET_STD:
        return 1.0
    factor: float = TARGET_STD / spread
    for parameter in last[-1].parameters(recurse=False):
        parameter.mul_(factor)
    for module in dict.fromkeys(first):
        module.weight.div_(factor)
    if down is not None and up is not None:
        for step in (down[-1], up[0]):  # gains, so that projections stay as they are
            step.log_gain.add_(math.log(factor))
            step.bias.mul_(factor)
    return factor


def _traced(
    g_a: nn.Module, g_s: nn.Module, batch: Tensor
) -> tuple[Tensor, list[tuple[Any, Tensor, Tensor]]]:
    """Return the latent, and each convolution that ran, with its input and its output."""
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
        g_s(y)
    return y, calls


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
    """Return how a checkpoint of ours was trained; ``None`` where the file doesn't say.

    Files in other layouts don't, nor do those that an early version wrote.
    """
    found = read_extra(checkpoint).get("recipe")
    try:
        return Recipe.parse(found) if isinstance(found, Mapping) else None
    except ConfigError as error:
        logger.warning("%s: its recipe cannot be read: %s", checkpoint, error)
        return None
