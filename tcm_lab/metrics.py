"""The registry of metrics: the quantities by which variants are judged, and their computation.

Search spaces, constraints, tables, plots, importance and the command line all read this registry,
so a metric that is registered here is usable everywhere::

    @tcm_lab.register_metric("macs_per_parameter", label="MACs per parameter", unit="MAC")
    def macs_per_parameter(record, baseline):
        return sum(record.complexity.macs_by_kind.values()) / record.complexity.total_parameters
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypeAlias, TypeVar

from tcm_lab._utils import Registry
from tcm_lab.errors import ConfigError, LabError

Needs: TypeAlias = Literal["complexity", "memory", "timing", "rd"]
"""What must be measured first: counts, peak memory, encoding and decoding times, or a training."""
Goal: TypeAlias = Literal["minimize", "maximize"]
Number: TypeAlias = int | float


Compute: TypeAlias = Callable[[Any, Any], Number | None]
"""Function of a record and the baseline's (``None`` before that is known); ``None`` if unknown.

A record holds one training of one variant, or its cost before training. It has ``complexity`` (a
``ComplexityRecord``), ``timing`` (a ``TimingRecord``; ``None`` if it was not timed separately from
the evaluation), ``rd`` (an ``RdRecord``; ``None`` before training) and ``lambdas``, the
rate-distortion weights of ``rd``'s points.
"""
F = TypeVar("F", bound=Compute)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A quantity by which variants are judged.

    Attributes:
        name: identifier with the unit, such as ``kmacs_per_px``.
        label: readable name without the unit.
        header: heading of a column, below ``group`` if there is one.
        group: heading over neighbouring columns.
        unit: unit of displayed values, which are the values times ``scale``.
        scale: ``1e-6`` displays a count in millions.
        format: a format specification for displayed values, such as ``.1f``; ``d`` rounds them.
        direction: whether low or high values are better.
        needs: what must be measured first.
        relative: whether it compares with the baseline, whose own value is 0. Relative metrics get
            an interval over images and seeds.
        on_request: whether an evaluation measures it only if it is requested by name.
        compute: function of a record and the baseline's record.
    """

    name: str
    label: str
    compute: Compute
    header: str = ""
    group: str = ""
    unit: str = ""
    scale: float = 1.0
    format: str = ".4g"
    direction: Goal = "minimize"
    needs: Needs = "complexity"
    relative: bool = False
    on_request: bool = False

    @property
    def needs_training(self) -> bool:
        """Whether it needs a trained codec."""
        return self.needs == "rd"

    def of(self, record: Any, baseline: Any = None) -> Number | None:
        """Return the metric of a record, or ``None`` if the record lacks what it needs.

        Infinite values and NaN are ``None``, too: no sampler, front or table can rank by them.

        Raises:
            LabError: the record cannot be compared with the baseline.
        """
        is_estimated = self.name == ESTIMATED and getattr(record, "estimate", None) is not None
        if self.needs_training and record.rd is None and not is_estimated:
            return None
        if self.relative and baseline is None:
            return None
        value = self.compute(record, baseline)
        return value if value is not None and math.isfinite(value) else None

    def known(self, record: Any, baseline: Any = None) -> Number | None:
        """Return the metric of a record, or ``None`` if it is undefined.

        Unlike ``of``, this also covers comparisons that are refused, such as the BD-rate of curves
        that do not overlap.
        """
        with suppress(LabError):
            return self.of(record, baseline)
        return None

    def loss(self, value: Number) -> Number:
        """Return ``value`` as a number to be minimised."""
        return value if self.direction == "minimize" else -value


ESTIMATED = "lagrangian_percent"
"""The metric that an estimator gives if variants are not trained to the end."""
METRICS: Registry[Metric] = Registry("metric")
"""Metrics by name, in the order in which tables list them."""


def formatted(value: Number, form: str) -> str:
    """Return a number in a format, without a minus if only zeros are left of it.

    The format may be one of integers, for a mean of counts, too.

    Raises:
        ValueError: numbers have no such format.
    """
    is_integer = form.endswith("d") and math.isfinite(value)
    text = format(round(value) if is_integer else value, form)
    is_minus_zero = text.startswith("-") and not re.search("[1-9a-df-z]", text)
    return formatted(abs(value), form) if is_minus_zero else text


