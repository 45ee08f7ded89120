"""A table as markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from tcm_lab.reporting.tables import MARKS, PUBLISHED, Column, Row, Span, Table, Value

_DIGITS = 7


def to_markdown(table: Table) -> str:
    """Return a GitHub-flavoured table: it has one header row, so groups join their headers."""
    best = table.best
    lines = [f"**{_escape(table.title)}**", ""] if table.title else []
    header = [_escape(" ".join(filter(None, [c.group, c.label]))) for c in table.columns]
    body: list[list[str]] = []
    for row in table.rows:
        if row.source and row is table.published[0]:
            body.append([f"*{PUBLISHED}*", *[""] * (len(table.columns) - 1)])
        body.append([_cell(table, row, i, best) for i in range(len(table.columns))])
    widths = [max(3, *map(len, column)) for column in zip(header, *body, strict=True)]
    rule = [
        "-" * width if column.is_text else "-" * (width - 1) + ":"
        for column, width in zip(table.columns, widths, strict=True)
    ]
    for cells in (header, rule, *body):
        aligned = [
            cell.ljust(width) if column.is_text else cell.rjust(width)
            for cell, column, width in zip(cells, table.columns, widths, strict=True)
        ]
        lines.append(f"| {' | '.join(aligned)} |")
    if table.notes:
        lines += [
            "",
            *(f"{_escape(note)}  " for note in table.notes[:-1]),
            _escape(table.notes[-1]),
        ]
    return "\n".join(lines) + "\n"


def _cell(table: Table, row: Row, index: int, best: dict[str, float]) -> str:
    column = table.columns[index]
    text = _escape(column.text(row.values.get(column.key)))
    if table.is_best(column, row, best):
        text = f"**{text}**"
    if index == 0:
        text += table.citation(row) + " " * bool(row.marks)
        text += "".join(MARKS[mark][0] for mark in row.marks)
    return text


def _escape(text: str) -> str:
    text = re.sub(r"([\\|*<`])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)  # within a word it is itself
    return text.replace("\n", " ")


def to_csv(table: Table) -> str:
    """Return a header of keys, then the rows; marks and sources have columns of their own."""
    with_marks = any(row.marks for row in table.rows)
    with_sources = any(row.source for row in table.rows)
    spans = {
        column.key
        for column in table.columns
        if any(isinstance(row.values.get(column.key), Span) for row in table.rows)
    }
    keys: list[str] = []
    for column in table.columns:
        keys.append(column.key)
        if column.key in spans:
            keys += [f"{column.key}_low", f"{column.key}_high"]
    keys += ["marks"] * with_marks + ["source"] * with_sources
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(keys)
    for row in table.rows:
        cells: list[object] = []
        for column in table.columns:
            value = row.values.get(column.key)
            if isinstance(value, Span):
                cells += [_plain(value.value), _plain(value.low), _plain(value.high)]
            else:
                cells += [_plain(value), *[""] * (2 * (column.key in spans))]
        cells += [";".join(row.marks)] * with_marks + [row.source] * with_sources
        writer.writerow(cells)
    return file.getvalue()


def to_json(table: Table) -> str:
    """Return one object; each row has every column's key, and null for what is unknown."""
    tree = {
        "title": table.title,
        "columns": [_column(column) for column in table.columns],
        "rows": [
            {
                **{c.key: _for_json(row.values.get(c.key)) for c in table.columns},
                **({"marks": list(row.marks)} if row.marks else {}),
                **({"source": row.source} if row.source else {}),
            }
            for row in table.rows
        ],
        "notes": table.notes,
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _column(column: Column) -> dict[str, str]:
    described = {"key": column.key, "header": column.header, "group": column.group}
    # The values are unscaled, so a scaled column's unit would be wrong here.
    if column.scale == 1:
        described["unit"] = column.unit
    return {name: text for name, text in described.items() if text}


def _plain(value: Value) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, Span):
        return _plain(value.value)
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _for_json(value: Value) -> Any:
    if value is None:
        return None
    if isinstance(value, Span):
        return {name: _plain(getattr(value, name)) for name in ("value", "low", "high")}
    plain = _plain(value)
    # JSON has no infinity and no not-a-number.
    return None if isinstance(plain, float) and plain - plain != 0 else plain
