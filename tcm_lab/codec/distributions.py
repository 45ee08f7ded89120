"""How the elements of y are distributed about their means, and which scales the coder knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.codec import generalised_gaussian


@dataclass(frozen=True)
class Distribution:
    """A Gaussian about the mean, and the scales that have a table of their own.

    Attributes:
        count: how many scales, spread evenly in their logarithm from ``lowest`` to ``highest``.
        nearest: whether a scale takes the table of the nearest of these, and the estimate counts
            what the coder spends, outliers included; otherwise it takes that of the next larger
            one, and bytes and estimate are those of CompressAI's code.
        lowest: the smallest scale; a smaller one counts as this.
        highest: the largest scale.
    """

    #: How many scales from the mean a table ends; both tails beyond hold 1e-9 together.
    reach: ClassVar[float] = 6.109410204869

    count: int = 256
    nearest: bool = True
    lowest: float = 0.11
    highest: float = 256.0

    def tail(self, distance: Tensor) -> Tensor:
        """Return the probability beyond a distance, in scales, on one side of the mean."""
        beyond: Tensor = torch.special.erfc(distance / math.sqrt(2)) / 2
        return beyond

    def conditional(self) -> Any:
        """Build a CompressAI ``GaussianConditional`` of this distribution.

        It gives likelihoods, and makes the tables of streams that are not portable.
        """
        kind = import_compressai().entropy_models.GaussianConditional
        return kind(None, scale_bound=self.lowest)

    def scale_table(self) -> Tensor:
        """Return the scales that have a table, in float32 as CompressAI's own."""
        low, high = math.log(self.lowest), math.log(self.highest)
        return torch.exp(torch.linspace(low, high, self.count, device="cpu"))


@dataclass(frozen=True)
class GeneralisedGaussian(Distribution):
    """A generalised Gaussian of shape 1.5 about the mean."""

    reach: ClassVar[float] = generalised_gaussian.REACH

    lowest: float = generalised_gaussian.LOWEST_SCALE

    def tail(self, distance: Tensor) -> Tensor:
        """Return the probability beyond a distance, in scales, on one side of the mean."""
        return generalised_gaussian.tail(distance)

    def conditional(self) -> Any:
        """Build a CompressAI ``GaussianConditional`` whose Gaussian is replaced by this."""
        return generalised_gaussian.conditional(self.lowest)


#: What ``scale_table`` of an entropy model may be.
SCALE_TABLES: Mapping[str, Distribution] = {
    "fine": Distribution(),
    "compressai": Distribution(count=64, nearest=False),
}
#: What it may be of one with the generalised Gaussian: ``published`` is what HPCM's code has.
GENERALISED_SCALE_TABLES: Mapping[str, Distribution] = {
    "fine": GeneralisedGaussian(),
    "published": GeneralisedGaussian(count=60, nearest=False, highest=64.0),
}
