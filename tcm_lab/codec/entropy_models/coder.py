"""The interface between an entropy model and a coder: places of the latent, and how to code them.

An entropy model never sees bytes. It passes `Places` with their means and scales, and gets their ŷ
back. The `Coder` estimates, encodes or decodes this ŷ, or agrees on it with another machine, so
that every entropy model can do all of these.

Shape suffixes: M latent channels, S some of them, h w sides of the latent, N places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tcm_lab.errors import LabError


class Places(ABC):
    """Elements of the latent that are coded at once.

    Their values (means, scales, ŷ) have the shape that `of` returns.
    """

    @abstractmethod
    def of(self, latent: Float[Tensor, "#b m _ _"]) -> Tensor:
        """Return the values of a latent (B, M, h, w) at the places."""

    @abstractmethod
    def per_channel(self, values: Float[Tensor, "#b m 1 1"]) -> Tensor:
        """Return values of each channel in a shape that broadcasts over values at the places."""

    @abstractmethod
    def put(self, latent: Float[Tensor, "b m h w"], values: Tensor) -> None:
        """Add ``values`` to a latent at the places, in place."""

    @abstractmethod
    def masked(self, values: Tensor) -> Tensor:
        """Return ``values`` with zeros where nothing is coded."""

    @abstractmethod
    def flat(self, values: Tensor) -> Tensor:
        """Return those of ``values`` that are coded, (B, N) in the order of coding."""

    @abstractmethod
    def around(self, mean: Tensor, symbols: Tensor) -> Tensor:
        """Return ``symbols`` (B, N) plus their means, and zeros where nothing is coded.

        The memory layout depends on the mean's alone. A layer's results may depend on the layout
        of ŷ, which can change the order of sums, and the decoder must compute what the encoder did.
        """


class Channels(Places):
    """Channels ``first`` to ``last`` (exclusive), everywhere or at some positions.

    Values are maps (B, S, h, w), coded in the order (S, h, w).

    Args:
        first: the first channel.
        last: the channel after the last one.
        where: positions that are coded, the same in every channel; None: all.
        count: number of these positions; None: unknown, and coding waits for a GPU to count them.
    """

    def __init__(
        self,
        first: int,
        last: int,
        where: Bool[Tensor, "h w"] | None = None,
        count: int | None = None,
    ) -> None:
        self.channels = slice(first, last)
        self.where = where
        self._count = count

    def of(self, latent: Float[Tensor, "#b m _ _"]) -> Float[Tensor, "#b s _ _"]:
        """Return the channels, as a view."""
        return latent[:, self.channels]

    def per_channel(self, values: Float[Tensor, "#b m 1 1"]) -> Float[Tensor, "#b s 1 1"]:
        """Return the channels' values."""
        return values[:, self.channels]

    def put(self, latent: Float[Tensor, "b m h w"], values: Float[Tensor, "b s h w"]) -> None:
        """Add maps to the channels at the coded positions."""
        latent[:, self.channels] += self.masked(values)

    def masked(self, values: Float[Tensor, "b s h w"]) -> Float[Tensor, "b s h w"]:
        """Return the maps with zeros at the other positions."""
        return values if self.where is None else values * self.where

    def flat(self, values: Float[Tensor, "b s h w"]) -> Float[Tensor, "b n"]:
        """Return the coded values in the order (S, h, w)."""
        return (values if self.where is None else values[self._coded]).flatten(1)

    def around(self, mean: Float[Tensor, "b s h w"], symbols: Tensor) -> Float[Tensor, "b s h w"]:
        """Return maps of symbols plus means."""
        y_hat = torch.zeros_like(mean)
        if self.where is None:
            return torch.add(symbols.reshape(mean.shape), mean, out=y_hat)
        here = mean[self._coded]
        y_hat[self._coded] = symbols.reshape(here.shape) + here
        return y_hat

    @cached_property
    def _coded(self) -> tuple[slice | Tensor, ...]:
        """Index of the coded elements of maps (B, S, h, w), if not all are coded."""
        assert self.where is not None
        if self._count is None:
            rows, columns = self.where.nonzero(as_tuple=True)
        else:  # a stable sort moves them to the front, in order
            places = (~self.where).flatten().int().argsort(stable=True)[: self._count]
            rows, columns = places // self.where.shape[1], places % self.where.shape[1]
        return slice(None), slice(None), rows, columns