def register_metric(
    name: str,
    *,
    label: str = "",
    header: str = "",
    group: str = "",
    unit: str = "",
    scale: float = 1.0,
    format: str = ".4g",  # the field's name
    direction: Goal = "minimize",
    needs: Needs = "complexity",
    relative: bool = False,
) -> Callable[[F], F]:
    """Return a decorator that registers a function as the metric ``name``.

    The function takes the record of a training and the baseline's record (see `Compute`), and
    returns a number, or ``None`` if the metric is undefined. A metric that reads ``rd`` must set
    ``needs="rd"``. The other arguments are those of `Metric`.

    Raises:
        ConfigError: the name is taken, YAML would not read it as a name, or numbers have no such
            format.
    """
    METRICS.check_name(name)
    try:
        formatted(1.5, f"+{format.removeprefix('+')}")  # as a change is shown
    except ValueError:
        raise ConfigError(
            f"metric '{name}': format {format!r} does not fit numbers such as 1.5; use one such as "
            "'.1f', ',d', '.3g' or '.1%'"
        ) from None

    def register(compute: F) -> F:
        metric = Metric(
            name=name, label=label or name, compute=compute, header=header, group=group, unit=unit,
            scale=scale, format=format, direction=direction, needs=needs, relative=relative,
        )  # fmt: skip
        METRICS.add(name, metric)
        return compute

    return register


def _counted(name: str, **fields: Any) -> Metric:
    """Return a metric that is a property of the ``ComplexityRecord``."""
    return Metric(name=name, compute=lambda record, _: getattr(record.complexity, name), **fields)


def _timed(name: str, **fields: Any) -> Metric:
    """Return a metric for a time: measured separately, or else the mean over the evaluation."""

    def compute(record: Any, _: Any) -> float | None:
        if record.timing is not None:
            return float(getattr(record.timing, name))
        return fmean(getattr(point, name) for point in record.rd.points) if record.rd else None

    return Metric(name=name, compute=compute, **_TIME, **fields)


def _seen(name: str, **fields: Any) -> Metric:
    """Return an image metric: its mean over the rates, or ``None`` if a rate has none."""

    def compute(record: Any, _: Any) -> float | None:
        values = [getattr(point, name) for point in record.rd.points]
        return None if None in values else fmean(values)

    return Metric(name=name, compute=compute, **_MEAN, **fields)


def _compared(name: str, **fields: Any) -> Metric:
    """Return a metric that is a method of the record, called with the baseline's."""
    return Metric(
        name=name, compute=lambda record, base: getattr(record, name)(base), unit="%",
        format="+.2f", group="against the baseline", needs="rd", relative=True, **fields,
    )  # fmt: skip


_MACS: dict[str, Any] = {"unit": "kMAC/px", "format": ".2f", "group": "MACs"}
_MEMORY: dict[str, Any] = {"unit": "MB", "scale": 1e-6, "format": ".0f", "needs": "memory"}
_TIME: dict[str, Any] = {"unit": "ms", "format": ".0f", "group": "time", "needs": "timing"}
_MEAN: dict[str, Any] = {"needs": "rd", "group": "mean over the rates"}
_QUALITY: dict[str, Any] = {"unit": "dB", "format": ".2f", "direction": "maximize"}
_DISTANCE: dict[str, Any] = {"format": ".4f", "on_request": True}

for _metric in (
    Metric(
        name="parameters", label="parameters", unit="M", scale=1e-6, format=".3f",
        compute=lambda record, _: record.complexity.total_parameters,
    ),
    _counted("weight_bytes", label="size of the weights", unit="MB", scale=1e-6, format=".2f"),
    _counted("kmacs_per_px", label="MACs", header="whole", **_MACS),
    _counted("encode_kmacs_per_px", label="encoder MACs", header="encode", **_MACS),
    _counted("decode_kmacs_per_px", label="decoder MACs", header="decode", **_MACS),
    _counted("peak_memory_bytes", label="peak memory", **_MEMORY),
    _counted("decode_peak_memory_bytes", label="decoder peak memory", **_MEMORY),
    Metric(
        name="bpp", label="rate", unit="bpp", format=".4f", **_MEAN,
        compute=lambda record, _: fmean(record.rd.bpp),
    ),
    Metric(
        name="file_bytes", label="size of a coded image", unit="kB", scale=1e-3, format=".1f",
        **_MEAN,
        compute=lambda record, _: fmean(
            image.bits / 8 for point in record.rd.points for image in point.images
        ),
    ),
    _seen("psnr_db", label="PSNR", **_QUALITY),
    _seen("psnr_yuv_db", label="PSNR-YUV", **_QUALITY),
    _seen("ms_ssim_db", label="MS-SSIM", **_QUALITY),
    _seen("ssim", label="SSIM", format=".4f", direction="maximize"),
    _seen("lpips", label="LPIPS", **_DISTANCE),
    _seen("dists", label="DISTS", **_DISTANCE),
    _compared(ESTIMATED, label="Lagrangian cost"),
    _compared("bd_rate_percent", label="BD-rate"),
    _timed("encode_ms", label="encoding time", header="encode"),
    _timed("decode_ms", label="decoding time", header="decode"),
):  # fmt: skip
    METRICS.add(_metric.name, _metric)
