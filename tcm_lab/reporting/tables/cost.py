"""Tables of codecs' costs by direction, part and kind; differences of counters and publications."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from tcm_lab.complexity import (
    CheckReport,
    ComplexityRecord,
    Convention,
    Explanation,
    PublishedFigure,
    Scope,
    explain_figure,
)
from tcm_lab.errors import LabError, one_of
from tcm_lab.reporting._notes import need, size_text, versions_text
from tcm_lab.reporting.table import Column, Mark, Row, Table, Value, metric_column

Detail: TypeAlias = Literal["totals", "parts", "kinds"]

_TITLES: Mapping[str, str] = {
    "totals": "Cost",
    "parts": "Cost by part",
    "kinds": "Cost by kind of operator",
}
_SCOPES: Mapping[str, Scope] = {"": "whole", "encode_": "encode", "decode_": "decode"}
"""Prefix of a column's key, and the scope of the column."""
_MEMORY = ("peak_memory_bytes", "decode_peak_memory_bytes")
_PART_NAMES: Mapping[str, str] = {
    **{part: part for part in ("g_a", "h_a", "h_s")},
    "attention": "entropy attention",
    "dictionary": "dictionary attention",
    "local_context": "local context",
    "channel_context": "channel context",
    "inter_context": "inter context",
    "intra_context": "intra context",
    "slice_heads": "slice networks",
    "adaptors": "adaptors",
    "coarse_trunk": "coarse trunk",
    "fine_trunk": "fine trunk",
    "merging": "merging",
    "lrp": "LRP",
    "g_s": "g_s",
    "prior": "prior",
    "gain": "rate gains",
}
_KIND_NAMES: Mapping[str, str] = {
    **{kind: kind for kind in ("convolution", "linear")},
    "attention": "attention products",
    "gdn": "GDN",
    "normalisation": "normalisation",
}
_COUNTED: Mapping[str, str] = {
    "all": "convolutions, linear layers, attention products and GDN",
    "no-attention-products": "convolutions, linear layers and GDN, attention products left out",
    "conv-linear-only": "convolutions and linear layers alone",
}
_UNITS = {"kmacs_per_px": "kMAC/px", "gmacs": "GMAC", "parameters_millions": "M parameters"}


def part_names(records: Sequence[ComplexityRecord]) -> dict[str, str]:
    """Return the parts that compute, in the order of the data flow, with their display names.

    Parts without a name here, such as those of users' models, come last.
    """
    active = {part for record in records for part, cost in record.parts.items() if cost.total_macs}
    known = {part: name for part, name in _PART_NAMES.items() if part in active}
    return {**known, **{part: part for part in sorted(active - set(known))}}


def complexity_table(
    records: Sequence[ComplexityRecord],
    *,
    convention: Convention = "all",
    detail: Detail = "totals",
    published: Sequence[Row] = (),
    title: str = "",
) -> Table:
    """Return one row per record.

    Args:
        records: models, or one model at several sizes.
        convention: the kinds of operators to count.
        detail: ``totals`` (parameters, whole, encode, decode, memory), or the whole forward pass
            split by ``parts`` or ``kinds``.
        published: rows of published values, from ``published_beside``.
        title: one line; by default a description of the contents.

    Raises:
        LabError: no records given, or the detail is unknown.
    """
    need("records", records)
    if detail not in _TITLES:
        raise LabError(f"detail '{detail}': unknown. Known: {one_of(_TITLES)}.")
    columns = [Column(key="model", header="model"), Column(key="size", header="size", unit="HxW")]
    if detail == "totals":
        columns += _total_columns()
    else:
        names = part_names(records) if detail == "parts" else _kind_names(records)
        columns += [_kmacs_column(f"{key}_kmacs_per_px", name) for key, name in names.items()]
        columns.append(_kmacs_column("kmacs_per_px", "sum"))
    sizes = sorted({record.size for record in records})
    rows = []
    for record in records:
        values: dict[str, Value] = {"model": record.model, **totals(record, convention)}
        if len(sizes) > 1:
            values["size"] = size_text(record.size)
        if detail != "totals":
            macs = record.macs_by_part(convention) if detail == "parts" else record.macs_by_kind
            values |= {f"{key}_kmacs_per_px": n / record.pixels / 1e3 for key, n in macs.items()}
        rows.append(Row(values=values))
    at = f" of coding a {size_text(sizes[0])} image" if len(sizes) == 1 else ", by image size"
    return Table(
        title=title or _TITLES[detail] + at,
        columns=columns,
        rows=[row.within(columns) for row in (*rows, *published)],
        footer=_footer(records, convention, detail),
    ).without_empty_columns()


