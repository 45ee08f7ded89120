"""Paired curves: a variant's training loss against the baseline's, on the same crops and noise.

Variants of a study share all random numbers of a seed, so the difference of two losses at a step is
due to the codecs, with little chance in it. Its course shows what a single number can't: whether a
lead grows, shrinks or reverses as the budget grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.stats import (
    LEVEL,
    NORMAL,
    IncompleteInterval,
    Interval,
    mean_noise,
    student_factor,
)
from tcm_lab.study.estimators.base import Comparison, normal_interval

if TYPE_CHECKING:
    from tcm_lab.study.record import TrialRecord

FEWEST_ROWS = 4
_WINDOWS = 10
_BLOCK_ROWS = 12
_Array = NDArray[np.float64]


class PairedRows(Frozen):
    """Differences from the baseline after every few steps.

    Attributes:
        steps: the step of each difference, ascending.
        percent: for each seed, the differences in loss, all rates weighted equally, in percent.
    """

    steps: tuple[int, ...]
    percent: tuple[tuple[float, ...], ...]


def paired_rows(compared: Comparison) -> PairedRows:
    """Return a variant's training loss relative to the baseline's, step by step.

    Raises:
        LabError: they were not trained for the same steps with the same seeds, or their records
            hold no losses.
    """
    if not compared.paired:
        raise LabError(
            "the baseline has other seeds; training losses are only comparable on the same crops"
        )
    sides = [[_losses(r) for r in side] for side in (compared.own, compared.baseline)]
    steps = sorted(set.intersection(*(set(curve) for side in sides for curve in side)))
    if len(steps) < FEWEST_ROWS:
        raise LabError(
            f"{len(steps)} losses in common: a paired curve needs {FEWEST_ROWS}. Train more "
            "steps; records from earlier versions hold no losses."
        )
    percent = [
        tuple(100 * (own[step] - base[step]) for step in steps)
        for own, base in zip(*sides, strict=True)
    ]
    return PairedRows(steps=tuple(steps), percent=tuple(percent))


def _losses(record: TrialRecord) -> dict[int, float]:
    """Return the mean log loss by step; over all sets of weights if each rate has its own."""
    curves = [dict(zip(t.curve.steps, t.curve.log_loss, strict=True)) for t in record.trainings]
    if not curves:
        return {}
    return {
        step: math.fsum(curve[step] for curve in curves) / len(curves)
        for step in curves[0]
        if all(step in curve for curve in curves)
    }


class PairedCurve(Frozen):
    """A paired curve in windows of steps, each with its interval.

    Attributes:
        steps: last step of the training, at the end of the last window.
        ends: last step of each window.
        windows: mean difference in percent in each window, over steps and seeds.
        unchanged_since: step from which on no window is distinguishable from the last one; None if
            only the last window is like that, so the curve still moves.
        crossed: end of the window by which the sign had changed for good, both signs being
            significant; None if it never did.
    """

    steps: int
    ends: tuple[int, ...]
    windows: tuple[Interval, ...]
    unchanged_since: int | None
    crossed: int | None

    @property
    def last(self) -> Interval:
        """The difference in the last window."""
        return self.windows[-1]


def paired_curve(rows: PairedRows, *, seed_sd: float = 0.0) -> PairedCurve:
    """Divide a paired curve into ten windows of equal length, or fewer with enough rows in each.

    Args:
        rows: the curve.
        seed_sd: standard deviation between seeds of such a difference, measured elsewhere; by
            default, that of the available seeds if there are several.
    """
    steps, data = np.array(rows.steps), np.array(rows.percent)
    count = max(2, min(_WINDOWS, len(steps) // FEWEST_ROWS))
    edges = np.linspace(0, steps[-1], count + 1)[1:]
    place = np.searchsorted(edges, steps - 1e-9)
    parts = [part for w in range(count) if len(part := np.flatnonzero(place == w))]
    means = np.stack([data[:, part].mean(axis=1) for part in parts], axis=1)  # (S, windows)
    seeds, noise = len(data), row_noise(data)
    if seeds > 1 and not seed_sd:  # variation between seeds, pooled over the windows
        seed_sd = student_factor(seeds - 1) * math.sqrt(means.var(axis=0, ddof=1).mean())
    found = [
        normal_interval(
            float(mean), math.hypot(noise / math.sqrt(len(part)), seed_sd) / math.sqrt(seeds)
        )
        for mean, part in zip(means.mean(axis=0), parts, strict=True)
    ]
    ends = tuple(int(steps[part[-1]]) for part in parts)
    return PairedCurve(
        steps=int(steps[-1]),
        ends=ends,
        windows=tuple(found),
        unchanged_since=_unchanged_since(ends, found),
        crossed=_crossed(ends, found),
    )


def row_noise(data: _Array) -> float:
    """Return the standard deviation of one row of (S, N), as it counts in a mean of many rows.

    It is the median over blocks of rows of what remains after subtracting each block's line, so
    the curve's own course does not count. Correlated neighbours (trained on the same earlier crops)
    count as fewer rows, as in a first-order autoregressive process.
    """
    size = max(min(_BLOCK_ROWS, data.shape[1]), 1)
    blocks = [data[:, at : at + size] for at in range(0, data.shape[1] - size + 1, size)]
    rows = np.concatenate(blocks)  # (S blocks, size)
    x = np.arange(size) - (size - 1) / 2
    slopes = rows @ x / max(x @ x, 1)
    residuals = rows - rows.mean(axis=1, keepdims=True) - slopes[:, None] * x
    residuals = residuals[(residuals != 0).any(axis=1)]  # skip codecs that do not differ yet
    if size < FEWEST_ROWS or not len(residuals):
        return 0.0
    squares = (residuals**2).sum(axis=1)
    products = (residuals[:, 1:] * residuals[:, :-1]).sum(axis=1)
    correlation = float(np.median(products / squares))
    if size > FEWEST_ROWS:  # correct the bias from subtracting lines
        correlation = (correlation + 2 / size) / (1 - 4 / size)
    correlation = min(max(correlation, 0.0), 0.9)
    freedom = size - 2
    variance = float(np.median(squares)) / freedom / (1 - 2 / (9 * freedom)) ** 3  # a χ²'s median
    return math.sqrt(variance * (1 + correlation) / (1 - correlation))


def mean_of_rows(data: _Array, noise: float, seed_sd: float = 0.0) -> Interval:
    """Return the mean of rows (S, N) with its 95 % interval over rows and seeds.

    With a single seed and nothing measured elsewhere, the interval is incomplete.

    Args:
        data: rows of each seed.
        noise: standard deviation of one row, from `row_noise`.
        seed_sd: standard deviation between seeds, measured elsewhere; by default, that of the
            available seeds if there are several.
    """
    seeds, count = data.shape
    between = seed_noise(data, seed_sd)
    interval = normal_interval(
        float(data.mean()), math.hypot(noise / math.sqrt(seeds * count), between)
    )
    return interval if seeds > 1 or seed_sd else IncompleteInterval(**dict(interval))


def seed_noise(data: _Array, seed_sd: float) -> float:
    """Return the standard deviation that seeds add to the mean over the available seeds, (S, N)."""
    if seed_sd:
        return seed_sd / math.sqrt(len(data))
    return mean_noise(data.mean(axis=1))


def _signs(windows: Sequence[Interval]) -> list[int]:
    """Return each window's sign; 0 if it is not significant among all windows."""
    limit = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / len(windows))
    return [int(np.sign(w.value)) if abs(w.value) > limit * w.noise else 0 for w in windows]


def _crossed(ends: Sequence[int], windows: Sequence[Interval]) -> int | None:
    signs = _signs(windows)
    last = next((sign for sign in reversed(signs) if sign), 0)
    other = [place for place, sign in enumerate(signs) if sign == -last and last]
    if not other:
        return None
    return next(
        end for end, sign in zip(ends[other[-1] :], signs[other[-1] :], strict=True) if sign == last
    )


def _unchanged_since(ends: Sequence[int], windows: Sequence[Interval]) -> int | None:
    """Return the end of the first window from which on all agree with the last."""
    last = windows[-1]
    others = [
        place
        for place, window in enumerate(windows)
        if abs(window.value - last.value) > NORMAL * math.hypot(window.noise, last.noise)
    ]
    first = max(others, default=-1) + 1
    return ends[first] if first < len(windows) - 1 else None
