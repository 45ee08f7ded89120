"""Statistics of latents and of their prediction errors, gathered image by image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tcm_lab.analysis._arrays import Array, ArrayRecord

REACH = 3
"""Correlation is looked for up to so many positions away."""

EDGES = tuple(i / 4 for i in range(-20, 21))
"""Borders of the histogram's bins; what lies outside is counted in the outermost."""


class Moments:
    """Mean and variance of each channel over images of any size."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Take in one image's channels (M, h, w)."""
        flat = values.double().flatten(1)
        self._count += flat.shape[1]
        self._sum = self._sum + flat.sum(1)
        self._squares = self._squares + flat.square().sum(1)

    def variance(self) -> Tensor:
        """Return each channel's variance, (M,)."""
        assert isinstance(self._sum, Tensor)
        assert isinstance(self._squares, Tensor)
        return (self._squares / self._count - (self._sum / self._count) ** 2).clamp_min(0)


class ErrorStatistics(ArrayRecord):
    """The normalised prediction error e = (y − μ) / σ over all channels and positions.

    Were μ and σ all there is to know, e would be standard normal where σ is well above a step, and
    no value would tell of its neighbours.

    Attributes:
        count: how many values.
        sums: sums of e, e², e³ and e⁴.
        histogram: how many fall between two of `EDGES`.
        products: (2R+1, 2R+1) sums of e(p)·e(p + Δ) over channels and positions, Δ at the centre
            being none.
        pairs: how many pairs each is a sum of.
    """

    count: int
    sums: tuple[float, float, float, float]
    histogram: tuple[int, ...]
    products: Array
    pairs: Array

    @classmethod
    def of(cls, error: Tensor) -> ErrorStatistics:
        """Return the statistics of errors (B, M, h, w)."""
        e = error.double().contiguous()
        bins = torch.bucketize(e.clamp(EDGES[0], EDGES[-1] - 1e-9), e.new_tensor(EDGES), right=True)
        counts = torch.bincount(bins.flatten() - 1, minlength=len(EDGES) - 1)
        side = 2 * REACH + 1
        products, pairs = np.zeros((side, side)), np.zeros((side, side))
        height, width = e.shape[-2:]
        for dy in range(-REACH, REACH + 1):
            for dx in range(-REACH, REACH + 1):
                if abs(dy) >= height or abs(dx) >= width:
                    continue
                here = e[..., max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
                there = e[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
                products[dy + REACH, dx + REACH] = float((here * there).sum())
                pairs[dy + REACH, dx + REACH] = here.numel()
        return cls(
            count=e.numel(),
            sums=tuple(float((e**k).sum()) for k in (1, 2, 3, 4)),
            histogram=tuple(counts.tolist()),
            products=products,
            pairs=pairs,
        )

    def with_(self, error: Tensor) -> ErrorStatistics:
        """Return these statistics with one more image's errors."""
        other = ErrorStatistics.of(error)
        return ErrorStatistics(
            count=self.count + other.count,
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            histogram=tuple(a + b for a, b in zip(self.histogram, other.histogram, strict=True)),
            products=self.products + other.products,
            pairs=self.pairs + other.pairs,
        )

    @property
    def mean(self) -> float:
        """Mean of e; 0 if μ is right on average."""
        return self.sums[0] / self.count

    @property
    def deviation(self) -> float:
        """Standard deviation of e; 1 if σ is right on average, below if it is too cautious."""
        return math.sqrt(max(self.sums[1] / self.count - self.mean**2, 0.0))

    @property
    def kurtosis(self) -> float:
        """Fourth central moment over the squared variance; 3 for a Gaussian."""
        m, (_, e2, e3, e4) = self.mean, (s / self.count for s in self.sums)
        fourth = e4 - 4 * m * e3 + 6 * m**2 * e2 - 3 * m**4
        return fourth / self.deviation**4 if self.deviation else float("nan")

    @property
    def correlation(self) -> Array:
        """Correlation of e with its neighbours, (2R+1, 2R+1); 1 in the middle."""
        energy = self.products[REACH, REACH] / self.pairs[REACH, REACH]
        with np.errstate(invalid="ignore"):
            found: Array = self.products / self.pairs / energy
        return found

    @property
    def neighbour_correlation(self) -> float:
        """Mean correlation of e with its four nearest neighbours."""
        around = self.correlation[REACH - 1 : REACH + 2, REACH - 1 : REACH + 2]
        return float(around[[0, 1, 1, 2], [1, 0, 2, 1]].mean())
