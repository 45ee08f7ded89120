"""Plots of what codecs cost: by part, over parameters, over the image's size, on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tcm_lab._utils import Frozen
from tcm_lab.blocks import Cost
from tcm_lab.complexity import ComplexityRecord, Convention, DevicePeak, TimingRecord
from tcm_lab.errors import LabError
from tcm_lab.reporting._notes import need, size_text
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    COLUMN_INCHES,
    INK,
    SOFT,
    PlotAxis,
    label_axes,
    legend_below,
    looks,
    new_figure,
    palette,
    stacked_bars,
    style,
)
from tcm_lab.reporting.tables import part_names

KMACS_PER_PX = PlotAxis(name="cost", unit="kMAC/px")
PARAMETERS = PlotAxis(name="parameters", unit="M")

_STAGE_PARTS = {
    "g_a": ("g_a",),
    "h_a": ("h_a",),
    "h_s": ("h_s",),
    "slices": ("attention", "slice_heads", "lrp"),
    "g_s": ("g_s",),
}
"""The parts that a timed stage runs; all slices' stages together are one."""


def cost_by_part_plot(
    records: Sequence[ComplexityRecord],
    *,
    convention: Convention = "all",
    title: str = "",
    width: float = COLUMN_INCHES,
) -> Figure:
    """Draw each model's cost as one bar, stacked by part; the total stands at its end.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    costs = [(record.macs_by_part(convention), 1e3 * record.pixels) for record in records]
    parts = {
        name: [macs.get(part, 0) / kilopixels for macs, kilopixels in costs]
        for part, name in part_names(records).items()
        if any(macs.get(part) for macs, _ in costs)
    }
    models = [record.model for record in records]
    return stacked_bars(parts, models, KMACS_PER_PX, form=".1f", title=title, width=width)


def macs_parameters_plot(
    records: Sequence[ComplexityRecord], *, convention: Convention = "all", title: str = ""
) -> Figure:
    """Draw each model's cost over its parameters.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    x = [record.total_parameters / 1e6 for record in records]
    y = [record.total_kmacs_per_px("whole", convention) for record in records]
    with style():
        figure, axes = new_figure(title)
        label_axes(axes, _log_if_wide(PARAMETERS, x), _log_if_wide(KMACS_PER_PX, y))
        axes.scatter(x, y, s=20, color=palette(1)[0], zorder=3)
        axes.margins(0.15)
        names = [record.model for record in records]
        label_points(axes, list(zip(x, y, strict=True)), names, color=INK)
        return figure


def cost_size_plot(
    records: Sequence[ComplexityRecord], *, convention: Convention = "all", title: str = ""
) -> Figure:
    """Draw the cost per pixel over the image's size, which shows what padding adds.

    Args:
        records: of one or several models, each at several sizes.
        convention: which kinds of operators count.
        title: over the plot.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    ordered = sorted(records, key=lambda record: record.pixels)
    costs = [record.total_kmacs_per_px("whole", convention) for record in ordered]
    models = list(dict.fromkeys(record.model for record in records))
    ticks: dict[int, str] = {}
    for record in ordered:
        if not ticks or record.pixels > 1.5 * max(ticks):  # closer ones would touch
            ticks[record.pixels] = size_text(record.size)
    with style():
        figure, axes = new_figure(title)
        size = PlotAxis(name="image", unit="height x width", log=True)
        label_axes(axes, size, _log_if_wide(KMACS_PER_PX, costs))
        for model, look in zip(models, looks(len(models)), strict=True):
            own = [
                (record.pixels, cost)
                for record, cost in zip(ordered, costs, strict=True)
                if record.model == model
            ]
            axes.plot(*zip(*own, strict=True), label=model, **look)
        axes.set_xticks(
            list(ticks), list(ticks.values()), rotation=40, ha="right", rotation_mode="anchor"
        )
        axes.xaxis.set_minor_locator(NullLocator())
        if len(models) > 1:
            legend_below(figure, min(3, len(models)))
        return figure


def _log_if_wide(axis: PlotAxis, values: Sequence[float]) -> PlotAxis:
    """Return ``axis``, logarithmic if the values span more than a decade."""
    wide = min(values) > 0 and max(values) > 10 * min(values)
    return axis.model_copy(update={"log": wide})


class RooflinePoint(Frozen):
    """One part of a codec on the device.

    Attributes:
        label: which part.
        macs: multiply-accumulates that it runs.
        bytes_moved: of weights and activations, each moved once.
        ms: how long it took.
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
        """What was reached."""
        return self.macs / self.ms / 1e6


def roofline_points(cost: ComplexityRecord, timing: TimingRecord) -> list[RooflinePoint]:
    """Return one point per transform and one for all slice networks, as encoding and decoding ran.

    Bytes are those of the parameters and of the activations that are written, in the precision of
    the timing: a lower bound, since what is read again is not counted.

    Raises:
        LabError: the two are not of the same model and image size.
    """
    if (cost.fingerprint, cost.size) != (timing.fingerprint, timing.size):
        raise LabError(
            f"{cost.model} at {cost.size} was counted, but {timing.model} at {timing.size} was "
            "timed. Give records of one model at one size."
        )
    element_bytes = 4 if timing.options.precision == "float32" else 2
    batch, macs = timing.options.batch, cost.macs_by_part()
    points = []
    for label, parts in _STAGE_PARTS.items():
        runs = [
            sum(s.median_ms for name, s in way.stages.items() if name.split(".")[0] == label)
            for way in (timing.encode, timing.decode)
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


def roofline_plot(
    points: Sequence[RooflinePoint], device_peak: DevicePeak, *, title: str = ""
) -> Figure:
    """Draw what each part reaches under what the device allows at its arithmetic intensity.

    Raises:
        LabError: no points given.
    """
    need("points", points)
    peak, slope = device_peak.gmacs_per_s, device_peak.gbytes_per_s
    intensity = [p.macs_per_byte for p in points]
    reached = [p.gmacs_per_s for p in points]
    ridge = peak / slope
    low, high = min(*intensity, ridge) / 2, max(*intensity, ridge) * 2.5
    with style():
        figure, axes = new_figure()
        label_axes(
            axes,
            PlotAxis(name="intensity", unit="MAC/byte", log=True),
            PlotAxis(name="reached", unit="GMAC/s", log=True, lower_is_better=False),
        )
        limit = np.array([(low, low * slope), (ridge, peak), (high, peak)])
        axes.plot(*limit.T, color=SOFT, lw=1.0, zorder=1)
        look: dict[str, Any] = {"ha": "right", "color": SOFT, "fontsize": 6.5}
        axes.annotate(
            f"{peak:.0f} GMAC/s", (high, peak), (0, 3), textcoords="offset points", **look
        )
        axes.scatter(intensity, reached, s=20, color=palette(1)[0], zorder=3)
        axes.set_xlim(low, high)
        axes.set_ylim(min(low * slope, *reached) / 2, peak * 2)
        axes.set_title(title or f"device peak: {slope:.0f} GB/s", fontsize=7.5)
        places = list(zip(intensity, reached, strict=True))
        label_points(axes, places, [p.label for p in points], color=INK)
        return figure
