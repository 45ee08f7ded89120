"""Tables of what codecs cost: totals by direction, by part, by kind; and how counters differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from tcm_lab.errors import LabError, one_of
from tcm_lab.reporting.parts import PART_NAMES, part_order
from tcm_lab.reporting.published import Published
from tcm_lab.reporting.table import Column, Mark, Row, Table, Value

if TYPE_CHECKING:
    from tcm_lab.complexity import CheckReport, ComplexityRecord, Convention

Detail: TypeAlias = Literal["totals", "parts", "kinds"]

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
        convention: which kinds of operators the figures count.
        detail: ``totals`` (parameters, whole, encode, decode, memory), or the whole forward pass
            split by ``parts`` or ``kinds``.
        baseline: the model that is marked as such, if any.
        published: figures by others, in rows of their own.
        title: one line; by default what the table holds.

    Raises:
        LabError: there is no record, or no such detail.
    """
    if not records:
        raise LabError("records: there is none to tabulate.")
    columns = [Column(key="model", header="model")]
    if len({record.size for record in records}) > 1:
        columns.append(Column(key="size", header="size", unit="HxW"))
    if detail == "totals":
        columns += _total_columns(records)
        fill = totals
    elif detail == "parts":
        columns += _share_columns(
            {part: PART_NAMES.get(part, part) for part in part_order(records)}
        )
        fill = _by_part
    elif detail == "kinds":
        found = {kind for record in records for kind in record.macs_by_kind}
        columns += _share_columns({kind: n for kind, n in _KIND_NAMES.items() if kind in found})
        fill = _by_kind
    else:
        raise LabError(f"detail '{detail}': unknown. Write {one_of(['totals', 'parts', 'kinds'])}.")
    rows = []
    for record in records:
        values = {"model": record.model, "size": _size(record.size), **fill(record, convention)}
        marks: tuple[Mark, ...] = ("baseline",) if record.model == baseline else ()
        kept = {c.key: values[c.key] for c in columns if values.get(c.key) is not None}
        rows.append(Row(values=kept, marks=marks))
    rows += [figures.row(columns) for figures in published]
    return Table(
        title=title or _title(records, detail),
        columns=tuple(columns),
        rows=tuple(rows),
        footer=_footer(records, convention, detail),
    )


def check_table(reports: Sequence[CheckReport]) -> Table:
    """Return the way from the reference count to each counter's total, step by named step.

    Raises:
        LabError: there is no report.
    """
    if not reports:
        raise LabError("reports: there is none to tabulate.")
    rows = []
    for report in reports:
        for counter in report.counters:
            about = {"model": report.model, "counter": counter.counter}
            reference = f"by {report.reference}"
            steps: list[tuple[str, int]] = [(reference, report.reference_macs)]
            if counter.counter == report.reference:
                steps = []
            steps += [(step.what, step.macs) for step in counter.differences]
            if counter.unexplained:
                steps.append(("unexplained", counter.unexplained))
            steps.append(("total", counter.total))
            rows += [Row(values={**about, "step": what, "macs": macs}) for what, macs in steps]
    sizes = sorted({_size(report.size) for report in reports})
    versions = _versions(reports[0].versions)
    agreed = all(report.agrees for report in reports)
    verdict = (
        "Every counter's difference from the reference is named, to the last MAC."
        if agreed
        else "Not everything is explained: " + "; ".join(_open_questions(reports)) + "."
    )
    notes = [
        f"{report.model}, {counter.counter}: {counter.note}."
        for report in reports
        for counter in report.counters
        if counter.note
    ]
    return Table(
        title=f"Counters on one forward pass at {one_of(sizes)}",
        columns=(
            Column(key="model", header="model"),
            Column(key="counter", header="counter"),
            Column(key="step", header="what it counts"),
            Column(key="macs", header="MACs", format=",d"),
        ),
        rows=tuple(rows),
        footer=(verdict, *dict.fromkeys(notes), versions),
    )


