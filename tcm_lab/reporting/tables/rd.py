"""Tables of rate and distortion: measured points, and BD-rates with their overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import get_args

from tcm_lab.errors import LabError
from tcm_lab.evaluation import (
    Interpolation,
    MeasuredCurve,
    Quality,
    RdCurve,
    RdRecord,
    bd_rate,
    measured_curves,
    points_by_rate,
    rate_percents,
)
from tcm_lab.evaluation.grouping import check_images
from tcm_lab.reporting._notes import WITHOUT_HEADERS, environment_lines, images_text, need
from tcm_lab.reporting.table import Column, Row, Table, Value, unmarked_column

_PAYLOAD = Column(key="payload_bpp", header="payload", unit="bpp", format=".4f")
_METHODS: tuple[Interpolation, ...] = ("pchip", "cubic", "akima")


def rd_table(
    records: Sequence[RdRecord], *, published: Sequence[RdCurve] = (), title: str = ""
) -> Table:
    """Return one row per codec, seed and rate, means over the images.

    Args:
        records: evaluations on the same images; those of one codec become neighbouring rows.
        published: published curves, in rows of their own.
        title: one line.

    Raises:
        LabError: no records given, or the records are of different images.
    """
    need("records", records)
    check_images(records)
    measured = [
        Column(key="lmbda", header="λ", format="g"),
        Column(key="rate", header="rate level", format="g"),
        unmarked_column("bpp"),
        _PAYLOAD,
        *map(unmarked_column, get_args(Quality)),
        Column(key="gap_percent", header="written over estimated", unit="%", format="+.2f"),
        unmarked_column("encode_ms"),
        unmarked_column("decode_ms"),
    ]
    rows = []
    for curve in measured_curves(records):
        for record in curve.records:
            several = len(curve.records) > 1
            seed = record.recipe.seed if several and record.recipe is not None else None
            for point in record.points:
                values = {column.key: getattr(point, column.key) for column in measured}
                rows.append(Row(values={"model": curve.label, "seed": seed, **values}))
    rows += [
        Row(
            values={"model": curve.name, "bpp": bpp, "psnr_db": psnr_db},
            source=curve.source or curve.name,
        )
        for curve in published
        for bpp, psnr_db in zip(curve.bpp, curve.psnr_db, strict=True)
    ]
    seed_column = Column(key="seed", header="seed", format="d")
    first = records[0]
    return Table(
        title=title or "Rate and distortion",
        columns=(Column(key="model", header="model"), seed_column, *measured),
        rows=rows,
        footer=(
            f"Means over {images_text(first)}; "
            f"rates are of {_counted(records)} over the pixels before padding.",
            *environment_lines(record.environment for record in records),
        ),
    ).without_empty_columns()


def _counted(records: Sequence[RdRecord]) -> str:
    """Return what the rates count: earlier versions counted only the streams of a file."""
    points = [point for record in records for point in record.points]
    whole = all(p.payload_bpp is not None or p.gap_percent is None for p in points)
    return "whole files" if whole else "written bits"


def beside_table(curves: Sequence[MeasuredCurve], anchors: Sequence[RdRecord]) -> Table:
    """Return each codec's points, and the rates of anchors at the same PSNR on the same images.

    Rates are given for whole files and for payloads; payloads are compared.

    Args:
        curves: curves of the codecs.
        anchors: JPEG and the like, measured on the same images.

    Raises:
        LabError: no curves given, records of different images, or an older record of an anchor,
            without payloads.
    """
    need("curves", curves)
    check_images([*(record for curve in curves for record in curve.records), *anchors])
    columns = [
        Column(key="model", header="model"),
        Column(key="lmbda", header="λ", format=".3g"),
        unmarked_column("bpp"),
        _PAYLOAD,
        unmarked_column("psnr_db"),
    ]
    for anchor in anchors:
        group = f"{anchor.name} at this PSNR"
        columns += [
            _PAYLOAD.model_copy(update={"key": f"{anchor.name}_payload_bpp", "group": group}),
            Column(key=f"{anchor.name}_percent", header=f"codec vs. {anchor.name}", group=group,
                   unit="%", format="+.1f"),
        ]  # fmt: skip
    first = curves[0].records[0]
    names = " and ".join(anchor.name for anchor in anchors)
    return Table(
        title=f"Comparison with {names}" if anchors else "Rate and distortion",
        columns=columns,
        rows=[row for curve in curves for row in _beside_rows(curve, anchors)],
        footer=(
            *(
                _bd_note(curve.curve(counted="payload"), anchor.curve(counted="payload"))
                for curve in curves
                for anchor in anchors
            ),
            *([f"Compared: payloads. {WITHOUT_HEADERS}"] if anchors else []),
            f"Means over {images_text(first)}; "
            "rates count whole files, payloads only the data that code the image, per pixel before "
            "padding; a dash: the anchor does not reach this PSNR.",
            *environment_lines(record.environment for c in curves for record in c.records),
        ),
    ).without_empty_columns()


def _beside_rows(curve: MeasuredCurve, anchors: Sequence[RdRecord]) -> list[Row]:
    """Return a curve's points, with the anchors' rates at the same PSNR if they reach it."""
    means = curve.curve(counted="payload")
    seeds = {
        fmean(point.counted_bpp("payload") for point in points): points
        for points in points_by_rate(curve.records)
    }
    rows: list[dict[str, Value]] = [
        {
            "model": curve.label,
            "lmbda": seeds[payload][0].lmbda,
            "bpp": fmean(point.bpp for point in seeds[payload]),
            "payload_bpp": payload,
            "psnr_db": psnr_db,
        }
        for payload, psnr_db in zip(means.bpp, means.psnr_db, strict=True)
    ]
    for anchor in anchors:
        percents = rate_percents(anchor.curve(counted="payload"), means)
        for row, payload, percent in zip(rows, means.bpp, percents, strict=True):
            if percent is not None:
                row[f"{anchor.name}_payload_bpp"] = payload / (1 + percent / 100)
                row[f"{anchor.name}_percent"] = percent
    return [Row(values=row) for row in rows]


def _bd_note(curve: RdCurve, anchor: RdCurve) -> str:
    try:
        delta = bd_rate(anchor, curve)
    except LabError as error:
        return f"No BD-rate of {curve.name} against {anchor.name}: {error}"
    return (
        f"BD-rate of {curve.name} against {anchor.name}: {delta.percent:+.1f} % over "
        f"{delta.overlap_db:.1f} dB."
    )


def bd_rate_table(curves: Mapping[str, RdCurve], anchor: RdCurve) -> Table:
    """Return each curve's BD-rate against ``anchor`` by every interpolation; notes explain gaps.

    Args:
        curves: curves by label, with rates that count the same as the anchor's.
        anchor: the reference.
    """
    rates = [
        Column(key=f"{m}_bd_rate_percent", header=m, group="BD-rate", unit="%", format="+.2f")
        for m in _METHODS
    ]
    rows, refusals = [], list[str]()
    for label, curve in curves.items():
        values: dict[str, Value] = {"model": label}
        for method in _METHODS:
            try:
                delta = bd_rate(anchor, curve, method)
            except LabError as error:
                refusals.append(f"{label}: {error}")
            else:
                values[f"{method}_bd_rate_percent"] = delta.percent
                values["overlap_db"] = delta.overlap_db
        rows.append(Row(values=values))
    return Table(
        title=f"BD-rate against {anchor.name or 'the anchor'}",
        columns=(
            Column(key="model", header="model"),
            rates[0].model_copy(update={"best": "low"}),
            *rates[1:],
            Column(key="overlap_db", header="overlap", unit="dB", format=".2f"),
        ),
        rows=rows,
        footer=(
            "Mean change of rate at equal PSNR over the overlap; negative is better.",
            _rates_note(anchor),
            *dict.fromkeys(refusals),
        ),
    )


def _rates_note(anchor: RdCurve) -> str:
    """Return a note on what the rates of a comparison count."""
    if anchor.counted == "payload":
        return WITHOUT_HEADERS
    reason = ", since only these are published for the anchor" if anchor.source else ""
    return f"Rates of whole files including headers on both sides{reason}."
