"""The lambda-averaged Lagrangian cost: one robust number where curves hardly overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from tcm_lab.errors import LabError


class Points(Protocol):
    """Rates and distortions side by side, such as ``RdCurve`` or ``RdRecord``."""

    @property
    def bpp(self) -> tuple[float, ...]:
        """Bits per pixel of each point, ascending."""

    @property
    def mse(self) -> tuple[float, ...]:
        """Mean squared error of each point, images in [0, 1]."""


def lagrangian_cost(points: Points, lambdas: Sequence[float]) -> float:
    """Return the mean over the rate set of ln(bpp + lambda * 255^2 * MSE).

    Point i is judged by lambda i, the one it was trained for. The logarithm gives every rate the
    same say; a difference of 0.01 is one percent of cost. The value is the mean of logarithms and
    has a meaning only beside another on the same images and lambdas.

    Raises:
        LabError: there is not one point per lambda.
    """
    if len(points.bpp) != len(lambdas):
        raise LabError(
            f"lambdas {tuple(lambdas)}: {len(lambdas)} for {len(points.bpp)} points. "
            "Give the lambda of each point, in ascending order."
        )
    costs = [
        math.log(bpp + weight * 255**2 * mse)
        for bpp, mse, weight in zip(points.bpp, points.mse, lambdas, strict=True)
    ]
    return sum(costs) / len(costs)


def lagrangian_percent(points: Points, baseline: Points, lambdas: Sequence[float]) -> float:
    """Return by how many percent the Lagrangian cost is above the baseline's; negative is better.

    Raises:
        LabError: either has not one point per lambda.
    """
    difference = lagrangian_cost(points, lambdas) - lagrangian_cost(baseline, lambdas)
    return 100 * math.expm1(difference)
