"""Starts a codec with a latent that rounding does not drown.

With torch's default initialisation the latent of a deep analysis is several times smaller than
the noise that stands for rounding, and a short training spends itself on making it grow. Scaling
the analysis' last convolution, and unscaling the synthesis' first ones, changes the function by
nothing but the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TARGET_STD = 3.0
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@torch.no_grad()
def calibrate(codec: nn.Module, batch: Tensor) -> float:
    """Scale the latent of ``batch`` up to a standard deviation of ``TARGET_STD`` steps.

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
