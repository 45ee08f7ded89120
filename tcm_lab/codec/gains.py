"""Gains that let one set of weights code at many rates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SPREAD = 0.75  # ± in ln: steps for a 20-fold range of λ, as a step is proportional to 1/√λ


class RateGains(nn.Module):
    """Gain and inverse gain of each of C channels at each of R rate levels, kept as logarithms.

    One set of weights covers a whole rate-distortion curve: each rate level scales the channels of
    y and z before quantisation and scales them back after (Cui et al. 2021, "Asymmetric gained deep
    image compression"). Between two learned levels the gains are interpolated geometrically.
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        start = torch.linspace(-_SPREAD, _SPREAD, levels)[:, None].repeat(1, channels)
        self.log_gain = nn.Parameter(start)
        self.log_inverse = nn.Parameter(-start)

    def gain(self, rate: Float[Tensor, " b"]) -> Float[Tensor, "b c 1 1"]:
        """Return the factors that scale channels before quantisation, at ``rate`` in [0, R - 1]."""
        return _between(self.log_gain, rate)

    def inverse(self, rate: Float[Tensor, " b"]) -> Float[Tensor, "b c 1 1"]:
        """Return the factors that scale them back after quantisation."""
        return _between(self.log_inverse, rate)


def _between(levels: Tensor, rate: Tensor) -> Tensor:
    """Interpolate between the two nearest levels, in the logarithm."""
    below = rate.floor().clamp(0, levels.shape[0] - 2).long()
    share = (rate - below).to(levels.dtype)[:, None]
    return torch.lerp(levels[below], levels[below + 1], share).exp()[:, :, None, None]
