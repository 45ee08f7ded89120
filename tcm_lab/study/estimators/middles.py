"""Cost of a codec on centre crops of the evaluation images, by estimated bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tcm_lab import evaluation
from tcm_lab._utils import Frozen
from tcm_lab.data import ImageSet
from tcm_lab.evaluation import RdRecord, lagrangian_cost


class MiddleCost(Frozen):
    """Cost of a codec on centre crops.

    Attributes:
        log_cost: mean over the rates of ln(bpp + lambda * 255^2 * MSE).
        by_image: each image's share of the cost, with mean 1.
    """

    log_cost: float
    by_image: tuple[float, ...]

    @property
    def shares(self) -> NDArray[np.float64]:
        """The shares, (images,)."""
        return np.array(self.by_image)


def middle_cost(
    codec: nn.Module, images: ImageSet, lambdas: tuple[float, ...], *, crop: int
) -> MiddleCost:
    """Measure the cost of a codec on centre crops.

    Args:
        codec: codec with one rate per lambda.
        images: the centre crop of each is evaluated.
        lambdas: rate-distortion weights.
        crop: side of the crop in pixels.
    """
    rd = evaluation.evaluate_crops(codec, images, crop=crop)
    costs = image_costs(rd, lambdas)
    shares = (costs / costs.mean(axis=1, keepdims=True)).mean(axis=0)
    return MiddleCost(log_cost=lagrangian_cost(rd, lambdas), by_image=tuple(shares.tolist()))


def image_costs(rd: RdRecord, lambdas: Sequence[float]) -> NDArray[np.float64]:
    """Return the Lagrangian cost bpp + lambda * 255^2 * MSE of every image, (points, images)."""
    return np.array(
        [
            [image.bpp + weight * 255**2 * image.mse for image in point.images]
            for point, weight in zip(rd.points, lambdas, strict=True)
        ]
    )


def sd_over_images(differences: NDArray[np.float64]) -> float:
    """Return the standard deviation in percent of a mean over images; 0 for a single image.

    Args:
        differences: differences between the shares of two codecs, (images,).
    """
    if len(differences) < 2:
        return 0.0
    return 100 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
