"""Intervals: the value type that carries uncertainty, and the bootstrap that computes it.

This module does not know what is resampled: the caller names the units (images, seeds, turns) and
computes a statistic from a draw of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError

LEVEL = 0.95
NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Half of a 95 % interval, in standard deviations."""
RESAMPLES = 1000
FEW = 6
"""Number of units from which percentiles of resamples hold; fewer get Student's interval."""
MAX_REFUSED_SHARE = 0.05

Draw = Mapping[str, NDArray[np.int64]]
"""For each unit, indexes drawn with replacement, as many as there are: (N,), or (R, N) for R draws
at once."""


class Interval(Frozen):
    """A value and its bootstrap interval.

    Attributes:
        value: value of the data as they are.
        low: lower end; the value itself if there is nothing to resample.
        high: upper end.
        level: share of such intervals that hold the true value.
        resampled: the units drawn with replacement, and their numbers: ``{"images": 24}``.
        samples: number of resamples that gave a value.
        refused: number of resamples that gave none.
        noise: standard deviation from sources that were not resampled, such as seeds; it moves the
            ends further out. Of a ratio in percent, it is 100 times that of the logarithm.
    """

    value: float
    low: float
    high: float
    level: float = LEVEL
    resampled: dict[str, int] = Field(default_factory=dict)
    samples: int = 0
    refused: int = 0
    noise: float = 0.0

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero; not if it has no width.

        An interval without width shows no variation, as that of a single image.
        """
        return self.low < self.high and (self.low > 0 or self.high < 0)

    def __format__(self, form: str) -> str:
        """Return ``value [low, high]``, each in a format of numbers."""
        low, high = (format(end, form) for end in (self.low, self.high))
        return f"{self.value:{form}} [{low}, {high}]" if form else str(self)


class IncompleteInterval(Interval):
    """An interval that leaves out a source of variation, and so never excludes zero.

    Attributes:
        of_one_image: whether it leaves out variation between images, not only between seeds.
    """

    of_one_image: bool = False

    @property
    def excludes_zero(self) -> bool:
        """False: it is not known how much further out the ends belong."""
        return False

    @property
    def lacks(self) -> str:
        """The sources that it leaves out: ``seeds``, ``images``, or ``images and seeds``."""
        if not self.of_one_image:
            return "seeds"
        return "images" if self.noise else "images and seeds"


def bootstrap(
    statistic: Callable[[Draw], Any],
    units: Mapping[str, int],
    *,
    samples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    vectorized: bool = False,
    noise: float = 0.0,
) -> Interval:
    """Return a statistic with its percentile interval over resampled units.

    Resamples of few units vary less than new units would, so the percentiles lie further out the
    fewer there are: the expanded percentile interval of Hesterberg ("What teachers should know
    about the bootstrap", 2015). No percentile reaches beyond the data, so fewer than `FEW` units
    get Student's interval instead, with the standard deviation of the resamples. Of several units
    the most numerous decides: three seeds have too few resamples to hold 95 % of them, and belong
    in ``noise``.

    A comparison is paired by using one draw on both of its sides: an image that is hard for one
    codec is hard for the other.

    Args:
        statistic: maps one draw of all units to a number. It may refuse a draw by a ``LabError``,
            ``ValueError`` or NaN; it must not refuse the data as they are.
        units: number of each unit to resample; a single one is not resampled.
        samples: number of resamples.
        level: share of the resamples that the interval holds.
        seed: seed of the resampling.
        vectorized: whether ``statistic`` takes R draws at once, indexes of (R, N), and returns
            their (R,) values, NaN for those that it refuses.
        noise: standard deviation of the statistic from sources that are not resampled, such as
            `mean_noise` of its seeds; it widens the interval as a normal variable would.

    Raises:
        LabError: the statistic refuses the data, or more than a twentieth of the resamples.
    """
    resampled = {name: count for name, count in units.items() if count > 1}
    count = samples if resampled else 0
    rows = _draws(tuple(units.items()), count, seed)
    if vectorized:
        value, *values = np.asarray(statistic(rows), dtype=float).tolist()
    else:
        whole, *draws = ({name: own[i] for name, own in rows.items()} for i in range(1 + count))
        value, values = float(statistic(whole)), [value_or_nan(statistic, draw) for draw in draws]
    if np.isnan(value):
        raise LabError("no interval: the data themselves give no value.")
    margin = NormalDist().inv_cdf((1 + level) / 2) * noise
    if not resampled:
        ends = {"low": value - margin, "high": value + margin}
        return Interval(value=value, **ends, level=level, noise=noise)
    valid = np.array(values)[~np.isnan(values)]
    refused = samples - len(valid)
    if refused > MAX_REFUSED_SHARE * samples:
        raise LabError(
            f"{refused} of {samples} resamples gave no value: the data are too few or too noisy. "
            "Measure more rates, images or seeds."
        )
    low, high = _ends(value, valid, level, max(resampled.values()))
    if noise:  # two independent parts: their half-widths add as standard deviations do
        low = value - math.hypot(value - low, margin)
        high = value + math.hypot(high - value, margin)
    return Interval(
        value=value, low=low, high=high, level=level,
        resampled=resampled, samples=len(valid), refused=refused, noise=noise,
    )  # fmt: skip


@lru_cache(maxsize=32)
def _draws(units: tuple[tuple[str, int], ...], samples: int, seed: int) -> Draw:
    """Return indexes of each unit, (1 + samples, N): the data as they are, then the resamples.

    Reports compare hundreds of pairs over the same units, so the draws are cached.
    """
    rng = np.random.default_rng(seed)
    rows = {name: [np.arange(count)] for name, count in units}
    for _ in range(samples):
        for name, count in units:
            rows[name].append(rng.integers(count, size=count) if count > 1 else rows[name][0])
    stacked = {name: np.stack(each) for name, each in rows.items()}
    for each in stacked.values():
        each.flags.writeable = False
    return stacked


def as_percent(log_ratio: Interval) -> Interval:
    """Return the interval of a ratio's natural logarithm as that of its change in percent.

    Ratios vary by factors. Computed on the logarithm, no interval reaches beyond -100 %.
    """
    ends = {
        end: 100 * math.expm1(getattr(log_ratio, end)) for end in ("value", "low", "high")
    }  # fmt: skip
    return log_ratio.model_copy(update={**ends, "noise": 100 * log_ratio.noise})


def within(interval: Interval, low: float, high: float) -> Interval:
    """Return an interval whose ends lie within the range of its statistic."""
    ends = {"low": float(max(low, interval.low)), "high": float(min(high, interval.high))}
    return interval.model_copy(update=ends)


def over_images(interval: Interval) -> Interval:
    """Return an interval over images, as an incomplete one if there was one image."""
    if "images" in interval.resampled:
        return interval
    return IncompleteInterval(**{**dict(interval), "of_one_image": True})


def student_factor(freedom: float) -> float:
    """Return the ratio of Student's 95 % limits to the normal ones.

    A standard deviation that is estimated with ``freedom`` degrees of freedom is multiplied by it.
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2)) / NORMAL


