"""Common parts of entropy models that code slices one after another.

Shape suffixes: S channels of a slice, h w sides of the latent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcm_lab._utils import ChannelCount
from tcm_lab.blocks import Cost, conv_cost
from tcm_lab.codec.entropy_models.base import EntropyModelConfig
from tcm_lab.codec.entropy_models.coder import Channels, Coder
from tcm_lab.errors import ConfigError, one_of


class EqualSlicesConfig(EntropyModelConfig):
    """Options of an entropy model with equal slices, each of which sees all earlier ones.

    Attributes:
        slices: number of equal slices of the latent.
    """

    slices: ChannelCount = 5

    def slice_widths(self, channels: int) -> tuple[int, ...]:
        """Return the width of each slice; they sum to ``channels``."""
        return (channels // self.slices,) * self.slices

    def is_chain(self, channels: int) -> bool:
        """Return whether there are several slices."""
        return self.slices > 1

    def check(self, channels: int) -> None:
        """Refuse slices that do not divide the latent."""
        check_slices(self.slices, channels)


def check_slices(slices: int, channels: int, otherwise: str = "") -> None:
    """Refuse a number of slices that does not divide the latent's channels.

    Raises:
        ConfigError: the message gives the nearest that do, and ends with ``otherwise``.
    """
    if channels % slices:
        divisors = [n for n in range(1, channels + 1) if channels % n == 0]
        fits = sorted(divisors, key=lambda n: abs(n - slices))[:2]
        raise ConfigError(
            f"slices = {slices} does not divide latent_channels = {channels}; "
            f"nearest that do: {one_of(sorted(fits))}{otherwise}"
        )


class SliceChain(nn.Module):
    """An entropy model that codes slices one after another; `lagged` hides the one before.

    A slice computes its ŷ (B, S, h, w) from the features, the ŷ of earlier slices and the coder.
    Its ``channels`` are the first one and the one after its last, and its method ``start_at`` takes
    its own mean and scale (S,).
    """

    _lag = 0

    @property
    def chain(self) -> Iterable[Any]:
        """The slices: the module itself is their list, unless a subclass keeps them elsewhere."""
        return cast("Iterable[Any]", self)

    def forward(self, features: Sequence[Tensor], code: Coder) -> Float[Tensor, "b m h w"]:
        """Return ŷ of all slices; see `EntropyModel`."""
        decoded: list[Tensor] = []
        for network in self.chain:
            visible = len(decoded) - self._lag
            known = [y if i < visible else torch.zeros_like(y) for i, y in enumerate(decoded)]
            decoded.append(network(features, known, code))
        return torch.cat(decoded, 1)

    def start_at(self, mean: Tensor, scale: Tensor, h_s: nn.Module) -> None:
        """Make every slice predict this mean and scale (M,); see `EntropyModel`."""
        for network in self.chain:
            own = slice(*network.channels)
            network.start_at(mean[own], scale[own])

    def lagged(self) -> SliceChain:
        """Return a copy whose slices do not see the slice just before them."""
        twin = copy.deepcopy(self)
        twin._lag = 1
        return twin


class SliceNetwork(nn.Sequential):
    """Convolutions from a support to a slice's parameters, by way of ``hidden`` widths and GELU."""

    def __init__(self, c_in: int, hidden: Sequence[int], c_out: int, kernel: int = 3) -> None:
        widths = (c_in, *hidden, c_out)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.GELU()]
        super().__init__(*layers[:-1])
        self.c_in = c_in

    @property
    def last_bias(self) -> Tensor:
        """Bias of the last convolution, (C_out,)."""
        last: Any = self[-1]
        bias: Tensor = last.bias
        return bias


def slice_network_cost(
    c_in: int, hidden: Sequence[int], c_out: int, height: int, width: int, kernel: int = 3
) -> Cost:
    """Return the cost of a `SliceNetwork` on maps of ``height`` x ``width``."""
    widths = (c_in, *hidden, c_out)
    return sum((conv_cost(a, b, kernel, height, width) for a, b in pairwise(widths)), Cost())


def checkerboard(x: Float[Tensor, "b c h w"]) -> Bool[Tensor, "h w"]:
    """Return the positions of the first colour on a map like ``x``."""
    h, w = x.shape[-2:]
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    return (rows[:, None] + columns[None, :]) % 2 == 1


def both_colours(first: int, last: int, colour: Bool[Tensor, "h w"]) -> tuple[Channels, Channels]:
    """Return channels ``first`` to ``last`` (exclusive) where ``colour`` is true, and elsewhere."""
    count = colour.numel() // 2
    anchors = Channels(first, last, colour, count)
    return anchors, Channels(first, last, ~colour, colour.numel() - count)
