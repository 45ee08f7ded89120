"""Tables as CSV and JSON, for machines: values unscaled, to seven significant digits."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from tcm_lab.errors import LabError
from tcm_lab.reporting.table import Column, Table, Value, rounded
from tcm_lab.stats import Interval

_DIGITS = 7
_ENDS = ("value", "low", "high")


def as_csv(tables: Sequence[Table]) -> str:
    """Return comma-separated values under the column keys.

    An interval fills three columns; marks and sources have columns of their own.

    Raises:
        LabError: the number of tables is not one.
    """
    if len(tables) != 1:
        titles = ", ".join(table.title for table in tables)
        raise LabError(
            f"format csv holds one table, and these are {len(tables)} ({titles}). "
            "Make them one at a time."
        )
    (table,) = tables
    keys: dict[str, list[str]] = {}
    for column in table.columns:
        key = column.key
        spread = any(isinstance(row.values.get(key), Interval) for row in table.rows)
        keys[key] = [key, f"{key}_low", f"{key}_high"] if spread else [key]
    about = [name for name in ("marks", "source") if any(getattr(row, name) for row in table.rows)]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*chain(*keys.values()), *about], lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        known = {"marks": ";".join(row.marks), "source": row.source}
        cells: dict[str, object] = {name: known[name] for name in about}
        for key, names in keys.items():
            value = row.values.get(key)
            ends = [getattr(value, e) for e in _ENDS] if isinstance(value, Interval) else [value]
            digits = [float(f"{e:.{_DIGITS}g}") if isinstance(e, float) else e for e in ends]
            cells |= zip(names, digits, strict=False)
        writer.writerow(cells)
    return file.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """Return one object, or a list of them; a row has every column's key, null if unknown."""
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
    tree = {e: getattr(value, e) for e in _ENDS} if isinstance(value, Interval) else value
    return rounded(tree, _DIGITS)