def mean_noise(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the standard deviation of the mean of a few values, estimated from their spread.

    It is multiplied by `student_factor`, since a few values estimate it poorly; it is 0 for a
    single value, which does not show it at all.
    """
    count = len(values)
    if count == 1:
        return 0.0
    return student_factor(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)


def _ends(
    value: float, resampled: NDArray[np.float64], level: float, count: int
) -> tuple[float, float]:
    """Return the ends of an interval around a value from its resamples over ``count`` units."""
    from scipy.special import ndtr, stdtrit

    student, expanded = stdtrit(count - 1, (1 + level) / 2), math.sqrt(count / (count - 1))
    if count < FEW:
        half = float(student * expanded * resampled.std())
        return value - half, value + half
    tail = float(ndtr(-expanded * student))
    low, high = np.quantile(resampled, [tail, 1 - tail]).tolist()
    return low, high


def shares(indexes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weight of each of N units in each of R draws, (R, N) of rows that sum to one.

    ``shares(draw["images"]) @ values`` is the mean of every draw.
    """
    draws, count = indexes.shape
    cells = indexes + count * np.arange(draws)[:, None]
    return np.bincount(cells.ravel(), minlength=draws * count).reshape(draws, count) / count


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of one value per image with its interval."""
    array = np.asarray(values, dtype=float)

    def mean(draw: Draw) -> Any:
        return shares(draw["images"]) @ array

    return bootstrap(mean, {"images": len(array)}, vectorized=True)


def percent_change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return the change of the mean in percent, with the same images drawn on both sides."""
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)

    def change(draw: Draw) -> Any:
        weights = shares(draw["images"])
        return 100 * ((weights @ new) / (weights @ old) - 1)

    return bootstrap(change, {"images": len(old)}, vectorized=True)


def group_letters(count: int, differ: Callable[[int, int], bool]) -> list[str]:
    """Return letters for ranked items: two share one if, and only if, they are indistinguishable.

    The algorithm inserts and absorbs (Piepho, "An algorithm for a letter-based representation of
    all-pairwise comparisons", 2004).

    Args:
        count: number of items, the best first.
        differ: whether items ``i < j`` are distinguishable.
    """
    groups = [frozenset(range(count))]
    for i, j in combinations(range(count), 2):
        if differ(i, j):
            split = {group - {each} for group in groups for each in {i, j} if {i, j} <= group}
            split |= {group for group in groups if not {i, j} <= group}
            groups = [group for group in split if not any(group < other for other in split)]
    names = {group: _letter(index) for index, group in enumerate(sorted(groups, key=sorted))}
    return [
        "".join(letter for group, letter in names.items() if each in group) for each in range(count)
    ]


def _letter(index: int) -> str:
    rounds, place = divmod(index, 26)
    return chr(ord("a") + place) + (str(rounds) if rounds else "")


def value_or_nan(statistic: Callable[..., Any], *args: Any) -> float:
    """Return the statistic, or NaN if it refuses its arguments."""
    try:
        return float(statistic(*args))
    except (LabError, ValueError):
        return float("nan")