def _total_columns(records: Sequence[ComplexityRecord]) -> list[Column]:
    columns = [
        Column(
            key="parameters",
            header="all",
            group="parameters",
            unit="M",
            format=".2f",
            scale=1e-6,
            best="low",
        ),
        Column(
            key="conv_linear_parameters",
            header="conv. and linear",
            group="parameters",
            unit="M",
            format=".2f",
            scale=1e-6,
        ),
        Column(key="kmacs_per_px", header="whole", group="kMAC/px", format=".1f", best="low"),
        Column(
            key="encode_kmacs_per_px", header="encode", group="kMAC/px", format=".1f", best="low"
        ),
        Column(
            key="decode_kmacs_per_px", header="decode", group="kMAC/px", format=".1f", best="low"
        ),
        Column(key="gmacs", header="whole", group="GMAC", format=".1f"),
        Column(key="encode_gmacs", header="encode", group="GMAC", format=".1f"),
        Column(key="decode_gmacs", header="decode", group="GMAC", format=".1f"),
    ]
    if any(record.peak_memory_bytes is not None for record in records):
        columns.append(
            Column(
                key="peak_memory_bytes",
                header="peak memory",
                unit="MB",
                format=".0f",
                scale=1e-6,
                best="low",
            )
        )
    return columns


def totals(record: ComplexityRecord, convention: Convention) -> dict[str, Value]:
    """Return a record's totals by column key."""
    return {
        "parameters": record.total_parameters,
        "conv_linear_parameters": record.conv_linear_parameters,
        "kmacs_per_px": record.total_kmacs_per_px("whole", convention),
        "encode_kmacs_per_px": record.total_kmacs_per_px("encode", convention),
        "decode_kmacs_per_px": record.total_kmacs_per_px("decode", convention),
        "gmacs": record.total_gmacs("whole", convention),
        "encode_gmacs": record.total_gmacs("encode", convention),
        "decode_gmacs": record.total_gmacs("decode", convention),
        "peak_memory_bytes": record.peak_memory_bytes,
    }


def _share_columns(names: Mapping[str, str]) -> list[Column]:
    shares = [
        Column(key=f"{key}_kmacs_per_px", header=name, group="kMAC/px", format=".1f")
        for key, name in names.items()
    ]
    return [*shares, Column(key="kmacs_per_px", header="sum", group="kMAC/px", format=".1f")]


def _by_part(record: ComplexityRecord, convention: Convention) -> dict[str, Value]:
    parts = record.macs_by_part(convention)
    return {
        **{f"{part}_kmacs_per_px": macs / record.pixels / 1e3 for part, macs in parts.items()},
        "kmacs_per_px": record.total_kmacs_per_px("whole", convention),
    }


def _by_kind(record: ComplexityRecord, convention: Convention) -> dict[str, Value]:
    kinds = record.macs_by_kind
    return {
        **{f"{kind}_kmacs_per_px": macs / record.pixels / 1e3 for kind, macs in kinds.items()},
        "kmacs_per_px": record.total_kmacs_per_px("whole", convention),
    }


def _title(records: Sequence[ComplexityRecord], detail: Detail) -> str:
    what = {"totals": "Cost", "parts": "Cost by part", "kinds": "Cost by kind of operator"}[detail]
    sizes = sorted({record.size for record in records})
    return (
        f"{what} of coding a {_size(sizes[0])} image"
        if len(sizes) == 1
        else f"{what}, by image size"
    )


def _footer(
    records: Sequence[ComplexityRecord], convention: Convention, detail: Detail
) -> tuple[str, ...]:
    counted = f"Convention {convention}: MACs of {_COUNTED[convention]}; per pixel before padding."
    if detail == "kinds":
        counted += f" The sum is under this convention; {_KIND_NAMES['normalisation']} is in none."
    directions = "Encode leaves out g_s, decode g_a and h_a; whole is one forward pass."
    padded = sorted({(r.size, r.padded_size) for r in records if r.size != r.padded_size})
    sizes = [f"{_size(size)} as {_size(larger)}" for size, larger in padded]
    counters = sorted({record.counter for record in records})
    versions: dict[str, str] = {}
    for record in records:
        versions |= record.versions
    if counters == ["formula"]:
        versions.pop("torch", None)  # closed formulas don't depend on it
    unknown = sorted({name for record in records for name in record.unknown_operators})
    return tuple(
        filter(
            None,
            (
                counted,
                directions if detail == "totals" else "",
                f"Images are padded: {'; '.join(sizes)}." if sizes else "",
                f"Counted as nothing, since unknown: {', '.join(unknown)}." if unknown else "",
                f"Counted by {one_of(counters)}; {_versions(versions)}",
            ),
        )
    )


def _open_questions(reports: Sequence[CheckReport]) -> Iterable[str]:
    for report in reports:
        for counter in report.counters:
            if counter.unexplained:
                yield f"{report.model}, {counter.counter}: {counter.unexplained:,d} MACs"
        yield from (f"{report.model}: {text}" for text in report.disagreements)
        if report.unknown_operators:
            yield f"{report.model}: unknown operators {', '.join(report.unknown_operators)}"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "."


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
