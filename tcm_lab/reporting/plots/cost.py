"""Plots of codecs' costs: by part, over parameters and image sizes, against a device's peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tcm_lab._utils import Frozen
from tcm_lab._utils.numbered import numbered
from tcm_lab.analysis import KnockOutRecord
from tcm_lab.blocks import Cost
from tcm_lab.complexity import ComplexityRecord, DevicePeak, TimingRecord
from tcm_lab.errors import LabError
from tcm_lab.reporting._notes import need, size_text
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    SOFT,
    PlotAxis,
    legend_below,
    log_ticks,
    looks,
    name_axes,
    new_figure,
    palette,
    stacked_bars,
    style,
)
from tcm_lab.reporting.tables import part_names

KMACS_PER_PX = PlotAxis(name="cost", unit="kMAC/px")
PARAMETERS = PlotAxis(name="parameters", unit="M")

_TRANSFORMS = ("g_a", "h_a", "h_s", "g_s")
_NOT_RUN = ("prior", "gain")  # parts that are not separate stages
_ENTROPY_MODELS = ("slices", "context_model")
"""Names of an entropy model's stages, which together run all of its parts."""


def cost_by_part_plot(records: Sequence[ComplexityRecord]) -> Figure:
    """Draw each model's cost as one bar, stacked by part, with the total at its end.

    Raises:
        LabError: no records given, or no part costs anything.
    """
    need("records", records)
    costs = [(record.macs_by_part(), 1e3 * record.pixels) for record in records]
    parts = {
        name: [macs.get(part, 0) / kilopixels for macs, kilopixels in costs]
        for part, name in part_names(records).items()
        if any(macs.get(part) for macs, _ in costs)
    }
    need("parts with a product", parts)
    return stacked_bars(parts, _names(records), KMACS_PER_PX, form=".1f")


@style()
def macs_parameters_plot(records: Sequence[ComplexityRecord]) -> Figure:
    """Draw each model's cost over its parameters.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    x = [record.total_parameters / 1e6 for record in records]
    y = [record.kmacs_per_px for record in records]
    figure, axes = new_figure(_log_if_wide(PARAMETERS, x), _log_if_wide(KMACS_PER_PX, y))
    axes.scatter(x, y, s=20, color=palette(1)[0], zorder=3)
    axes.margins(0.15)
    label_points(axes, list(zip(x, y, strict=True)), _names(records))
    return figure


def _names(records: Sequence[ComplexityRecord]) -> list[str]:
    """Return the models' names, with the image sizes if these differ."""
    if len({record.size for record in records}) == 1:
        return [record.model for record in records]
    return [f"{record.model}, {size_text(record.size)}" for record in records]


