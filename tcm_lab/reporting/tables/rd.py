"""Tables of rate and distortion: measured points, and BD-rates with their overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tcm_lab.errors import LabError
from tcm_lab.evaluation import Interpolation, RdCurve, RdRecord, bd_rate
from tcm_lab.reporting._notes import environment_lines, need
from tcm_lab.reporting.table import Column, Row, Table, Value, metric_column

_METHODS: tuple[Interpolation, ...] = ("pchip", "cubic", "akima")


def rd_table(
    records: Sequence[RdRecord], *, published: Sequence[RdCurve] = (), title: str = ""
) -> Table:
    """Return one row per codec and rate, means over the images.

    Args:
        records: evaluations on the same images.
        published: curves by others, in rows of their own.
        title: one line.

    Raises:
        LabError: no records given, or the records are of different images.
    """
    need("records", records)
    prints = {record.data_fingerprint for record in records}
    if len(prints) > 1:
        raise LabError(
            f"records are of {len(prints)} different sets of images ({', '.join(sorted(prints))}). "
            "Make a table of one set at a time."
        )
    columns = (
        Column(key="model", header="model"),
        Column(key="rate", header="rate level", format="g"),
        metric_column("bpp", group="", best=None),
        metric_column("psnr_db", group="", best=None),
        Column(key="ms_ssim_db", header="MS-SSIM", unit="dB", format=".2f"),
        Column(key="gap_percent", header="written over estimated", unit="%", format="+.2f"),
        metric_column("encode_ms", group="", best=None),
        metric_column("decode_ms", group="", best=None),
    )
    rows = []
    for record in records:
        for point in record.points:
            found = {column.key: getattr(point, column.key) for column in columns[1:]}
            rows.append(Row.of(columns, {"model": record.name, **found}))
    rows += [
        Row(
            values={"model": curve.name, "bpp": bpp, "psnr_db": psnr_db},
            source=_source(curve),
        )
        for curve in published
        for bpp, psnr_db in zip(curve.bpp, curve.psnr_db, strict=True)
    ]
    return Table(
        title=title or "Rate and distortion",
        columns=tuple(c for c in columns if any(c.key in row.values for row in rows)),
        rows=tuple(rows),
        footer=_footer(records),
    )


def bd_rate_table(
    curves: Mapping[str, RdCurve], anchor: RdCurve, *, published: Sequence[RdCurve] = ()
) -> Table:
    """Return each curve's BD-rate against ``anchor`` by every interpolation; a note explains gaps.

    Args:
        curves: by label.
        anchor: the reference.
        published: curves by others, in rows of their own.
    """
    look = {"group": "BD-rate", "unit": "%", "format": "+.2f"}
    rates = [Column(key=f"{m}_bd_rate_percent", header=m, **look) for m in _METHODS]
    columns = (
        Column(key="model", header="model"),
        rates[0].model_copy(update={"best": "low"}),
        *rates[1:],
        Column(key="overlap_db", header="overlap", unit="dB", format=".2f"),
    )
    rows, refusals = [], []
    judged = [(label, curve, "") for label, curve in curves.items()]
    judged += [(curve.name, curve, _source(curve)) for curve in published]
    for label, curve, source in judged:
        values, refused = _against(anchor, curve)
        refusals += [f"{label}: {refused}"] if refused else []
        rows.append(Row(values={"model": label, **values}, source=source))
    return Table(
        title=f"BD-rate against {anchor.name or 'the anchor'}",
        columns=columns,
        rows=tuple(rows),
        footer=(
            "Mean change of rate at equal PSNR over the overlap; negative is better.",
            *dict.fromkeys(refusals),
        ),
    )


def _against(anchor: RdCurve, curve: RdCurve) -> tuple[dict[str, Value], str]:
    """Return the values by column key, and why the last missing one is missing."""
    values: dict[str, Value] = {}
    refused = ""
    for method in _METHODS:
        try:
            found = bd_rate(anchor, curve, method)
        except LabError as error:
            refused = str(error)
        else:
            values[f"{method}_bd_rate_percent"] = found.percent
            values["overlap_db"] = found.overlap_db
    return values, refused


def _source(curve: RdCurve) -> str:
    return curve.source or curve.name


def _footer(records: Sequence[RdRecord]) -> tuple[str, ...]:
    images = max(len(point.images) for record in records for point in record.points)
    lines = (
        f"Means over {images} images (set {records[0].data_fingerprint}); rates are of written "
        "bits over the pixels before padding.",
    )
    return (*lines, *environment_lines(record.environment for record in records))
