"""The generalised Gaussian of shape 1.5, with which HPCM models y and z (Li et al. 2025).

Its density is proportional to exp(−|t|^1.5), where t is the distance from the mean in scales. It
lies between a Laplacian (shape 1) and a Gaussian (shape 2). The scale is not the standard
deviation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tcm_lab._compat.torchvision import import_compressai

SHAPE = 1.5
#: Standard deviation, in scales.
DEVIATION = math.sqrt(math.gamma(3 / SHAPE) / math.gamma(1 / SHAPE))
#: Probability of both tails beyond `REACH` scales, where the coder's tables end.
TAIL_MASS = 1e-6
REACH = 5.42691097558631
#: The smallest scale; smaller values are raised to it.
LOWEST_SCALE = 0.12


def cumulative(t: Tensor) -> Tensor:
    """Return the probability below ``t``, in scales from the mean.

    Near 0 it is as precise as its dtype, like that of a Gaussian by ``erfc``.
    """
    return _Cumulative.apply(t)  # type: ignore[no-any-return,no-untyped-call]  # torch's typing


def tail(t: Tensor) -> Tensor:
    """Return the probability above ``t``, in scales from the mean; it is precise far above, too."""
    return cumulative(-t)


def interval(distance: Tensor, scale: Tensor) -> Tensor:
    """Return the probability within half a step of ``distance`` from the mean, in steps."""
    return cumulative((0.5 - distance) / scale) - cumulative((-0.5 - distance) / scale)


def tabulated(steps: Tensor, scale: Tensor) -> Tensor:
    """Return the probability of whole steps from the mean, by the authors' formula for z's tables.

    In float32 the last bits decide some entries of the table, and so which streams it decodes.
    """
    shape = scale.new_tensor(1 / SHAPE)
    below, above = (
        (1 + t.sign() * torch.special.gammainc(shape, t.abs() ** SHAPE)) / 2
        for t in ((steps - 0.5) / scale, (steps + 0.5) / scale)
    )
    mass: Tensor = above - below
    return mass


def quantile(probability: float) -> float:
    """Return the point at which `cumulative` reaches a probability."""
    from scipy.stats import gennorm

    return float(gennorm.ppf(probability, SHAPE))


def conditional(lowest_scale: float) -> Any:
    """Build CompressAI's ``GaussianConditional`` for this distribution in place of a Gaussian."""
    kind = import_compressai().entropy_models.GaussianConditional
    module = kind(None, scale_bound=lowest_scale, tail_mass=TAIL_MASS)
    module._standardized_cumulative = cumulative
    module._standardized_quantile = quantile
    return module


class _Cumulative(torch.autograd.Function):
    """`cumulative`, with the density as its gradient; torch's own gradient is NaN at 0."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        ctx.save_for_backward(t)
        beyond = torch.special.gammaincc(t.new_tensor(1 / SHAPE), _powered(t.abs())) / 2
        return torch.where(t < 0, beyond, 1 - beyond)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        density: Tensor = torch.exp(-_powered(t.abs())) * (SHAPE / 2 / math.gamma(1 / SHAPE))
        return gradient * density


def _powered(distance: Tensor) -> Tensor:
    """Return ``distance`` to the power of 1.5, faster than ``pow``."""
    return distance * distance.sqrt()
