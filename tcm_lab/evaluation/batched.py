"""BD-rates of many pairs of curves at once, for the resamples of an interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


def bd_rates(anchor: _Array, curve: _Array, min_overlap: float) -> _Array:
    """Return the BD-rates by pchip of R pairs of curves at once; NaN for refused pairs.

    Each side is (R, points, [bpp, mse, psnr_db]).
    """
    logs, qualities, rising = [], [], []
    for side in (anchor, curve):
        order = np.argsort(side[..., 0], axis=1)
        ordered = np.take_along_axis(side, order[..., None], axis=1)
        logs.append(np.log10(ordered[..., 0]))
        qualities.append(ordered[..., 2])
        rising.append((np.diff(ordered[..., [0, 2]], axis=1) > 0).all(axis=(1, 2)))
    low = np.maximum(*(quality[:, 0] for quality in qualities))
    high = np.minimum(*(quality[:, -1] for quality in qualities))
    narrower = np.minimum(*(quality[:, -1] - quality[:, 0] for quality in qualities))
    fit = rising[0] & rising[1] & (high > low) & (high - low >= min_overlap * narrower)
    low, high = low[fit], high[fit]
    areas = [
        _pchip_integral(quality[fit], log[fit], low, high)
        for quality, log in zip(qualities, logs, strict=True)
    ]
    percent = np.full(len(fit), math.nan)
    percent[fit] = 100 * (10 ** ((areas[1] - areas[0]) / (high - low)) - 1)
    return percent


def _pchip_integral(x: _Array, y: _Array, low: _Array, high: _Array) -> _Array:
    """Integrate R monotone cubic interpolants of rising (R, K) values from low to high (R,).

    The slopes at the points are those of Fritsch and Butland (1984), as in scipy's
    ``PchipInterpolator``, which accepts only one row of abscissas at a time.
    """
    step = np.diff(x)
    secant = np.diff(y) / step
    slope = np.empty_like(y)
    if x.shape[1] == 2:
        slope[:] = secant
    else:
        left, right = 2 * step[:, 1:] + step[:, :-1], step[:, 1:] + 2 * step[:, :-1]
        slope[:, 1:-1] = (left + right) / (left / secant[:, :-1] + right / secant[:, 1:])
        for end, h0, h1, m0, m1 in (
            (0, step[:, 0], step[:, 1], secant[:, 0], secant[:, 1]),
            (-1, step[:, -1], step[:, -2], secant[:, -1], secant[:, -2]),
        ):
            slope[:, end] = np.maximum(((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1), 0)

    def area(until: _Array) -> _Array:
        t = ((until[:, None] - x[:, :-1]) / step).clip(0, 1)
        values = y[:, :-1] * (t - t**3 + t**4 / 2) + y[:, 1:] * (t**3 - t**4 / 2)
        slopes = slope[:, :-1] * (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4)
        slopes += slope[:, 1:] * (t**4 / 4 - t**3 / 3)
        total: _Array = (step * (values + step * slopes)).sum(axis=1)
        return total

    return area(high) - area(low)
