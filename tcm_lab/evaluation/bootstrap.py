"""How far a comparison might have come out otherwise, by paired resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation.bjontegaard_delta import MIN_OVERLAP, Method, bd_rate
from tcm_lab.evaluation.curve import RdCurve
from tcm_lab.evaluation.lagrangian import lagrangian_percent
from tcm_lab.evaluation.record import RdRecord

_MAX_REFUSED = 0.05


class Interval(Frozen):
    """A figure and the interval that its resamples fill.

    Attributes:
        value: the figure on all images and seeds.
        low: lower end.
        high: upper end.
        level: share of the resamples between the two.
        samples: how many resamples gave a figure.
        refused: how many gave none, for want of overlap.
        images: images that were resampled.
        seeds: trainings that were resampled, anchor and curve.
    """

    value: float
    low: float
    high: float
    level: float
    samples: int
    refused: int
    images: int
    seeds: tuple[int, int]


class _Means(NamedTuple):
    """Mean rates and distortions of one resample: what ``lagrangian_cost`` takes."""

    bpp: tuple[float, ...]
    mse: tuple[float, ...]
    psnr_db: tuple[float, ...]

    def curve(self, name: str) -> RdCurve:
        return RdCurve(bpp=self.bpp, psnr_db=self.psnr_db, name=name)


def bd_rate_interval(
    anchor: Sequence[RdRecord],
    curve: Sequence[RdRecord],
    method: Method = "pchip",
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    min_overlap: float = MIN_OVERLAP,
) -> Interval:
    """Give a BD-rate its paired bootstrap interval over images and seeds.

    Every resample draws images with replacement, the same for both sides since a hard image is
    hard for both, and seeds with replacement on each side alone.

    Args:
        anchor: records of the anchor on the same images, one per training seed.
        curve: records of what is judged.
        method: as in ``bd_rate``.
        samples: resamples.
        level: share of the resamples that the interval holds.
        seed: of the resampling.
        min_overlap: as in ``bd_rate``.

    Raises:
        LabError: the records are of different images or rates, the figure itself is refused, or
            more than a twentieth of the resamples are.
    """

    def figure(a: _Means, b: _Means) -> float:
        titles = (anchor[0].name, curve[0].name)
        curves = (a.curve(titles[0]), b.curve(titles[1]))
        return bd_rate(*curves, method, min_overlap=min_overlap).percent

    return _interval(figure, anchor, curve, samples, level, seed)


def lagrangian_interval(
    baseline: Sequence[RdRecord],
    curve: Sequence[RdRecord],
    lambdas: Sequence[float],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Give ``lagrangian_percent`` its paired bootstrap interval over images and seeds.

    Raises:
        LabError: as ``bd_rate_interval``, or there is not one point per lambda.
    """

    def figure(a: _Means, b: _Means) -> float:
        return lagrangian_percent(b, a, lambdas)

    return _interval(figure, baseline, curve, samples, level, seed)


def _interval(
    figure: Callable[[_Means, _Means], float],
    anchor: Sequence[RdRecord],
    curve: Sequence[RdRecord],
    samples: int,
    level: float,
    seed: int,
) -> Interval:
    sides = (_table(anchor), _table(curve))
    prints = {record.data_fingerprint for record in (*anchor, *curve)}
    if len(prints) > 1:
        raise LabError(
            f"records are of {len(prints)} different sets of images ({', '.join(prints)}). "
            "Evaluate both on the same folder."
        )
    images = sides[0].shape[2]
    value = figure(*(_means(side) for side in sides))
    rng = np.random.default_rng(seed)
    figures = []
    for _ in range(samples):
        drawn = rng.integers(images, size=images)
        means = [
            _means(side[rng.integers(len(side), size=len(side))][:, :, drawn]) for side in sides
        ]
        try:
            figures.append(figure(*means))
        except (LabError, ValueError):
            continue
    refused = samples - len(figures)
    if refused > _MAX_REFUSED * samples:
        raise LabError(
            f"{refused} of {samples} resamples gave no figure: the curves are too close to "
            "disjoint or too noisy. Measure more rates or images, or use lagrangian_interval."
        )
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        value=value,
        low=float(low),
        high=float(high),
        level=level,
        samples=len(figures),
        refused=refused,
        images=images,
        seeds=(len(sides[0]), len(sides[1])),
    )


def _table(records: Sequence[RdRecord]) -> NDArray[np.float64]:
    """Stack records to (seeds, points, images, [bpp, mse, psnr_db])."""
    if not records:
        raise LabError("records: there is none. Give at least one on each side.")
    rates = [[point.rate for point in record.points] for record in records]
    if any(other != rates[0] for other in rates):
        raise LabError(
            f"records of {records[0].name} have different rates. Evaluate every seed at the same."
        )
    return np.array(
        [
            [[(i.bpp, i.mse, i.psnr_db) for i in point.images] for point in record.points]
            for record in records
        ]
    )


def _means(table: NDArray[np.float64]) -> _Means:
    bpp, mse, psnr_db = table.mean(axis=(0, 2)).T.tolist()
    return _Means(tuple(bpp), tuple(mse), tuple(psnr_db))