class Elements(Places):
    """Any elements, in any order.

    Values are lists (B, N), coded in their order. Find the elements on the CPU and then move them:
    costs are counted on torch's meta device, which has no data to select elements by.
    """

    def __init__(
        self, channel: Int64[Tensor, " n"], row: Int64[Tensor, " n"], column: Int64[Tensor, " n"]
    ) -> None:
        self.channel, self.row, self.column = channel, row, column

    def of(self, latent: Float[Tensor, "#b m _ _"]) -> Float[Tensor, "#b n"]:
        """Return the elements."""
        return latent[:, self.channel, self.row, self.column]

    def per_channel(self, values: Float[Tensor, "#b m 1 1"]) -> Float[Tensor, "#b n"]:
        """Return for each element the value of its channel."""
        return values[:, self.channel, 0, 0]

    def put(self, latent: Float[Tensor, "b m h w"], values: Float[Tensor, "b n"]) -> None:
        """Add the elements, none of which may occur twice."""
        latent[:, self.channel, self.row, self.column] += values

    def masked(self, values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Return the values, all of which are coded."""
        return values

    def flat(self, values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Return the values, which are in the order of coding."""
        return values

    def around(self, mean: Float[Tensor, "b n"], symbols: Tensor) -> Float[Tensor, "b n"]:
        """Return symbols plus means."""
        return torch.add(symbols, mean, out=torch.zeros_like(mean))


class PlaceCoder(Protocol):
    """Turns means and scales, in quantisation steps, into ŷ."""

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        """Return ŷ at the places, and 0 where nothing is coded."""
        ...


class Coder:
    """Codes elements of the latent for an entropy model: returns their ŷ for mean and scale.

    All values are in the model's units: quantisation steps, or for a `normalised` model each
    channel's spread.

    Args:
        code: estimates, encodes or decodes, in quantisation steps.
        gain: quantisation steps per unit, for each channel; None: one.
        settle: maps refined values, in quantisation steps, to those that are used from then on.
    """

    def __init__(
        self,
        code: PlaceCoder,
        gain: Float[Tensor, "#b m 1 1"] | None = None,
        settle: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._code = code
        self._gain = gain
        self._settle = settle

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        """Code the next places.

        Args:
            places: elements that have not been coded yet.
            mean: means of their distributions, in the shape that ``places.of`` returns.
            scale: scales of their distributions, in the same shape. One of the two may be smaller,
                such as one scale per channel (1, S, 1, 1), and is broadcast to the other.

        Returns:
            Their ŷ = round(y − mean) + mean in this shape, and 0 where nothing is coded.

        Raises:
            LabError: the shapes do not fit each other, or the places.
        """
        if mean.shape != scale.shape:
            mean, scale = _broadcast(mean, scale)
        if self._gain is None:
            return self._code(places, mean, scale)
        gain = places.per_channel(self._gain)
        return self._code(places, mean * gain, scale * gain) / gain

    def refine(self, places: Places, y_hat: Tensor, correction: Tensor) -> Tensor:
        """Add a latent residual prediction: half a step times tanh of the ``correction``.

        Every change of ŷ after coding must go through here: later places depend on it, and the two
        ends of a portable stream have to agree on it.

        Returns:
            The refined ŷ, and 0 where nothing is coded.
        """
        gain = None if self._gain is None else places.per_channel(self._gain)
        half_step = 0.5 if gain is None else 0.5 / gain
        refined = places.masked(y_hat + half_step * torch.tanh(correction))
        if self._settle is None:
            return refined
        return self._settle(refined) if gain is None else self._settle(refined * gain) / gain

    def in_steps(self, y_hat: Float[Tensor, "b m h w"]) -> Float[Tensor, "b m h w"]:
        """Return the whole ŷ in quantisation steps."""
        return y_hat if self._gain is None else y_hat * self._gain


def _broadcast(mean: Tensor, scale: Tensor) -> Sequence[Tensor]:
    try:
        both: Sequence[Tensor] = torch.broadcast_tensors(mean, scale)
        return both
    except RuntimeError:
        raise LabError(
            f"the entropy model gives means {tuple(mean.shape)} and scales {tuple(scale.shape)}: "
            "they must have one shape, or broadcast to it"
        ) from None
