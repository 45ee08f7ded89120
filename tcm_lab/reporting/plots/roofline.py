"""What each part of a codec reaches on a device, under what the device allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._labels import label_points
from tcm_lab.reporting.plots._style import (
    INK,
    SOFT,
    PlotAxis,
    label_axes,
    new_figure,
    palette,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.complexity import ComplexityRecord, DevicePeak, TimingRecord

_STAGE_PARTS = {
    "g_a": ("g_a",),
    "h_a": ("h_a",),
    "h_s": ("h_s",),
    "slices": ("attention", "slice_heads", "lrp"),
    "g_s": ("g_s",),
}
"""The parts that a timed stage runs; all slices' stages together are one."""


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
    macs = cost.macs_by_part()
    points = []
    for label, parts in _STAGE_PARTS.items():
        runs = [
            sum(s.median_ms for name, s in way.stages.items() if name.split(".")[0] == label)
            for way in (timing.encode, timing.decode)
        ]
        runs = [ms for ms in runs if ms]
        work = timing.options.batch * sum(macs.get(part, 0) for part in parts)
        if not runs or not work:
            continue
        weights = sum(sum(cost.parameters.get(part, {}).values()) for part in parts)
        activations = timing.options.batch * sum(cost.activations.get(part, 0) for part in parts)
        moved = element_bytes * (weights + activations)
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
    with style():
        figure, axes = new_figure(title)
        label_axes(
            axes,
            PlotAxis(name="intensity", unit="MAC/byte", log=True),
            PlotAxis(name="reached", unit="GMAC/s", log=True, lower_is_better=False),
        )
        ridge = device_peak.gmacs_per_s / device_peak.gbytes_per_s
        intensities = [p.macs_per_byte for p in points]
        low, high = min(*intensities, ridge) / 2, max(*intensities, ridge) * 2.5
        axes.plot(
            [low, ridge, high],
            [low * device_peak.gbytes_per_s, device_peak.gmacs_per_s, device_peak.gmacs_per_s],
            color=SOFT,
            lw=1.0,
            zorder=1,
        )
        axes.annotate(
            f"{device_peak.gmacs_per_s:.0f} GMAC/s",
            (high, device_peak.gmacs_per_s),
            (0, 3),
            textcoords="offset points",
            ha="right",
            color=SOFT,
            fontsize=6.5,
        )
        reached = [(p.macs_per_byte, p.gmacs_per_s) for p in points]
        axes.scatter(
            [x for x, _ in reached], [y for _, y in reached], s=20, color=palette(1)[0], zorder=3
        )
        axes.set_xlim(low, high)
        bottom = min(low * device_peak.gbytes_per_s, *(p.gmacs_per_s for p in points)) / 2
        axes.set_ylim(bottom, device_peak.gmacs_per_s * 2)
        axes.set_title(title or f"device peak: {device_peak.gbytes_per_s:.0f} GB/s", fontsize=7.5)
        label_points(axes, reached, [p.label for p in points], color=INK)
        return figure
