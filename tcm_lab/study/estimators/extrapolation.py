"""What a paired curve says of longer trainings: a power law with its uncertainty.

The losses of two codecs that are trained alike fall roughly as power laws of the steps t to levels
of their own (Hestness et al. 2017, "Deep learning scaling is predictable, empirically"), so their
difference is a + b t^-c: a transient, and what remains. The three are fitted together; c is known
badly, so all its values count by their likelihood, and a prediction for a larger budget has the
width that this leaves: where the truth is such a law, simulated intervals of 95 % hold it in 90 to
99 % of draws. It holds as far as the schedule of the larger budget is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tcm_lab.errors import LabError
from tcm_lab.stats import LEVEL, Interval
from tcm_lab.study.estimators.paired_curve import PairedRows, seed_noise

_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # shares of the draws below an interval's ends
_POWERS = np.geomspace(0.05, 3.0, 80)
_DRAWS = 4000
FEWEST_FITTED = 8
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Extrapolation:
    """Draws of the curve a + b (t / T)^-c that the data allow.

    Attributes:
        steps: T, those of the data.
        a: of each draw, in percent, (draws,).
        b: likewise.
        c: likewise, the power.
        noise: standard deviation of what seeds add, which no fit to one seed sees.
    """

    steps: int
    a: _Array
    b: _Array
    c: _Array
    noise: float = 0.0

    def at(self, step: float) -> Interval:
        """Return the difference after so many steps with its 95 % interval."""
        values = self._values(step)
        low, high = np.quantile(values, _ENDS).tolist()
        return Interval(
            value=float(np.median(values)),
            low=low,
            high=high,
            samples=len(values),
            noise=self.noise,
        )

    def turns(self, step: float) -> Interval | None:
        """Return when the sign turns on the way to ``step``; None if it may not, or has not one.

        Both the sign now and the one at ``step`` must be clear of chance. What seeds add moves the
        turn as it moves the curve; a draw that turns before or after counts at that end.
        """
        now, then = self.at(self.steps), self.at(step)
        if not (now.excludes_zero and then.excludes_zero and now.value * then.value < 0):
            return None
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            when = self.steps * (-(self.a + self._of_seeds) / self.b) ** (-1 / self.c)
        keeps = self._values(self.steps) * now.value > 0  # the sign, where it never turns
        when = np.where(np.isnan(when), np.where(keeps, step, self.steps), when)
        when = when.clip(self.steps, step)
        low, high = np.quantile(when, _ENDS).tolist()
        return Interval(value=float(np.median(when)), low=low, high=high, samples=len(when))

    def widest(self, most: float = 100) -> float:
        """Return the largest budget, in multiples of the data's, at which the present sign is sure.

        0 where it is not even now.
        """
        now = self.at(self.steps)
        if not now.excludes_zero:
            return 0.0
        sure = 1.0
        for times in np.geomspace(1, most, 41)[1:]:
            then = self.at(self.steps * times)
            if not then.excludes_zero or then.value * now.value < 0:
                return sure
            sure = float(times)
        return sure

    @property
    def _of_seeds(self) -> _Array:
        """What seeds add to each draw, at every step alike."""
        return np.random.default_rng(1).standard_normal(len(self.a)) * self.noise

    def _values(self, step: float) -> _Array:
        values: _Array = self.a + self.b * (step / self.steps) ** -self.c + self._of_seeds
        return values


def extrapolate(
    rows: PairedRows,
    *,
    begin: float = 0.2,
    end: int | None = None,
    seed_sd: float = 0.0,
    seed: int = 0,
) -> Extrapolation:
    """Fit a paired curve.

    Args:
        rows: the curve; its mean over seeds is fitted.
        begin: share of the steps before which the curve is left out: there the codecs still become
            transforms at all.
        end: the last step of the fit; after it a cooldown may turn the curve for another reason
            than that more was learned.
        seed_sd: standard deviation between seeds of such a difference, measured elsewhere. The
            seeds at hand show it, too, where there are several.
        seed: of the draws.

    Raises:
        LabError: too few rows.
    """
    steps, data = np.array(rows.steps, dtype=float), np.array(rows.percent)
    total = float(steps[-1])
    fitted = (steps > begin * total) & (steps <= (total if end is None else end))
    steps, data = steps[fitted], data[:, fitted]
    if len(steps) < FEWEST_FITTED:
        raise LabError(f"{len(steps)} losses: an extrapolation needs {FEWEST_FITTED} or more")
    y = data.mean(axis=0)
    x = (steps / total) ** -_POWERS[:, None]  # (powers, N)
    centred = x - x.mean(axis=1, keepdims=True)
    extent = (centred**2).sum(axis=1)
    slopes = centred @ (y - y.mean()) / extent
    left = y - y.mean() - slopes[:, None] * centred
    rss = (left**2).sum(axis=1)
    inflation = _inflation(left[rss.argmin()])
    freedom = max(len(y) / inflation - 3, 2.0)  # of as many values that know nothing of each other
    # The likelihood of each power when a and b are left open; of transients that are as high over
    # the data, so that no power is favoured by its scale.
    logs = np.log(np.ptp(x, axis=1)) - np.log(extent) / 2 - freedom / 2 * np.log(rss + 1e-30)
    weights = np.exp(logs - logs.max())
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(_POWERS), size=_DRAWS, p=weights / weights.sum())
    students = rng.standard_t(freedom, size=(2, _DRAWS))
    sd = np.sqrt(rss[chosen] / freedom)
    slope = slopes[chosen] + sd * students[0] / np.sqrt(extent[chosen])
    level = y.mean() + sd * students[1] / math.sqrt(len(y))
    return Extrapolation(
        steps=int(total),
        a=level - slope * x.mean(axis=1)[chosen],
        b=slope,
        c=_POWERS[chosen],
        noise=seed_noise(data, seed_sd),
    )


def _inflation(residuals: _Array) -> float:
    """Return by how much neighbours that are alike widen the variance of a mean."""
    whole = float(residuals @ residuals)
    correlation = float(residuals[1:] @ residuals[:-1]) / whole if whole > 0 else 0.0
    correlation += (1 + 4 * correlation) / len(residuals)  # what fitting hides of it
    correlation = min(max(correlation, 0.0), 0.9)
    return (1 + correlation) / (1 - correlation)
