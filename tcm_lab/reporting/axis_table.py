"""What moving along one axis costs, against one of its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tcm_lab.errors import LabError, one_of
from tcm_lab.reporting.cost_tables import complexity_table, totals
from tcm_lab.reporting.table import Column, Row, Table, Value

if TYPE_CHECKING:
    from tcm_lab.complexity import ComplexityRecord, Convention

_COMPARED = {
    "parameters": ("parameters", "M", ".2f", 1e-6),
    "kmacs_per_px": ("whole", "kMAC/px", ".1f", 1.0),
    "encode_kmacs_per_px": ("encode", "kMAC/px", ".1f", 1.0),
    "decode_kmacs_per_px": ("decode", "kMAC/px", ".1f", 1.0),
}


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
        records: by the value, as readers see it.
        baseline: the value that the others are compared with.
        convention: which kinds of operators the figures count.
        title: one line.

    Raises:
        LabError: no record is of the baseline.
    """
    if baseline not in records:
        raise LabError(f"{axis} = {baseline}: no record of it; there are {one_of(records)}.")
    columns = [Column(key=axis, header=axis)]
    for key, (header, unit, form, scale) in _COMPARED.items():
        group = "parameters" if key == "parameters" else header
        columns += [
            Column(
                key=key, header="count" if key == "parameters" else "cost", group=group,
                unit=unit, format=form, scale=scale, best="low",
            ),
            Column(key=f"{key}_change_percent", header="change", group=group, unit="%",
                   format="+.1f"),
        ]  # fmt: skip
    reference = totals(records[baseline], convention)
    rows = []
    for value, record in records.items():
        own = totals(record, convention)
        values: dict[str, Value] = {axis: value}
        for key in _COMPARED:
            values[key] = own[key]
            values[f"{key}_change_percent"] = _change_percent(own[key], reference[key])
        rows.append(Row(values=values, marks=("baseline",) if value == baseline else ()))
    everything = complexity_table(list(records.values()), convention=convention)
    return Table(
        title=title or f"What {axis} costs",
        columns=tuple(columns),
        rows=tuple(rows),
        footer=everything.footer,
    )


def _change_percent(own: Value, reference: Value) -> float | None:
    assert isinstance(own, int | float)
    assert isinstance(reference, int | float)
    return 100 * (own / reference - 1) if reference else None
