"""The linear start of wavelet paths: principal components of each step's Haar subbands."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from tcm_lab.blocks.wavelet import HaarLinear, haar_subbands
from tcm_lab.codec import Codec
from tcm_lab.training.components import as_rows, components, least_squares

_ROWS = 2**16  # rows from which components are computed
_AT_ONCE = 8  # crops per forward pass


@torch.no_grad()
def fit_wavelet(codec: Codec, crops: Tensor, step: float) -> tuple[Tensor, float]:
    """Set the wavelet paths of both transforms to principal components, in quantisation steps.

    Each step of the analysis projects its subbands to their components. Each step of the synthesis
    restores its subbands from these components; the first, whose input is the latent, is a
    least-squares fit. Projections are orthonormal, as AuxT's loss requires. Gains are 1, except
    those next to the latent, which hold the quantisation step.

    Args:
        codec: a codec with wavelet paths; changed in place.
        crops: (B, 3, H, W) in [0, 1].
        step: quantisation step in pixel values.

    Returns:
        The latent of ``crops``, and the mean squared error of the crops restored from it unrounded.
    """
    down, up = _steps(codec.g_a.wavelet), _steps(codec.g_s.wavelet)
    y = crops
    for layer in down:
        _project(layer, y)
        y = _apply(layer, y)
    down[-1].log_gain.fill_(-math.log(step))
    down[-1].bias.div_(step)
    y = y / step
    _fit_synthesis(up, y, crops, step)
    x_hat = y
    for layer in up:
        x_hat = _apply(layer, x_hat)
    return y, float((x_hat - crops).square().mean())


def scale_input(codec: Codec, unit: float) -> None:
    """Adapt the synthesis' path to a latent that was divided by ``unit``."""
    first = _steps(codec.g_s.wavelet)[0]
    first.log_gain.sub_(math.log(unit))
    first.bias.div_(unit)


def _steps(path: nn.ModuleList | None) -> list[HaarLinear]:
    assert path is not None
    return cast("list[HaarLinear]", list(path))


def _apply(layer: HaarLinear, maps: Tensor) -> Tensor:
    return torch.cat([layer(part) for part in maps.split(_AT_ONCE)])


def _subbands(maps: Tensor, factor: int) -> Tensor:
    """Return the subbands of maps as rows."""
    return torch.cat([as_rows(haar_subbands(part, factor)) for part in maps.split(_AT_ONCE)])


def _project(layer: HaarLinear, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Make a step down project the subbands of ``maps`` to their principal components.

    Returns:
        The components (C, D) and the subbands' means (D,).
    """
    rows = _subbands(maps, layer.factor)
    basis, _, mean = components(rows[:: max(1, len(rows) // _ROWS)], layer.out_features)
    layer.log_gain.zero_()
    layer.weight.copy_(basis)
    layer.bias.copy_(-(basis @ mean))
    return basis, mean


def _fit_synthesis(up: list[HaarLinear], y: Tensor, crops: Tensor, step: float) -> None:
    """Make each step up restore the subbands of its target map."""
    target = crops
    for layer in reversed(up[1:]):
        # The target of the preceding step is the components that this one takes.
        down = HaarLinear(target.shape[1], layer.in_features, layer.factor, "down").to(crops.device)
        basis, mean = _project(down, target)
        target = _apply(down, target)
        layer.log_gain.zero_()
        layer.weight.copy_(basis.T)
        layer.bias.copy_(mean)
    weight, bias = least_squares(as_rows(y), _subbands(target, up[0].factor) / step)
    up[0].log_gain.fill_(-math.log(step))
    up[0].weight.copy_(weight.T)
    up[0].bias.copy_(bias)
