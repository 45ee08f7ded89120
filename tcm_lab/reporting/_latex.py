"""A table as LaTeX, set by booktabs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from tcm_lab.reporting.tables import MARKS, PUBLISHED, Row, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "μ": r"$\mu$",
    "→": r"$\rightarrow$",
    **{text: latex for text, latex, _ in MARKS.values()},
}


def to_latex(table: Table) -> str:
    """Return a ``table`` environment with grouped headers, rules and notes."""
    best = table.best
    count = len(table.columns)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{escape(table.title)}}}"] if table.title else []),
        rf"\begin{{tabular}}{{{''.join('l' if c.is_text else 'r' for c in table.columns)}}}",
        r"\toprule",
        *_group_header(table),
        _line(escape(column.label) for column in table.columns),
        r"\midrule",
    ]
    lines += [_line(_cells(table, row, best)) for row in table.measured]
    if table.published:
        lines += [r"\midrule"] * bool(table.measured)
        lines.append(rf"\multicolumn{{{count}}}{{l}}{{\emph{{{escape(PUBLISHED)}}}}} \\")
        lines += [_line(_cells(table, row, best)) for row in table.published]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = r" \\ ".join(map(escape, table.notes))
        lines += [r"\par\smallskip", rf"{{\footnotesize {notes}}}"]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return ``text`` so that LaTeX prints it as it stands."""
    return "".join(_SPECIAL.get(character, character) for character in text.replace("\n", " "))


def _group_header(table: Table) -> list[str]:
    """Return the row of groups and the rules under them, or nothing where there are none."""
    if not any(column.group for column in table.columns):
        return []
    cells, rules, first = [], [], 1
    for group, columns in groupby(table.columns, key=lambda column: column.group):
        width = len(list(columns))
        if group:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        else:
            cells += [""] * width
        first += width
    return [_line(cells), " ".join(rules)]


def _cells(table: Table, row: Row, best: dict[str, float]) -> list[str]:
    cells = []
    for column in table.columns:
        text = column.text(row.values.get(column.key))
        shown = escape(text if column.is_text else text.replace("-", "\N{MINUS SIGN}"))
        cells.append(rf"\textbf{{{shown}}}" if table.is_best(column, row, best) else shown)
    cells[0] += escape(table.citation(row))
    cells[0] += " ".join(["", *(MARKS[mark][1] for mark in row.marks)])
    return cells


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
