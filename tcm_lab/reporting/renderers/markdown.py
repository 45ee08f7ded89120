"""Tables as GitHub-flavoured markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tcm_lab.reporting.table import MARKS, PUBLISHED, Cell, Row, Table

_MARKUP = re.compile(
    r"[\\*<`~]|\]\(|&\w+;|&#"
    r"|(?<!\w)_|_(?!\w)"  # an underscore within a word is itself
)

_WORD = re.compile(r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|[^ ])+")  # a mapping in braces is one word


def markdown(tables: Sequence[Table]) -> str:
    """Return each table with its title above and its notes below."""
    return "\n".join(map(_one, tables))


def _one(table: Table) -> str:
    lines = [f"**{_escape_prose(table.title)}**", ""] if table.title else []
    # Markdown has a single header row, so headers include their groups.
    header = [_escape(" ".join(filter(None, [c.group, c.label]))) for c in table.columns]
    body = [_row(table, row, cells) for row, cells in table.cells(table.measured)]
    if table.published:
        body.append([f"*{PUBLISHED}*", *[""] * (len(table.columns) - 1)])
        body += [_row(table, row, cells) for row, cells in table.cells(table.published)]
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
    notes = "  \n".join(map(_escape_prose, table.notes))
    return "\n".join([*lines, *(["", notes] if notes else [])]) + "\n"


def _row(table: Table, row: Row, cells: Sequence[Cell]) -> list[str]:
    texts = [_escape(cell.text) for cell in cells]
    texts = [f"**{t}**" if c.is_best else t for t, c in zip(texts, cells, strict=True)]
    signs = "".join(MARKS[mark][0] for mark in row.marks)
    texts[0] += table.citation(row) + (f" {signs}" if signs else "")
    return texts


def _escape(text: str) -> str:
    """Escape the text of a cell, so that markdown shows it verbatim; it stays readable as text."""
    return _WORD.sub(lambda match: _word(match[0]).replace("|", r"\|"), text.replace("\n", " "))


def _escape_prose(text: str) -> str:
    """Escape text outside a table, where a backslash before a bar would show within code."""
    return _WORD.sub(lambda match: _word(match[0]), text.replace("\n", " "))


def _word(word: str) -> str:
    """Return a word; as code if markdown would read it as markup, such as ``g_*.split``."""
    if not _MARKUP.search(word):
        return word
    if "`" in word or "\\" in word:  # within code, these cannot be shown
        return re.sub(r"([^\w\s|])", r"\\\1", word)
    return f"`{word}`"
