"""Comparison of a curve with an anchor: Bjontegaard deltas, Lagrangian cost, and their intervals.

Every function takes the anchor first and the curve to judge second; a negative percentage is a
saving. The Bjontegaard arithmetic is the `bjontegaard` package's (Herglotz et al., "Beyond
Bjontegaard", 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation.batched import bd_rates
from tcm_lab.evaluation.curves import Counted, RdCurve, check_same_count, shared_range
from tcm_lab.evaluation.grouping import by_seed, check_images
from tcm_lab.evaluation.record import RdRecord, check_payloads
from tcm_lab.stats import (
    RESAMPLES,
    Draw,
    Interval,
    as_percent,
    bootstrap,
    mean_noise,
    over_images,
    shares,
    value_or_nan,
)

Interpolation = Literal["pchip", "cubic", "akima"]
MIN_OVERLAP = 0.25

_Array = NDArray[np.float64]


class Seeds(Frozen):
    """How training seeds vary between the two sides of a comparison.

    Attributes:
        paired: whether each seed of one side shares its random numbers with a seed of the other, so
            that their differences vary; else each side varies independently. Seeds are paired by
            number if the records' recipes give them, else by order.
        sd_percent: standard deviation of one seed's paired difference, measured elsewhere, as 100
            times that of the ratio's logarithm; by default it is estimated from the given seeds, by
            Student's distribution.
    """

    paired: bool = False
    sd_percent: float | None = None


class BdRate(Frozen):
    """Mean change of rate at equal quality; negative is better than the anchor.

    Attributes:
        percent: the change.
        overlap_db: width of the quality range that both curves cover.
        overlap: that width as a share of the narrower curve's quality range.
        method: interpolation between the points.
        anchor: name of the anchor.
    """

    percent: float
    overlap_db: float
    overlap: float
    method: Interpolation
    anchor: str

    def __float__(self) -> float:
        return self.percent


def bd_rate(
    anchor: RdCurve,
    curve: RdCurve,
    method: Interpolation = "pchip",
    *,
    min_overlap: float = MIN_OVERLAP,
) -> BdRate:
    """Return the BD-rate of a curve over the qualities that both curves reach.

    Args:
        anchor: the curve to compare with.
        curve: the curve to judge.
        method: ``pchip``, ``cubic`` (the classic fit of a cubic polynomial) or ``akima``; they
            differ by some tenths of a percent.
        min_overlap: least share of the narrower curve's quality range that both must cover.

    Raises:
        LabError: too few points for the method, a curve whose quality does not rise with its
            rate, too little overlap, a fit that diverges, or one curve counts whole files and the
            other payloads.
    """
    overlap_db, share = shared_range(anchor, curve, method, min_overlap, "psnr_db")
    percent = _by_package("bd_rate", anchor, curve, method)
    return BdRate(
        percent=percent, overlap_db=overlap_db, overlap=share, method=method, anchor=anchor.name
    )


def bd_psnr(
    anchor: RdCurve,
    curve: RdCurve,
    method: Interpolation = "pchip",
    *,
    min_overlap: float = MIN_OVERLAP,
) -> float:
    """Return the mean gain of PSNR in dB at equal rate, on a logarithmic axis of rate.

    Raises:
        LabError: as ``bd_rate``, with the overlap of the rates.
    """
    shared_range(anchor, curve, method, min_overlap, "bpp")
    return _by_package("bd_psnr", anchor, curve, method)


def rate_percents(anchor: RdCurve, curve: RdCurve) -> tuple[float | None, ...]:
    """Return how many percent more bits each of the curve's points takes than the anchor.

    The logarithm of the anchor's rate is interpolated at the point's quality. The result is None
    for a quality outside the anchor's range.

    Raises:
        LabError: one curve counts whole files and the other payloads.
    """
    check_same_count(anchor, curve)
    order = np.argsort(anchor.psnr_db)
    quality, rate = np.array(anchor.psnr_db)[order], np.log(np.array(anchor.bpp)[order])
    anchor_rate = np.interp(curve.psnr_db, quality, rate, left=np.nan, right=np.nan)
    changes = 100 * np.expm1(np.log(curve.bpp) - anchor_rate)
    return tuple(None if np.isnan(change) else float(change) for change in changes)


def lagrangian_cost(points: RdCurve | RdRecord, lambdas: Sequence[float]) -> float:
    """Return the mean over the rates of ln(bpp + lambda * 255^2 * MSE).

    Point i is judged with lambda i, for which it was trained. The logarithm gives every rate the
    same weight; a difference of 0.01 is one percent of cost. The value is a mean of logarithms and
    is meaningful only in comparison with another on the same images and lambdas.

    Raises:
        LabError: there is not one point per lambda, or a point is known to have another lambda.
    """
    if len(points.bpp) != len(lambdas):
        raise LabError(
            f"lambdas {tuple(lambdas)}: {len(lambdas)} for {len(points.bpp)} points. "
            "Give the lambda of each point, in ascending order."
        )
    trained = [point.lmbda for point in points.points] if isinstance(points, RdRecord) else []
    if any(known not in (None, given) for known, given in zip(trained, lambdas, strict=False)):
        raise LabError(
            f"lambdas {tuple(lambdas)}: {points.name} was trained for {tuple(trained)}. "
            "Give these, in ascending order."
        )
    return float(_log_costs(np.array(points.bpp), np.array(points.mse), lambdas))


def lagrangian_percent(
    anchor: RdCurve | RdRecord, curve: RdCurve | RdRecord, *, lambdas: Sequence[float]
) -> float:
    """Return how many percent the curve's Lagrangian cost is above the anchor's.

    It is also defined for curves that hardly overlap.

    Raises:
        LabError: one of the curves does not have one point per lambda.
    """
    difference = lagrangian_cost(curve, lambdas) - lagrangian_cost(anchor, lambdas)
    return 100 * math.expm1(difference)


def bd_rate_interval(
    anchor: Sequence[RdRecord],
    curve: Sequence[RdRecord],
    method: Interpolation = "pchip",
    *,
    samples: int = RESAMPLES,
    seed: int = 0,
    min_overlap: float = MIN_OVERLAP,
    seeds: Seeds | None = None,
    counted: Counted = "file",
) -> Interval:
    """Return a BD-rate in percent with its interval over images and seeds.

    Every resample draws images with replacement, the same for both sides, since a hard image is
    hard for both. Seeds are too few to resample; instead, their variation widens the interval, see
    `Seeds`. Each side has one record per training, all on the same images: one per seed, or one per
    seed and lambda for codecs with one rate per set of weights. With a single image the result is
    an `IncompleteInterval`.

    Args:
        anchor: the curve to compare with.
        curve: the curve to judge.
        method: as in ``bd_rate``.
        samples: number of resamples.
        seed: seed of the resampling.
        min_overlap: as in ``bd_rate``.
        seeds: how training seeds vary.
        counted: what the rates of both sides count.

    Raises:
        LabError: the records are of different images or rates, a record lacks payloads to count,
            the BD-rate itself is refused, or that of more than a twentieth of the resamples is.
    """
    sides = _sides(anchor, _as_paired(anchor, curve, seeds), counted)
    names = anchor[0].name, curve[0].name

    def compare(*sides: _Array) -> float:
        before, after = (
            RdCurve.parse({"bpp": side[:, 0], "psnr_db": side[:, 2], "name": name})
            for name, side in zip(names, sides, strict=True)
        )
        return bd_rate(before, after, method, min_overlap=min_overlap).percent

    def log_ratios(a: _Array, b: _Array) -> _Array:
        if method == "pchip":
            percent = bd_rates(a, b, min_overlap)
        else:
            percent = np.array([value_or_nan(compare, *pair) for pair in zip(a, b, strict=True)])
        return np.asarray(np.log1p(percent / 100))

    # If the data themselves are refused, this raises the reason.
    compare(*(side.mean(axis=(0, 2)) for side in sides))
    return _interval(log_ratios, sides, samples, seed, seeds)


def lagrangian_interval(
    anchor: Sequence[RdRecord],
    curve: Sequence[RdRecord],
    *,
    lambdas: Sequence[float],
    samples: int = RESAMPLES,
    seed: int = 0,
    seeds: Seeds | None = None,
) -> Interval:
    """Return ``lagrangian_percent`` with its interval over images and seeds; see `Seeds`.

    With a single image, which shows no variation, the result is an `IncompleteInterval`.

    Raises:
        LabError: the records are of different images or rates, or there is not one point per
            lambda.
    """
    sides = _sides(anchor, _as_paired(anchor, curve, seeds))
    for records in (anchor, curve):
        lagrangian_cost(by_seed(records)[0], lambdas)  # refuses other lambdas

    def log_ratios(a: _Array, b: _Array) -> _Array:
        before, after = (_log_costs(side[..., 0], side[..., 1], lambdas) for side in (a, b))
        return after - before

    return _interval(log_ratios, sides, samples, seed, seeds)


def _as_paired(
    anchor: Sequence[RdRecord], curve: Sequence[RdRecord], seeds: Seeds | None
) -> Sequence[RdRecord]:
    """Return the curve's records in the order of the anchor's seeds, if they are to be paired."""
    theirs, own = ([r.recipe and r.recipe.seed for r in side] for side in (anchor, curve))
    if seeds is None or not seeds.paired or None in own or {*own} != {*theirs}:
        return curve
    return sorted(curve, key=lambda record: theirs.index(record.recipe and record.recipe.seed))


def _sides(
    anchor: Sequence[RdRecord], curve: Sequence[RdRecord], counted: Counted = "file"
) -> list[_Array]:
    """Return the values of both sides, each (seeds, points, images, [bpp, mse, psnr_db])."""
    check_images([*anchor, *curve])
    check_payloads([*anchor, *curve], counted)
    sides = []
    for title, records in (("anchor", anchor), ("curve", curve)):
        if not records:
            raise LabError(f"{title}: no records given. Give at least one on each side.")
        seeds = by_seed(records)
        if len({tuple((p.rate, p.lmbda) for p in record.points) for record in seeds}) > 1:
            raise LabError(
                f"records of {records[0].name} have different rates. "
                "Evaluate every seed at the same rates."
            )
        points = [[point.images for point in record.points] for record in seeds]
        values = [
            [[(i.counted_bpp(counted), i.mse, i.psnr_db) for i in images] for images in of_seed]
            for of_seed in points
        ]
        sides.append(np.array(values))
    return sides


def _interval(
    log_ratios: Callable[[_Array, _Array], _Array],
    sides: Sequence[_Array],
    samples: int,
    seed: int,
    seeds: Seeds | None,
) -> Interval:
    """Bootstrap over images, the same for both sides, and add the variation between seeds.

    ``log_ratios`` returns the natural logarithms of the curve's cost or rate over the anchor's.
    """
    seeds = seeds or Seeds()
    if seeds.paired and len(sides[0]) != len(sides[1]):
        raise LabError(f"{len(sides[0])} and {len(sides[1])} seeds cannot be paired.")
    if seeds.sd_percent is not None:
        noise = seeds.sd_percent / 100 / math.sqrt(min(map(len, sides)))
    else:
        noise = _between_seeds(log_ratios, sides, paired=seeds.paired)
    means = [side.mean(axis=0) for side in sides]  # (points, images, [bpp, mse, psnr_db])

    def of_draws(draw: Draw) -> _Array:
        images = shares(draw["images"])
        return log_ratios(*(np.einsum("pic,ri->rpc", mean, images) for mean in means))

    units = {"images": means[0].shape[1]}
    interval = bootstrap(of_draws, units, samples=samples, seed=seed, vectorized=True, noise=noise)
    return over_images(as_percent(interval))


def _between_seeds(
    log_ratios: Callable[[_Array, _Array], _Array], sides: Sequence[_Array], *, paired: bool
) -> float:
    """Return the standard deviation, due to the given seeds, of the log ratio of their means."""
    a, b = (side.mean(axis=2) for side in sides)  # (seeds, points, [bpp, mse, psnr_db])
    if paired:
        values = [log_ratios(a, b)]
    else:  # each side's seeds against the mean of the other's
        values = [
            log_ratios(a, b.mean(axis=0)[None].repeat(len(a), axis=0)),
            log_ratios(a.mean(axis=0)[None].repeat(len(b), axis=0), b),
        ]
    if np.isnan(np.concatenate(values)).any():
        raise LabError("no interval: the curve of one of the seeds has no value. Train it longer.")
    return math.hypot(*map(mean_noise, values))


def _log_costs(bpp: _Array, mse: _Array, lambdas: Sequence[float]) -> _Array:
    costs: _Array = np.log(bpp + np.asarray(lambdas) * 255**2 * mse).mean(axis=-1)
    return costs


def _by_package(name: str, anchor: RdCurve, curve: RdCurve, method: Interpolation) -> float:
    import bjontegaard

    # The package does not sort points, and warns of overlap by a criterion of its own.
    points = (anchor.bpp, anchor.psnr_db, curve.bpp, curve.psnr_db)
    delta = getattr(bjontegaard, name)
    with np.errstate(over="ignore"):
        result = float(delta(*points, method, require_matching_points=False, min_overlap=0))
    if not math.isfinite(result):
        raise LabError(
            f"curves {anchor.name or 'anchor'} and {curve.name or 'curve'}: the fit by {method} "
            "diverges between points of nearly equal PSNR. Leave one of them out, or use pchip."
        )
    return result