def axis_table(
    axis: str, records: Mapping[str, ComplexityRecord], baseline: str, *, title: str = ""
) -> Table:
    """Return one row per value of an axis: its cost, and the change from the baseline's.

    Args:
        axis: name of the axis.
        records: records by the displayed value.
        baseline: the value to compare the others with.
        title: one line.

    Raises:
        LabError: there is no record of the baseline.
    """
    if baseline not in records:
        raise LabError(f"{axis} = {baseline}: no record of it. Known: {one_of(records)}.")
    costs = [metric_column("parameters", header="count", group="parameters", format=".2f")]
    for prefix, scope in _SCOPES.items():
        changes = {"header": "cost", "group": scope, "format": ".1f"}
        costs.append(metric_column(f"{prefix}kmacs_per_px", **changes))
    columns = [Column(key=axis, header=axis)]
    for cost in costs:
        fields = {"header": "change", "group": cost.group, "unit": "%", "format": "+.1f"}
        columns += [cost, Column(key=f"{cost.key}_change_percent", **fields)]
    before = totals(records[baseline], "all")
    rows = []
    for value, record in records.items():
        own = totals(record, "all")
        percents = {
            f"{key}_change_percent": 100 * (total / reference - 1)
            for key, total in own.items()
            if total is not None and (reference := before[key])
        }
        marks: tuple[Mark, ...] = ("baseline",) if value == baseline else ()
        rows.append(Row(values={axis: value, **own, **percents}, marks=marks).within(columns))
    return Table(
        title=title or f"What {axis} costs",
        columns=columns,
        rows=rows,
        footer=_footer(list(records.values()), "all", "totals"),
    )


def check_table(reports: Sequence[CheckReport]) -> Table:
    """Return the named steps that lead from the reference count to each counter's total.

    Raises:
        LabError: no reports given.
    """
    need("reports", reports)
    rows, notes = [], []
    for report in reports:
        for counter in report.counters:
            steps = list(counter.differences.items())
            if counter.counter != report.reference:
                steps.insert(0, (f"by {report.reference}", report.reference_macs))
            if counter.unexplained:
                steps.append(("unexplained", counter.unexplained))
            about = {"model": report.model, "counter": counter.counter}
            for step, macs in (*steps, ("total", counter.total)):
                rows.append(Row(values={**about, "step": step, "macs": macs}))
            if counter.note:
                notes.append(f"{report.model}, {counter.counter}: {counter.note}.")
    sizes = sorted({size_text(report.size) for report in reports})
    questions = [f"{report.model}, {text}" for report in reports for text in report.open_questions]
    asides = [f"{report.model}, {text}." for report in reports for text in report.notes]
    if questions:
        verdict = f"Not everything is explained: {'; '.join(questions)}."
    elif asides:
        by_formula = all(report.reference == "formula" for report in reports)
        agree = (
            "Formula and torch agree to the last MAC" if by_formula else "Torch counts everything"
        )
        verdict = f"{agree}; the differences of other tools follow."
    else:
        verdict = "Every counter's difference from the reference is explained, to the last MAC."
    return Table(
        title=f"Counters on one forward pass at {one_of(sizes)}",
        columns=(
            Column(key="model", header="model"),
            Column(key="counter", header="counter"),
            Column(key="step", header="what it counts"),
            Column(key="macs", header="MACs", format=",d"),
        ),
        rows=rows,
        footer=(
            verdict,
            *dict.fromkeys([*asides, *notes]),
            f"{versions_text(report.versions for report in reports)}.",
        ),
    )


def explain_table(explanations: Sequence[Explanation]) -> Table:
    """Return one row per published figure with the convention that reproduces it.

    Raises:
        LabError: no explanations given.
    """
    need("explanations", explanations)
    return Table(
        title="Published figures and the counting that reproduces them",
        columns=(
            Column(key="model", header="model"),
            Column(key="printed_as", header="printed as"),
            Column(key="covers", header="covers"),
            Column(key="convention", header="reproduced by convention"),
            Column(key="ours", header="counted here"),
            Column(key="difference_percent", header="difference", unit="%", format="+.2f"),
            Column(key="verdict", header="within a unit of the last digit"),
            Column(key="source", header="source"),
        ),
        rows=[
            Row(
                values={
                    "model": e.published.model,
                    "printed_as": e.published.printed_as,
                    "covers": e.published.scope,
                    "convention": e.convention,
                    "ours": f"{e.ours:.{e.published.decimals}f} {_UNITS[e.published.quantity]}",
                    "difference_percent": e.difference_percent,
                    "verdict": "yes" if e.to_the_printed_digit else "no",
                    "source": e.published.source,
                }
            )
            for e in explanations
        ],
        footer=(
            "all: convolutions, linear layers, attention products and GDN; "
            "no-attention-products: without the products; conv-linear-only: also without GDN; "
            "thop: like conv-linear-only, but transposed convolutions are counted at the size of "
            "their output, which is too much by the factor by which they enlarge the map.",
        ),
    )


