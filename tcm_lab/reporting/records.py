"""Records of every kind: their files, and their tables and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import ValidationError

from tcm_lab.complexity import (
    CONVENTIONS,
    SCOPES,
    ComplexityRecord,
    Convention,
    TimingRecord,
    published_figures,
)
from tcm_lab.errors import LabError, lookup, validation_message
from tcm_lab.evaluation import Quality, RdCurve, RdRecord, measured_curves
from tcm_lab.evaluation.grouping import check_images
from tcm_lab.reporting import plots, tables
from tcm_lab.reporting._notes import need, size_text
from tcm_lab.reporting.plots._style import wrapped
from tcm_lab.reporting.table import Table, rounded
from tcm_lab.reporting.tables import Detail

if TYPE_CHECKING:  # tables are made without matplotlib
    from matplotlib.figure import Figure

AnyRecord: TypeAlias = ComplexityRecord | TimingRecord | RdRecord
PlotKind: TypeAlias = Literal["parts", "parameters", "size", "roofline", "rd"]
_T = TypeVar("_T")

_DIGITS = 9  # more than any measurement's precision, and the same on every machine
_ANCHORS = ("jpeg", "webp")

_KINDS: Mapping[str, type[AnyRecord]] = {
    "parts": ComplexityRecord,
    "encode": TimingRecord,
    "points": RdRecord,
}
"""Each kind of record by a field that only it has."""


def records_json(records: Sequence[AnyRecord], *, convention: Convention = "all") -> str:
    """Return a JSON list with one object per record.

    Each object begins with a summary, by names with units, and holds the complete record under
    ``record``, which ``read_records`` reads.

    Args:
        records: records of any kind.
        convention: convention of the totals of complexity records; those of all conventions are
            included separately.
    """
    entries = [
        {**rounded(_summary(record, convention), _DIGITS), "record": record.model_dump(mode="json")}
        for record in records
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def read_records(path: Path) -> list[AnyRecord]:
    """Read the records in a file: one record, a list of them, or the output of ``records_json``.

    Raises:
        LabError: the file can't be read, or holds something else.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError) as error:  # also for endless numbers and nesting
        raise LabError(f"{path}: not JSON ({error}).") from None
    entries = tree if isinstance(tree, list) else [tree]
    if not entries:
        raise LabError(f"{path}: holds no record.")
    return [_record(entry, f"{path}, record {i}") for i, entry in enumerate(entries)]


def _record(entry: Any, origin: str) -> AnyRecord:
    fields = entry.get("record", entry) if isinstance(entry, Mapping) else None
    known = fields if isinstance(fields, Mapping) else {}
    kind = next((kind for field, kind in _KINDS.items() if field in known), None)
    if kind is None:
        raise LabError(
            f"{origin}: not a complexity, timing or rate-distortion record. Give files that were "
            "written with --format json."
        )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        message = validation_message(error, kind, fields)
        raise LabError(
            f"{origin}: {message}. It may be from another version; measure it again."
        ) from None


def _summary(record: AnyRecord, convention: Convention) -> dict[str, Any]:
    if isinstance(record, ComplexityRecord):
        return _complexity_summary(record, convention)
    if isinstance(record, TimingRecord):
        times = {"encode_ms": record.encode_ms, "decode_ms": record.decode_ms}
        return {"model": record.model, "size": size_text(record.size), **times}
    return {"model": record.name, "bpp": record.bpp, "psnr_db": record.psnr_db}


def _complexity_summary(record: ComplexityRecord, convention: Convention) -> dict[str, Any]:
    def per_pixel(macs: Mapping[Any, int]) -> dict[str, float]:
        return {str(name): count / record.pixels / 1e3 for name, count in macs.items()}

    totals = tables.totals(record, convention)
    return {
        "model": record.model,
        "size": size_text(record.size),
        "convention": convention,
        **{name: value for name, value in totals.items() if value is not None},
        "parts_kmacs_per_px": per_pixel(record.macs_by_part(convention)),
        "kinds_kmacs_per_px": per_pixel(record.macs_by_kind),
        "conventions": {
            name: {
                "kmacs_per_px": {scope: record.total_kmacs_per_px(scope, name) for scope in SCOPES},
                "gmacs": {scope: record.total_gmacs(scope, name) for scope in SCOPES},
            }
            for name in CONVENTIONS
        },
    }