@style()
def cost_size_plot(records: Sequence[ComplexityRecord]) -> Figure:
    """Draw the cost per pixel over the image's size, which shows what padding adds.

    Args:
        records: records of one or several models, each at several sizes.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    ticks: dict[int, str] = {}
    curves: dict[tuple[str, str], list[tuple[int, float]]]
    curves = {(record.model, record.fingerprint): [] for record in records}
    for record in sorted(records, key=lambda record: record.pixels):
        curves[record.model, record.fingerprint].append((record.pixels, record.kmacs_per_px))
        if not ticks or record.pixels > 1.5 * max(ticks):  # closer labels would touch
            ticks[record.pixels] = size_text(record.size)
    costs = [cost for curve in curves.values() for _, cost in curve]
    size = PlotAxis(name="image", unit="height x width", log=True)
    figure, axes = new_figure(size, _log_if_wide(KMACS_PER_PX, costs))
    names = numbered((model for model, _ in curves), " #")  # a variant may have its base's name
    for name, curve, look in zip(names, curves.values(), looks(len(curves)), strict=True):
        axes.plot(*zip(*curve, strict=True), label=name, **look)
    axes.set_xticks(
        list(ticks), list(ticks.values()), rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.xaxis.set_minor_locator(NullLocator())
    if len(curves) > 1:
        legend_below(figure, min(3, len(curves)))
    return figure


def _log_if_wide(axis: PlotAxis, values: Sequence[float]) -> PlotAxis:
    """Return ``axis``, logarithmic if the values span more than a decade."""
    wide = min(values) > 0 and max(values) > 10 * min(values)
    return axis.model_copy(update={"log": wide})


@style()
def part_loss_plot(record: KnockOutRecord) -> Figure:
    """Draw the loss without each part of a codec over the part's cost.

    The two parts whose removal loses most are named.

    Raises:
        LabError: no part costs anything.
    """
    parts = [part for part in record.parts if part.kmacs_per_px]  # the cost axis is logarithmic
    need("parts with a product", parts)
    # Parts without which the loss falls, or hardly rises, are drawn on the line at the bottom.
    floor = 0.1
    points = [(p.kmacs_per_px, max(p.loss_percent.value, floor)) for p in parts]
    most = sorted(parts, key=lambda part: -part.loss_percent.value)[:2]
    kinds = list(dict.fromkeys(part.kind for part in parts))
    figure, axes = new_figure(
        PlotAxis(name="cost of the part", unit="kMAC/px", log=True),
        PlotAxis(name="loss without it", unit="%", log=True),
    )
    axes.xaxis.set_major_locator(log_ticks(1.0))
    for kind, look in zip(kinds, looks(len(kinds)), strict=True):
        own = [point for part, point in zip(parts, points, strict=True) if part.kind == kind]
        x, y = zip(*own, strict=True)
        axes.scatter(x, y, s=18, label=kind, zorder=3, lw=0, **look)
    axes.set_ylim(bottom=floor / 1.3)
    axes.axhline(floor, color=SOFT, lw=0.6, ls=":", zorder=1)
    usual = axes.yaxis.get_major_formatter()
    axes.yaxis.set_major_formatter(
        lambda value, _: f"≤ {floor:g}" if np.isclose(value, floor) else usual(value)
    )
    axes.margins(0.12)
    legend_below(figure, len(kinds), handletextpad=0.2)
    names = [_short(part.part) if part in most else "" for part in parts]
    label_points(axes, points, names)
    return figure


def _short(part: str) -> str:
    """Return ``g_s 2.1 conv`` for ``g_s.stages.2.blocks.1.conv``."""
    path = [step for step in part.split(".") if step not in ("stages", "blocks")]
    if len(path) < 3:
        return part
    return f"{'.'.join(path[:-3])} {'.'.join(path[-3:-1])} {path[-1]}"


class RooflinePoint(Frozen):
    """One part of a codec on the device: its MACs, and the time they took.

    Bytes are those of weights and activations, each moved once.
    """

    label: str
    macs: int
    bytes_moved: int
    ms: float

    @property
    def macs_per_byte(self) -> float:
        """Arithmetic intensity."""
        return self.macs / self.bytes_moved

    @property
    def gmacs_per_s(self) -> float:
        """Speed reached."""
        return self.macs / self.ms / 1e6


def roofline_points(cost: ComplexityRecord, timing: TimingRecord) -> list[RooflinePoint]:
    """Return one point per transform and one for the entropy model, from encoding and decoding.

    Bytes are those of the parameters and of the activations that are written, in the precision of
    the timing. This is a lower bound, since repeated reads are not counted.

    Raises:
        LabError: the two are not of the same model and image size, or the counter does not count
            activations.
    """
    if (cost.fingerprint, cost.size) != (timing.fingerprint, timing.size):
        raise LabError(
            f"{cost.model} at {cost.size} was counted, but {timing.model} at {timing.size} was "
            "timed. Give records of one model at one size."
        )
    if not cost.whole.activations:
        raise LabError(
            f"{cost.model}: {cost.counter} counts no activations, so the number of bytes moved is "
            "unknown. Count by formula or by torch."
        )
    element_bytes = 2 if timing.options.precision in ("bfloat16", "float16") else 4
    batch, macs = timing.options.batch, cost.macs_by_part()
    points = []
    entropy = [part for part in cost.parts if part not in (*_TRANSFORMS, *_NOT_RUN)]
    for label in (*_TRANSFORMS[:3], *_ENTROPY_MODELS, _TRANSFORMS[3]):
        parts = entropy if label in _ENTROPY_MODELS else [label]
        runs = [
            sum(s.median_ms for name, s in scope.stages.items() if name.split(".")[0] == label)
            for scope in (timing.encode, timing.decode)
        ]
        runs = [ms for ms in runs if ms]
        work = batch * sum(macs.get(part, 0) for part in parts)
        if not runs or not work:
            continue
        ran = sum((cost.parts.get(part, Cost()) for part in parts), Cost())
        moved = element_bytes * (ran.total_parameters + batch * ran.activations)
        points.append(
            RooflinePoint(label=label, macs=work, bytes_moved=moved, ms=sum(runs) / len(runs))
        )
    return points


@style()
def roofline_plot(
    points: Sequence[RooflinePoint], device_peak: DevicePeak, *, title: str = ""
) -> Figure:
    """Draw the speed of each part below the device's limit at its arithmetic intensity.

    Raises:
        LabError: no points given.
    """
    need("points", points)
    peak, slope = device_peak.gmacs_per_s, device_peak.gbytes_per_s
    reached = [(p.macs_per_byte, p.gmacs_per_s) for p in points]
    intensities, speeds = zip(*reached, strict=True)
    ridge = peak / slope
    low, high = min(*intensities, ridge) / 2, max(*intensities, ridge) * 2.5
    figure, axes = new_figure(
        PlotAxis(name="intensity", unit="MAC/byte", log=True),
        PlotAxis(name="reached", unit="GMAC/s", log=True, lower_is_better=False),
    )
    axes.plot((low, ridge, high), (low * slope, peak, peak), color=SOFT, lw=1.0, zorder=1)
    look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 6.5}
    axes.annotate(f"{peak:.0f} GMAC/s", (high, peak), (0, 3), color=SOFT, **look)
    axes.scatter(intensities, speeds, s=20, color=palette(1)[0], zorder=3)
    axes.set_xlim(low, high)
    axes.set_ylim(min(low * slope, *speeds) / 2, peak * 2)
    name_axes(axes, title or f"device peak: {slope:.0f} GB/s")
    label_points(axes, reached, [p.label for p in points])
    return figure