def published_beside(
    records: Sequence[ComplexityRecord], figures: Sequence[PublishedFigure]
) -> list[Row]:
    """Return rows of the published figures for the records' models at the records' sizes.

    A variant with the name of a model has no published figures.

    Others count differently: each source is followed by the closest convention, and a number of
    parameters goes into the column that it is closest to. Values measured on published code rather
    than read in a source are omitted.
    """
    by_source: dict[tuple[str, str], dict[str, Value]] = defaultdict(dict)
    for figure in figures:
        own = [record for record in records if figure.is_of(record)]
        if figure.quantity == "gmacs":
            own = [record for record in own if record.size == figure.size]
        if not figure.reported or not own:
            continue
        source, value = figure.source, figure.value
        if figure.quantity == "parameters_millions":
            value = round(value * 1e6)
            counts = {
                "parameters": own[0].total_parameters,
                "conv_linear_parameters": own[0].conv_linear_parameters,
            }
            key = min(counts, key=lambda name: abs(counts[name] - figure.value * 1e6))
        else:
            key = f"{'' if figure.scope == 'whole' else f'{figure.scope}_'}{figure.quantity}"
            closest = explain_figure(figure, own[0]).convention
            source = f"{source}, closest to convention {closest}"
        by_source[figure.model, source][key] = value
    return [
        Row(values={"model": model, **values}, source=source)
        for (model, source), values in sorted(by_source.items())
    ]


def _kmacs_column(key: str, header: str) -> Column:
    return Column(key=key, header=header, group="kMAC/px", format=".1f")


def _total_columns() -> list[Column]:
    parameters = metric_column("parameters", header="all", group="parameters", format=".2f")
    rest = {"key": "conv_linear_parameters", "header": "conv. and linear", "best": None}
    kmacs = [_kmacs_column(f"{prefix}kmacs_per_px", scope) for prefix, scope in _SCOPES.items()]
    return [
        parameters,
        parameters.model_copy(update=rest),
        *(column.model_copy(update={"best": "low"}) for column in kmacs),
        *(
            Column(key=f"{prefix}gmacs", header=scope, group="GMAC", format=".1f")
            for prefix, scope in _SCOPES.items()
        ),
        *map(metric_column, _MEMORY),
    ]


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
    kinds = {kind for record in records for kind in record.macs_by_kind}
    return {kind: name for kind, name in _KIND_NAMES.items() if kind in kinds}


def _left_out(records: Sequence[ComplexityRecord]) -> str:
    """Return a note on the parts that encoding and decoding don't run, by model if they differ."""
    models: dict[str, list[str]] = {}
    for record in records:
        encode, decode = (
            " and ".join(record.absent[scope]) or "nothing" for scope in ("encode", "decode")
        )
        models.setdefault(f"leaves out {encode}, decode {decode}", []).append(record.model)
    if len(models) == 1:
        return f"Encode {next(iter(models))}"
    return "Encode " + "; ".join(
        f"of {', '.join(dict.fromkeys(names))} {omission}" for omission, names in models.items()
    )


def _footer(
    records: Sequence[ComplexityRecord], convention: Convention, detail: Detail
) -> list[str]:
    counted = f"Convention {convention}: MACs of {_COUNTED[convention]}; per pixel before padding."
    if detail == "kinds":
        counted += " The sum follows this convention; no convention counts normalisation."
    lines = [counted]
    if detail == "totals":
        lines.append(f"{_left_out(records)}; whole is one forward pass.")
    if detail == "parts":
        portable = ", ".join(f"{r.portable_kmacs_per_px:.1f} of {r.model}" for r in records)
        lines.append(f"kMAC/px that a portable stream computes in float64: {portable}.")
    padded = sorted({(r.size, r.padded_size) for r in records if r.size != r.padded_size})
    if sizes := [f"{size_text(size)} to {size_text(larger)}" for size, larger in padded]:
        lines.append(f"Images are padded: {'; '.join(sizes)}.")
    if unknown := sorted({name for record in records for name in record.unknown_operators}):
        lines.append(f"Unknown operators, counted as 0: {', '.join(unknown)}.")
    counters = sorted({record.counter for record in records})
    versions = versions_text(
        {  # closed formulas don't depend on torch
            name: version
            for name, version in record.versions.items()
            if name != "torch" or counters != ["formula"]
        }
        for record in records
    )
    return [*lines, f"Counted by {one_of(counters)}; {versions}."]
