"""Tables as CSV and JSON, for machines: unscaled values with seven significant digits."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from tcm_lab.errors import LabError
from tcm_lab.reporting.table import Column, Table, Value, rounded
from tcm_lab.stats import Interval

_DIGITS = 7


def as_csv(tables: Sequence[Table]) -> str:
    """Return comma-separated values under the column keys.

    An interval takes three columns; marks and sources have columns of their own.

    Raises:
        LabError: there is not exactly one table.
    """
    if len(tables) != 1:
        titles = ", ".join(table.title for table in tables)
        raise LabError(
            f"format csv holds one table, and these are {len(tables)} ({titles}). "
            "Write them one at a time."
        )
    (table,) = tables
    columns = table.values_by_column()
    if any(row.marks for row in table.rows):
        columns["marks"] = [";".join(row.marks) for row in table.rows]
    if table.published:
        columns["source"] = [row.source for row in table.rows]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(float(f"{v:.{_DIGITS}g}") if isinstance(v, float) else v for v in row)
    return file.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """Return one object, or a list of them; rows have all columns' keys, null if unknown."""
    texts = [json.dumps(_tree(table), indent=1, ensure_ascii=False) for table in tables]
    return f"{texts[0]}\n" if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]\n"


def _tree(table: Table) -> Any:
    return {
        "title": table.title,
        "columns": [_column(column) for column in table.columns],
        "rows": [
            {
                **{c.key: _value(row.values.get(c.key)) for c in table.columns},
                **({"marks": list(row.marks)} if row.marks else {}),
                **({"source": row.source} if row.source else {}),
            }
            for row in table.rows
        ],
        "notes": table.notes,
    }


def _column(column: Column) -> dict[str, str]:
    described = {"key": column.key, "header": column.header, "group": column.group}
    if column.scale == 1:  # the values are unscaled, so a scaled column's unit would be wrong
        described["unit"] = column.unit
    return {name: text for name, text in described.items() if text}


def _value(value: Value) -> Any:
    if isinstance(value, Interval):
        return rounded(value.model_dump(include={"value", "low", "high"}), _DIGITS)
    return rounded(value, _DIGITS)
