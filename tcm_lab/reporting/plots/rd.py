"""Rate-distortion plots, in which measured, anchor and published curves are distinguishable."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import model_validator

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.evaluation import Quality, RdRecord, points_by_rate
from tcm_lab.metrics import METRICS
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._style import SOFT, PlotAxis, legend_below, looks, new_figure, style

Role = Literal["measured", "baseline", "anchor", "published"]

BPP = PlotAxis(name="rate", unit="bpp")
QUALITY: dict[str, PlotAxis] = {
    name: PlotAxis(
        name=METRICS[name].label,
        unit=METRICS[name].unit,
        lower_is_better=METRICS[name].direction == "minimize",
    )
    for name in get_args(Quality)
}


class RdSeries(Frozen):
    """One curve of a plot.

    Attributes:
        label: label in the legend.
        bpp: rates, ascending.
        quality: PSNR or another image metric at each rate.
        low: lower end of each point's interval, if known.
        high: upper end of each point's interval, if known.
        role: ``measured`` here, the measured ``baseline``, an ``anchor`` measured here (JPEG,
            WebP), or ``published`` by others.
    """

    label: str
    bpp: tuple[float, ...]
    quality: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    role: Role = "measured"

    @model_validator(mode="after")
    def _same_lengths(self) -> RdSeries:
        for name in ("quality", "low", "high"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.bpp):
                raise ValueError(f"{name} has {len(values)} values for {len(self.bpp)} rates")
        return self


def series_of_records(
    records: Sequence[RdRecord],
    *,
    label: str = "",
    role: Role = "measured",
    quality: Quality = "psnr_db",
) -> RdSeries:
    """Return one codec's curve from its evaluations by training seed, by lambda or by both.

    With several seeds, a point is their mean and its interval their range. Images do not contribute
    to the interval, since a hard image is hard for every codec. Points of different lambda are
    never averaged.

    Raises:
        LabError: no records given, or a rate lacks the quality.
    """
    need("records", records)
    seeds = points_by_rate(records)
    rows = [[getattr(point, quality) for point in points] for points in seeds]
    if any(value is None for row in rows for value in row):
        raise LabError(
            f"{records[0].name}: {quality} is unknown: it was not measured, or the images are too "
            "small for it. Draw psnr_db, or evaluate again, with --metrics for lpips or dists."
        )
    rates = [fmean(point.bpp for point in points) for points in seeds]
    ascending = sorted(zip(rates, rows, strict=True))
    several = any(len(row) > 1 for row in rows)
    return RdSeries(
        label=label or records[0].name,
        bpp=tuple(rate for rate, _ in ascending),
        quality=tuple(fmean(row) for _, row in ascending),
        low=tuple(min(row) for _, row in ascending) if several else None,
        high=tuple(max(row) for _, row in ascending) if several else None,
        role=role,
    )


@style()
def rd_plot(series: Sequence[RdSeries], *, quality: Quality = "psnr_db") -> Figure:
    """Draw quality over rate.

    Curves measured here are coloured lines, the baseline is thick and black, and anchors are grey
    and dashed. Published points have no line, since their images and conditions are not ours. The
    plot covers the rates measured here and the qualities of all curves at these rates; the rest of
    the anchors and published points is cut off.

    Args:
        series: curves in the order of the legend.
        quality: quality metric of the series.

    Raises:
        LabError: no series given.
    """
    need("series", series)
    figure, axes = new_figure(BPP, QUALITY[quality], height=3.0)
    own = iter(looks(len(series)))
    dashes = itertools.cycle(("--", ":", "-."))
    for curve in series:
        look: dict[str, Any]
        if curve.role == "baseline":
            look = {"color": "black", "lw": 1.6, "marker": "D", "zorder": 4}
        elif curve.role == "anchor":
            look = {"color": SOFT, "lw": 0.9, "ls": next(dashes), "zorder": 1}
        elif curve.role == "published":
            look = {**next(own), "ls": "none", "mfc": "none", "mew": 0.8, "zorder": 2}
        else:
            look = {**next(own), "zorder": 3}
        axes.plot(curve.bpp, curve.quality, label=curve.label, **look)
        if curve.low is not None and curve.high is not None:
            band = {"color": look["color"], "alpha": 0.18, "lw": 0}
            axes.fill_between(curve.bpp, curve.low, curve.high, **band)
    _show_measured(axes, series)
    legend_below(figure, 3)
    return figure


def _show_measured(axes: Axes, series: Sequence[RdSeries]) -> None:
    """Set the limits to the curves measured here, with a margin; to all if none was measured."""
    if sum(len(curve.bpp) for curve in _ours(series)) < 2:
        return
    (left, right), (low, high) = limits(series)
    rise, pad = 0.15 * (high - low) or 1.0, 0.12 * (right - left) or 0.1 * right
    axes.set_xlim(max(0.0, left - pad), right + pad)
    axes.set_ylim(low - rise, high + rise)


def _ours(series: Sequence[RdSeries]) -> list[RdSeries]:
    return [curve for curve in series if curve.role in ("measured", "baseline")] or list(series)


def limits(series: Sequence[RdSeries]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the range of rates measured here, and that of all series' qualities at these rates."""
    rates: list[float] = []
    levels: list[float] = []
    for curve in _ours(series):
        rates += curve.bpp
        levels += (*curve.quality, *(curve.low or ()), *(curve.high or ()))
    left, right = min(rates), max(rates)
    for curve in series:
        inside = {rate for rate in curve.bpp if left <= rate <= right}
        inside |= {rate for rate in (left, right) if min(curve.bpp) < rate < max(curve.bpp)}
        levels += np.interp(sorted(inside), curve.bpp, curve.quality).tolist()
    return (left, right), (min(levels), max(levels))
