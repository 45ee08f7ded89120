"""Intervals: the one value type that carries uncertainty, and the one bootstrap that fills it.

Nothing here knows what is resampled; the caller names the units (images, seeds, turns) and says
how a statistic follows from a draw of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError

LEVEL = 0.95
RESAMPLES = 1000
MAX_REFUSED_SHARE = 0.05

Draw = Mapping[str, NDArray[np.int64]]
"""For each unit, the indexes that were drawn: with replacement, as many as there are."""


class Interval(Frozen):
    """A value and its percentile bootstrap interval.

    Attributes:
        value: of the data as they are.
        low: lower end; the value itself where there was nothing to resample.
        high: upper end.
        level: share of the resamples between the two ends.
        resampled: what was drawn with replacement, and how many of it: ``{"images": 24}``.
        samples: number of resamples that gave a value.
        refused: number of resamples that gave none.
    """

    value: float
    low: float
    high: float
    level: float = LEVEL
    resampled: dict[str, int] = Field(default_factory=dict)
    samples: int = 0
    refused: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap(
    statistic: Callable[[Draw], float],
    units: Mapping[str, int],
    *,
    samples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return a statistic with its percentile interval over resampled units.

    A comparison is paired by using one draw on both of its sides: an image that is hard for one
    codec is hard for the other.

    Args:
        statistic: of one draw of all units. It may refuse a draw by a ``LabError``, ``ValueError``
            or NaN; it must not refuse the data as they are.
        units: how many there are of each thing that is resampled; a unit of one is kept.
        samples: number of resamples.
        level: share of the resamples that the interval holds.
        seed: of the resampling.

    Raises:
        LabError: the statistic refuses the data, or more than a twentieth of the resamples.
    """
    value = float(statistic({name: np.arange(count) for name, count in units.items()}))
    resampled = {name: count for name, count in units.items() if count > 1}
    if not resampled:
        return Interval(value=value, low=value, high=value, level=level)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        draw = {name: rng.integers(count, size=count) for name, count in units.items()}
        try:
            values.append(float(statistic(draw)))
        except (LabError, ValueError):
            continue
    found = np.array([each for each in values if not np.isnan(each)])
    refused = samples - len(found)
    if refused > MAX_REFUSED_SHARE * samples:
        raise LabError(
            f"{refused} of {samples} resamples gave no value: the data are too few or too noisy. "
            "Measure more rates, images or seeds."
        )
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        value=value,
        low=float(low),
        high=float(high),
        level=level,
        resampled=resampled,
        samples=len(found),
        refused=refused,
    )
