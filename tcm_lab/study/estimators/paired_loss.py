"""``paired-loss`` and ``extrapolated``: estimates from training losses on the same crops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from tcm_lab.codec import VariantConfig
from tcm_lab.errors import ConfigError
from tcm_lab.stats import Interval
from tcm_lab.study.estimators.base import Comparison, register_estimator
from tcm_lab.study.estimators.extrapolation import FEWEST_FITTED, extrapolate
from tcm_lab.study.estimators.paired_curve import FEWEST_ROWS, mean_of_rows, paired_rows, row_noise
from tcm_lab.study.estimators.train import Train
from tcm_lab.training import Recipe

if TYPE_CHECKING:
    from tcm_lab.study.record import TrialRecord

_ROW = 10  # steps per row of a training's log


class LossEstimator(Train):
    """Reads the training losses of a variant and of the baseline on the same crops and noise.

    The training is that of ``train`` with as many steps, so either reuses the other's records.
    """

    def fewest(self, recipe: Recipe) -> int:
        """Return the steps of the shortest training with a recipe that can be read."""
        del recipe
        return FEWEST_ROWS * _ROW

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse a training that is too short to have a curve."""
        own = self.recipe(recipe)
        if own.steps < (fewest := self.fewest(own)):
            where = "budget.steps" if self.steps is None else "its steps"
            raise ConfigError(
                f"estimator {self.type}: reads the losses of {fewest} steps or more, not of "
                f"{own.steps}; raise {where}"
            )

    def percent(self, own: TrialRecord, baseline: TrialRecord) -> float:
        """Return the interval's value; only roughly for different seeds, which share no crops."""
        return self.difference(Comparison([own], [baseline])).value


@register_estimator("paired-loss")
class PairedLoss(LossEstimator):
    """Takes the mean difference of the training losses over the last steps.

    Attributes:
        steps: steps of each training, instead of the budget's.
        window: share of the steps over which the mean is taken.
    """

    type: str = "paired-loss"
    bias = "sees only training crops with noise, without rounding or bytes, at this budget"
    over = "steps, and over seeds if there are several"

    window: Annotated[float, Field(gt=0, le=1)] = 0.4

    def difference(self, compared: Comparison) -> Interval:
        """Return the mean over the window with its interval over steps and seeds."""
        rows = paired_rows(compared)
        steps, percent = np.array(rows.steps), np.array(rows.percent)
        late = steps > (1 - self.window) * steps[-1]
        return mean_of_rows(percent[:, late], row_noise(percent), compared.seed_sd_loss)


@register_estimator("extrapolated")
class Extrapolated(LossEstimator):
    """Fits a power law of the steps to the paired losses, and takes its value at a larger budget.

    Attributes:
        steps: steps of each training, instead of the budget's.
        times: the larger budget, in multiples of the trained one.
        begin: share of the steps to leave out at the start.
    """

    type: str = "extrapolated"
    bias = "assumes that the difference continues as a power law of the steps"
    over = "the uncertainty of the fit to the steps"

    times: Annotated[float, Field(ge=1, le=1e6)] = 10.0
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def fewest(self, recipe: Recipe) -> int:
        """Return the steps of the shortest training with a recipe that can be fitted."""
        end = 1 - recipe.cooldown if recipe.schedule == "constant" else 1.0
        if self.begin >= end:
            raise ConfigError(
                f"estimator {self.type}: begin = {self.begin:g} leaves no losses before the "
                f"cooldown, which begins at {end:g} of the steps; lower it"
            )
        rows = math.ceil(FEWEST_FITTED / (end - self.begin))
        while int(end * rows + 1e-9) - int(self.begin * rows + 1e-9) < FEWEST_FITTED:
            rows += 1
        return rows * _ROW

    def difference(self, compared: Comparison) -> Interval:
        """Return the prediction with its interval."""
        prediction = extrapolate(
            paired_rows(compared),
            begin=self.begin,
            end=compared.own[0].recipe.comparable_until,
            seed_sd=compared.seed_sd_loss,
            seed=compared.seed,
        )
        return prediction.at(prediction.steps * self.times)
