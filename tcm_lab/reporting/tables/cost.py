"""Tables of what codecs cost: totals by direction, by part, by kind; and how counters differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from tcm_lab.complexity import CheckReport, ComplexityRecord, Convention, Scope
from tcm_lab.errors import LabError, one_of
from tcm_lab.reporting._notes import need, size_text, versions_text
from tcm_lab.reporting.table import Column, Mark, Row, Table, Value, metric_column
from tcm_lab.reporting.tables.published import Published

Detail: TypeAlias = Literal["totals", "parts", "kinds"]

_TITLES: Mapping[str, str] = {
    "totals": "Cost",
    "parts": "Cost by part",
    "kinds": "Cost by kind of operator",
}
_SCOPES: Mapping[str, Scope] = {"": "whole", "encode_": "encode", "decode_": "decode"}
"""Prefix of a column's key, and what the column covers."""
_MEMORY = ("peak_memory_bytes", "decode_peak_memory_bytes")
_PART_NAMES: Mapping[str, str] = {
    **{part: part for part in ("g_a", "h_a", "h_s")},
    "attention": "entropy attention",
    "slice_heads": "slice networks",
    "lrp": "LRP",
    "g_s": "g_s",
    "prior": "prior",
    "gain": "rate gains",
}

_COUNTED: Mapping[str, str] = {
    "all": "convolutions, linear layers, attention products and GDN",
    "no-attention-products": "convolutions, linear layers and GDN, attention products left out",
    "conv-linear-only": "convolutions and linear layers alone",
}
_KIND_NAMES: Mapping[str, str] = {
    "convolution": "convolution",
    "linear": "linear",
    "attention": "attention products",
    "gdn": "GDN",
    "normalisation": "normalisation",
}


def part_names(records: Sequence[ComplexityRecord]) -> dict[str, str]:
    """Return the parts that compute, in the order of the data's flow, with readers' names.

    Parts without a name here, such as those of users' models, come last.
    """
    found = {part for record in records for part, cost in record.parts.items() if cost.total_macs}
    known = {part: name for part, name in _PART_NAMES.items() if part in found}
    return {**known, **{part: part for part in sorted(found - set(known))}}


def complexity_table(
    records: Sequence[ComplexityRecord],
    *,
    convention: Convention = "all",
    detail: Detail = "totals",
    baseline: str = "",
    published: Sequence[Published] = (),
    title: str = "",
) -> Table:
    """Return one row per record.

    Args:
        records: models, or one model at several sizes.
        convention: which kinds of operators are counted.
        detail: ``totals`` (parameters, whole, encode, decode, memory), or the whole forward pass
            split by ``parts`` or ``kinds``.
        baseline: the model that is marked as such, if any.
        published: values by others, in rows of their own.
        title: one line; by default what the table holds.

    Raises:
        LabError: no records given, or the detail is unknown.
    """
    need("records", records)
    if detail not in _TITLES:
        raise LabError(f"detail '{detail}': unknown. Known: {one_of(_TITLES)}.")
    columns = [Column(key="model", header="model")]
    if len({record.size for record in records}) > 1:
        columns.append(Column(key="size", header="size", unit="HxW"))
    if detail == "totals":
        columns += _total_columns(records)
    else:
        names = part_names(records) if detail == "parts" else _kind_names(records)
        columns += [_kmacs_column(f"{key}_kmacs_per_px", name) for key, name in names.items()]
        columns.append(_kmacs_column("kmacs_per_px", "sum"))
    rows = []
    for record in records:
        about = {"model": record.model, "size": size_text(record.size)}
        values: dict[str, Value] = {**about, **totals(record, convention)}
        if detail != "totals":
            macs = record.macs_by_part(convention) if detail == "parts" else record.macs_by_kind
            values |= {f"{key}_kmacs_per_px": n / record.pixels / 1e3 for key, n in macs.items()}
        marks: tuple[Mark, ...] = ("baseline",) if record.model == baseline else ()
        rows.append(Row.of(columns, values, marks=marks))
    rows += [Row.of(columns, {"model": p.model, **p.values}, source=p.source) for p in published]
    sizes = sorted({record.size for record in records})
    at = f" of coding a {size_text(sizes[0])} image" if len(sizes) == 1 else ", by image size"
    return Table(
        title=title or _TITLES[detail] + at,
        columns=tuple(columns),
        rows=tuple(rows),
        footer=_footer(records, convention, detail),
    )


def axis_table(
    axis: str,
    records: Mapping[str, ComplexityRecord],
    baseline: str,
    *,
    convention: Convention = "all",
    title: str = "",
) -> Table:
    """Return one row per value of an axis: its cost, and the change against the baseline's.

    Args:
        axis: its name.
        records: by the value, as displayed.
        baseline: the value that the others are compared with.
        convention: which kinds of operators are counted.
        title: one line.

    Raises:
        LabError: no record is of the baseline.
    """
    if baseline not in records:
        raise LabError(f"{axis} = {baseline}: no record of it. Known: {one_of(records)}.")
    columns = [Column(key=axis, header=axis)]
    for column in _total_columns(()):
        if column.best is not None:
            # Here each quantity is a group of its own, of two columns.
            group, header, unit = column.header, "cost", column.group
            if column.key == "parameters":
                group, header, unit = column.group, "count", column.unit
            update = {"group": group, "header": header, "unit": unit}
            change = {"header": "change", "group": group, "unit": "%", "format": "+.1f"}
            columns.append(column.model_copy(update=update))
            columns.append(Column(key=f"{column.key}_change_percent", **change))
    reference = totals(records[baseline], convention)
    rows = []
    for value, record in records.items():
        own = totals(record, convention)
        values: dict[str, Value] = {axis: value, **own}
        for key, total in own.items():
            if total is not None and (before := reference[key]):
                values[f"{key}_change_percent"] = 100 * (total / before - 1)
        rows.append(Row.of(columns, values, marks=("baseline",) if value == baseline else ()))
    return Table(
        title=title or f"What {axis} costs",
        columns=tuple(columns),
        rows=tuple(rows),
        footer=_footer(list(records.values()), convention, "totals"),
    )


