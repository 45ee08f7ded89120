"""How the elements of y are distributed about their means, and which scales the coder knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tcm_lab.codec import generalised_gaussian


@dataclass(frozen=True)
class Distribution:
    """A family of distributions about the mean, and the scales that have a table of their own.

    Attributes:
        count: how many scales, spread evenly in their logarithm from ``lowest`` to ``highest``.
        nearest: whether a scale takes the table of the nearest of these, and the estimate counts
            what the coder spends, outliers included; otherwise it takes that of the next larger
            one, and bytes and estimate are those of CompressAI's code.
        lowest: the smallest scale; a smaller one counts as this.
        highest: the largest scale.
        family: a key of `FAMILIES`.
    """

    count: int = 256
    nearest: bool = True
    lowest: float = 0.11
    highest: float = 256.0
    family: str = "gaussian"

    @property
    def reach(self) -> float:
        """How many scales from the mean a table ends."""
        return FAMILIES[self.family].reach

    def tail(self, distance: Tensor) -> Tensor:
        """Return the probability beyond a distance, in scales, on one side of the mean."""
        return FAMILIES[self.family].tail(distance)

    def conditional(self) -> Any:
        """Build the module that gives likelihoods, ``conditional(y, scales, means)``."""
        return FAMILIES[self.family].conditional(self)

    def scale_table(self) -> Tensor:
        """Return the scales that have a table, in float32 as CompressAI's own."""
        low, high = math.log(self.lowest), math.log(self.highest)
        return torch.exp(torch.linspace(low, high, self.count))


@dataclass(frozen=True)
class Family:
    """One family of distributions.

    Attributes:
        conditional: builds the likelihoods' module, a CompressAI ``GaussianConditional`` or a
            subclass of it, which also makes the tables of streams that are not portable.
        reach: how many scales from the mean a table ends; beyond, a Gaussian's tails hold 1e-9
            together.
        tail: the probability beyond a distance, in scales, on one side of the mean.
    """

    conditional: Callable[[Distribution], Any]
    reach: float
    tail: Callable[[Tensor], Tensor]


def _gaussian(distribution: Distribution) -> Any:
    from compressai.entropy_models import GaussianConditional

    return GaussianConditional(None, scale_bound=distribution.lowest)


def _gaussian_tail(distance: Tensor) -> Tensor:
    tail: Tensor = torch.special.erfc(distance / math.sqrt(2)) / 2
    return tail


#: The families by name.
FAMILIES: Mapping[str, Family] = {
    "gaussian": Family(_gaussian, 6.109410204869, _gaussian_tail),
    "generalised-gaussian": Family(
        lambda distribution: generalised_gaussian.conditional(distribution.lowest),
        generalised_gaussian.REACH,
        generalised_gaussian.tail,
    ),
}
#: What ``scale_table`` of an entropy model may be.
SCALE_TABLES: Mapping[str, Distribution] = {
    "fine": Distribution(),
    "compressai": Distribution(count=64, nearest=False),
}
_generalised = partial(
    Distribution, lowest=generalised_gaussian.LOWEST_SCALE, family="generalised-gaussian"
)
#: What it may be of one with the generalised Gaussian: ``published`` is what HPCM's code has.
GENERALISED_SCALE_TABLES: Mapping[str, Distribution] = {
    "fine": _generalised(),
    "published": _generalised(count=60, nearest=False, highest=64.0),
}