def tables_of(
    records: Sequence[AnyRecord],
    *,
    convention: Convention = "all",
    detail: Detail = "totals",
    published: bool = False,
) -> list[Table]:
    """Return one table for each kind of record, costs first; times also by stage.

    Args:
        records: records of any kind.
        convention: for costs, the operators to count.
        detail: for costs, totals, parts or kinds.
        published: for costs, whether to add published values in rows of their own.

    Raises:
        LabError: no records given.
    """
    need("records", records)
    result = []
    if costs := _only(ComplexityRecord, records):
        beside = tables.published_beside(costs, published_figures()) if published else ()
        result.append(
            tables.complexity_table(costs, convention=convention, detail=detail, published=beside)
        )
    if times := _only(TimingRecord, records):
        result += [tables.timing_table(times), tables.stage_table(times)]
    if curves := _only(RdRecord, records):
        result.append(tables.rd_table(curves))
    return result


def plot_of(
    kind: PlotKind,
    records: Sequence[AnyRecord],
    *,
    title: str = "",
    published: Sequence[RdCurve] = (),
    quality: Quality = "psnr_db",
) -> Figure:
    """Return the plot called ``kind`` of those records that it can show.

    Args:
        kind: the plot.
        records: records of any kind.
        title: title of the plot.
        published: curves to add to ``rd``.
        quality: the metric that ``rd`` draws over the rate.

    Raises:
        LabError: there is no such plot, it can show none of the records, evaluations are of
            different images, it does not show published curves, or these are of another quality.
    """
    lookup(dict.fromkeys(get_args(PlotKind)), kind, "plot")
    costs = _only(ComplexityRecord, records)
    if published and kind != "rd":
        raise LabError(f"plot {kind}: cannot show published curves; rd can.")
    if kind == "rd":
        figure = _rd(_only(RdRecord, records), published, quality)
    elif not costs:
        raise LabError(f"plot {kind}: needs a complexity record, from tcm-lab complexity.")
    elif kind == "roofline":
        figure = _roofline(costs, _only(TimingRecord, records))
    else:
        draw = {
            "parts": plots.cost_by_part_plot,
            "parameters": plots.macs_parameters_plot,
            "size": plots.cost_size_plot,
        }
        figure = draw[kind](costs)
    if title:
        with plots.style():
            figure.axes[0].set_title(wrapped(title, 0.85 * figure.get_figwidth(), 8.5))
    return figure


def _rd(records: Sequence[RdRecord], published: Sequence[RdCurve], quality: Quality) -> Figure:
    if not records:
        raise LabError("plot rd: needs a rate-distortion record, from tcm-lab evaluate.")
    check_images(records)
    if published and quality != "psnr_db":
        raise LabError(
            f"plot rd: published curves have psnr_db, not {quality}. Leave out one of the two."
        )
    series = [
        plots.series_of_records(
            curve.records,
            label=curve.label,
            role="anchor" if curve.records[0].name in _ANCHORS else "measured",
            quality=quality,
        )
        for curve in measured_curves(records)
    ]
    series += [
        plots.RdSeries(label=c.name, bpp=c.bpp, quality=c.psnr_db, role="published")
        for c in published
    ]
    return plots.rd_plot(series, quality=quality)


def _roofline(costs: Sequence[ComplexityRecord], times: Sequence[TimingRecord]) -> Figure:
    counted = {(cost.fingerprint, cost.size): cost for cost in costs}
    for timing in times:
        cost = counted.get((timing.fingerprint, timing.size))
        if cost is not None and timing.device_peak is not None:
            title = f"{timing.model} on {timing.environment.device}"
            points = plots.roofline_points(cost, timing)
            return plots.roofline_plot(points, timing.device_peak, title=title)
    raise LabError(
        "plot roofline: needs a complexity and a timing record of the same model and size. "
        "tcm-lab complexity and tcm-lab time write them with --format json."
    )


def _only(kind: type[_T], records: Iterable[object]) -> list[_T]:
    return [record for record in records if isinstance(record, kind)]
