"""Distributions of y's elements about their means, and the scales that the coder knows."""

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
        count: number of scales, spread evenly in their logarithm from ``lowest`` to ``highest``.
        nearest: whether a scale uses the table of the nearest of these, and the estimate counts
            what the coder spends, outliers included. Otherwise it uses the next larger one, and
            bytes and estimate are those of CompressAI's code.
        lowest: the smallest scale; smaller values are raised to it.
        highest: the largest scale.
    """

    #: Exponent of the distance in the density: 2 for a Gaussian.
    shape: ClassVar[float] = 2.0
    #: Standard deviation, in scales.
    deviation: ClassVar[float] = 1.0
    #: Distance from the mean, in scales, at which a table ends; the tails beyond sum to 1e-9.
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

        It gives likelihoods, and the tables of streams that are not portable.
        """
        kind = import_compressai().entropy_models.GaussianConditional
        return kind(None, scale_bound=self.lowest)

    def scale_table(self) -> Tensor:
        """Return the scales that have a table, in float32 as in CompressAI."""
        low, high = math.log(self.lowest), math.log(self.highest)
        return torch.exp(torch.linspace(low, high, self.count, device="cpu"))


@dataclass(frozen=True)
class GeneralisedGaussian(Distribution):
    """A generalised Gaussian of shape 1.5 about the mean."""

    shape: ClassVar[float] = generalised_gaussian.SHAPE
    deviation: ClassVar[float] = generalised_gaussian.DEVIATION
    reach: ClassVar[float] = generalised_gaussian.REACH

    lowest: float = generalised_gaussian.LOWEST_SCALE

    def tail(self, distance: Tensor) -> Tensor:
        """Return the probability beyond a distance, in scales, on one side of the mean."""
        return generalised_gaussian.tail(distance)

    def conditional(self) -> Any:
        """Build a CompressAI ``GaussianConditional`` whose Gaussian is replaced by this one."""
        return generalised_gaussian.conditional(self.lowest)


#: Choices of an entropy model's ``scale_table``.
SCALE_TABLES: Mapping[str, Distribution] = {
    "fine": Distribution(),
    "compressai": Distribution(count=64, nearest=False),
}
#: Choices with the generalised Gaussian; ``published`` is the table of HPCM's code.
GENERALISED_SCALE_TABLES: Mapping[str, Distribution] = {
    "fine": GeneralisedGaussian(),
    "published": GeneralisedGaussian(count=60, nearest=False, highest=64.0),
}
