"""A figure with the interval that resampling its images gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tcm_lab._utils import Frozen

LEVEL = 0.95
_RESAMPLES = 1000


class Estimate(Frozen):
    """A figure over images and its bootstrap interval.

    Attributes:
        value: over all images.
        low: lower end; the value itself where there is one image.
        high: upper end.
        level: share of the resamples between the two.
        images: how many images.
    """

    value: float
    low: float
    high: float
    level: float = LEVEL
    images: int


def resample(count: int, seed: int) -> NDArray[np.float64]:
    """Return resamples of ``count`` images as weights (R, count) whose rows sum to one.

    The first row is the images as they are.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    return np.concatenate([np.full((1, count), 1 / count), drawn / count])


def estimate_from(figures: NDArray[np.float64], images: int) -> Estimate:
    """Return the first figure with the interval of the others."""
    value, others = float(figures[0]), figures[1:]
    if images == 1 or not np.isfinite(others).any():
        return Estimate(value=value, low=value, high=value, images=images)
    low, high = np.nanquantile(others, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), images=images)


def mean_estimate(per_image: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean over images with its interval."""
    values = np.asarray(per_image, dtype=np.float64)
    return estimate_from(resample(len(values), seed) @ values, len(values))


def paired(
    a: Sequence[float],
    b: Sequence[float],
    figure: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int = 0,
) -> Estimate:
    """Return ``figure`` of two lists' means, resampled together: an image is hard for both."""
    weights = resample(len(a), seed)
    return estimate_from(figure(weights @ np.asarray(a), weights @ np.asarray(b)), len(a))
