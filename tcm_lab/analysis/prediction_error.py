"""Statistics of the entropy model's normalised prediction error, accumulated over images."""

from __future__ import annotations

import math
from operator import add

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_lab.analysis._arrays import Array, ArrayRecord

REACH = 3
"""Largest distance, in positions, at which correlation is measured."""

EDGES = tuple(i / 4 for i in range(-20, 21))
"""Edges of the histogram's bins; the outermost bins also count values beyond the edges."""


class ErrorStatistics(ArrayRecord):
    """Statistics of the error e = (y − μ) / σ over all channels and positions.

    If the entropy model predicted everything predictable, e would have the distribution that the
    coder assumes, of unit deviation, where σ is well above a quantiser step, and no value would
    depend on its neighbours.

    Attributes:
        count: number of values.
        sums: sums of e and of e².
        histogram: number of values in each bin of `EDGES`.
        products: (2R+1, 2R+1) sums of e(p)·e(p + Δ) over channels and positions, Δ = 0 at the
            centre.
        pairs: number of pairs in each sum.
    """

    count: int
    sums: tuple[float, float]
    histogram: tuple[int, ...]
    products: Array
    pairs: Array

    @classmethod
    def of(cls, error: Tensor) -> ErrorStatistics:
        """Return the statistics of errors (B, M, h, w)."""
        e = error.double().contiguous()
        bins = torch.bucketize(e.clamp(EDGES[0], EDGES[-1] - 1e-9), e.new_tensor(EDGES), right=True)
        counts = torch.bincount(bins.flatten() - 1, minlength=len(EDGES) - 1)
        height, width = e.shape[-2:]
        padded, steps = F.pad(e, [REACH] * 4), range(2 * REACH + 1)
        shifts = np.abs(np.arange(-REACH, REACH + 1))
        overlap = np.outer(np.maximum(height - shifts, 0), np.maximum(width - shifts, 0))
        return cls(
            count=e.numel(),
            sums=(float(e.sum()), float(e.square().sum())),
            histogram=tuple(counts.tolist()),
            products=[
                [float((e * padded[..., i : i + height, j : j + width]).sum()) for j in steps]
                for i in steps
            ],
            pairs=e.shape[:-2].numel() * overlap,
        )

    def __add__(self, other: ErrorStatistics) -> ErrorStatistics:
        return ErrorStatistics(
            count=self.count + other.count,
            sums=(self.sums[0] + other.sums[0], self.sums[1] + other.sums[1]),
            histogram=tuple(map(add, self.histogram, other.histogram)),
            products=self.products + other.products,
            pairs=self.pairs + other.pairs,
        )

    @property
    def mean(self) -> float:
        """Mean of e; 0 if μ is right on average."""
        return self.sums[0] / self.count

    @property
    def deviation(self) -> float:
        """Standard deviation of e; 1 if σ is right on average, smaller if σ is too large."""
        return math.sqrt(max(self.sums[1] / self.count - self.mean**2, 0.0))

    @property
    def correlation(self) -> Array:
        """Correlation of e with its neighbours, (2R+1, 2R+1); 1 at the centre."""
        energy = self.products[REACH, REACH] / self.pairs[REACH, REACH]
        with np.errstate(invalid="ignore"):
            correlation: Array = self.products / self.pairs / energy
        return correlation

    @property
    def neighbour_correlation(self) -> float:
        """Mean correlation of e with its four nearest neighbours."""
        around = self.correlation[REACH - 1 : REACH + 2, REACH - 1 : REACH + 2]
        return float(around[[0, 1, 1, 2], [1, 0, 2, 1]].mean())
