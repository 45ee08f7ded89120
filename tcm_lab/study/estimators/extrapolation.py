"""Extrapolation of a paired curve to longer trainings, by a power law with its uncertainty.

The losses of two codecs trained in the same way fall roughly as power laws of the steps t to their
own levels (Hestness et al. 2017, "Deep learning scaling is predictable, empirically"), so their
difference is a + b t^-c: a transient, and a remainder. All three parameters are fitted together.
Since c is poorly determined, all its values count by their likelihood, and the interval of a
prediction for a larger budget reflects that: if the truth is such a law, simulated 95 % intervals
cover it in 90 to 99 % of draws. A prediction holds only if the larger budget has the same schedule.
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
    """Draws of the curve a + b (t / T)^-c given the data.

    Attributes:
        steps: T, the steps of the data.
        a: a of each draw, in percent, (draws,).
        b: b of each draw, in percent, (draws,).
        c: c of each draw, the power, (draws,).
        noise: standard deviation between seeds, which a fit to one seed cannot show.
    """

    steps: int
    a: _Array
    b: _Array
    c: _Array
    noise: float = 0.0

    def at(self, step: float) -> Interval:
        """Return the difference after ``step`` steps, with its 95 % interval."""
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
        """Return the step, up to ``step``, at which the sign changes; None if that is not certain.

        Both the present sign and the one at ``step`` must be significant. Variation between seeds
        shifts the crossing as it shifts the curve; a draw that crosses earlier or later counts at
        that end.
        """
        now, then = self.at(self.steps), self.at(step)
        if not (now.excludes_zero and then.excludes_zero and now.value * then.value < 0):
            return None
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            when = self.steps * (-(self.a + self._of_seeds) / self.b) ** (-1 / self.c)
        keeps_sign = self._values(self.steps) * now.value > 0  # for draws that never cross
        when = np.where(np.isnan(when), np.where(keeps_sign, step, self.steps), when)
        when = when.clip(self.steps, step)
        low, high = np.quantile(when, _ENDS).tolist()
        return Interval(value=float(np.median(when)), low=low, high=high, samples=len(when))

    def widest(self, most: float = 100) -> float:
        """Return the largest multiple of the data's budget at which the present sign is certain.

        It is 0 if the sign is not certain even now.
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
        """Variation between seeds, added to each draw equally at every step."""
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
    """Fit a power law to a paired curve.

    Args:
        rows: the curve; its mean over seeds is fitted.
        begin: share of the steps to leave out at the start, where the codecs have yet to become
            useful transforms.
        end: last step of the fit; a cooldown after it may bend the curve for other reasons than
            learning more.
        seed_sd: standard deviation between seeds of such a difference, measured elsewhere; by
            default, that of the available seeds if there are several.
        seed: seed of the draws.

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
    residuals = y - y.mean() - slopes[:, None] * centred
    rss = (residuals**2).sum(axis=1)
    inflation = _inflation(residuals[rss.argmin()])
    freedom = max(len(y) / inflation - 3, 2.0)  # by the effective number of independent values
    # The likelihood of each power, marginal over a and b. Transients are scaled to equal height
    # over the data, so that no power is favoured by its scale.
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
    """Return the factor by which correlated neighbours increase the variance of a mean."""
    whole = float(residuals @ residuals)
    correlation = float(residuals[1:] @ residuals[:-1]) / whole if whole > 0 else 0.0
    correlation += (1 + 4 * correlation) / len(residuals)  # corrects the bias from fitting
    correlation = min(max(correlation, 0.0), 0.9)
    return (1 + correlation) / (1 - correlation)