def check_table(reports: Sequence[CheckReport]) -> Table:
    """Return the way from the reference count to each counter's total, step by named step.

    Raises:
        LabError: no reports given.
    """
    need("reports", reports)
    columns = (
        Column(key="model", header="model"),
        Column(key="counter", header="counter"),
        Column(key="step", header="what it counts"),
        Column(key="macs", header="MACs", format=",d"),
    )
    rows, notes = [], []
    for report in reports:
        for counter in report.counters:
            about = {"model": report.model, "counter": counter.counter}
            steps = list(counter.differences.items())
            if counter.counter != report.reference:
                steps.insert(0, (f"by {report.reference}", report.reference_macs))
            if counter.unexplained:
                steps.append(("unexplained", counter.unexplained))
            steps.append(("total", counter.total))
            rows += [Row(values={**about, "step": what, "macs": macs}) for what, macs in steps]
            if counter.note:
                notes.append(f"{report.model}, {counter.counter}: {counter.note}.")
    sizes = sorted({size_text(report.size) for report in reports})
    questions = [f"{report.model}, {text}" for report in reports for text in report.open_questions]
    verdict = (
        f"Not everything is explained: {'; '.join(questions)}."
        if questions
        else "Every counter's difference from the reference is named, to the last MAC."
    )
    return Table(
        title=f"Counters on one forward pass at {one_of(sizes)}",
        columns=columns,
        rows=tuple(rows),
        footer=(verdict, *dict.fromkeys(notes), f"{versions_text([reports[0].versions])}."),
    )


def _kmacs_column(key: str, header: str) -> Column:
    return Column(key=key, header=header, group="kMAC/px", format=".1f")


def _total_columns(records: Sequence[ComplexityRecord]) -> list[Column]:
    parameters = metric_column("parameters", header="all", group="parameters", format=".2f")
    rest = {"key": "conv_linear_parameters", "header": "conv. and linear", "best": None}
    columns = [
        parameters,
        parameters.model_copy(update=rest),
        *(
            metric_column(f"{way}kmacs_per_px", header=name, group="kMAC/px", unit="", format=".1f")
            for way, name in _SCOPES.items()
        ),
        *(
            Column(key=f"{way}gmacs", header=name, group="GMAC", format=".1f")
            for way, name in _SCOPES.items()
        ),
    ]
    known = [key for key in _MEMORY if any(getattr(r, key) is not None for r in records)]
    return [*columns, *map(metric_column, known)]


def totals(record: ComplexityRecord, convention: Convention) -> dict[str, int | float | None]:
    """Return a record's totals by column key."""
    scopes = _SCOPES.items()
    return {
        "parameters": record.total_parameters,
        "conv_linear_parameters": record.conv_linear_parameters,
        **{f"{k}kmacs_per_px": record.total_kmacs_per_px(s, convention) for k, s in scopes},
        **{f"{k}gmacs": record.total_gmacs(s, convention) for k, s in scopes},
        **{key: getattr(record, key) for key in _MEMORY},
    }


def _kind_names(records: Sequence[ComplexityRecord]) -> dict[str, str]:
    found = {kind for record in records for kind in record.macs_by_kind}
    return {kind: name for kind, name in _KIND_NAMES.items() if kind in found}


def _footer(
    records: Sequence[ComplexityRecord], convention: Convention, detail: Detail
) -> tuple[str, ...]:
    counted = f"Convention {convention}: MACs of {_COUNTED[convention]}; per pixel before padding."
    if detail == "kinds":
        counted += f" The sum is under this convention; {_KIND_NAMES['normalisation']} is in none."
    directions = "Encode leaves out g_s, decode g_a and h_a; whole is one forward pass."
    padded = sorted({(r.size, r.padded_size) for r in records if r.size != r.padded_size})
    sizes = [f"{size_text(size)} as {size_text(larger)}" for size, larger in padded]
    counters = sorted({record.counter for record in records})
    versions = versions_text(
        {  # closed formulas don't depend on torch
            name: version
            for name, version in record.versions.items()
            if name != "torch" or counters != ["formula"]
        }
        for record in records
    )
    unknown = sorted({name for record in records for name in record.unknown_operators})
    lines = (
        counted,
        directions if detail == "totals" else "",
        f"Images are padded: {'; '.join(sizes)}." if sizes else "",
        f"Counted as nothing, since unknown: {', '.join(unknown)}." if unknown else "",
        f"Counted by {one_of(counters)}; {versions}.",
    )
    return tuple(filter(None, lines))
