"""A table as an HTML element."""

from __future__ import annotations

from html import escape
from itertools import groupby

from tcm_lab.reporting.tables import MARKS, PUBLISHED, Column, Row, Table, number


def to_html(table: Table) -> str:
    """Return a ``<table>``; each cell with a figure carries it whole as ``data-value``."""
    best = table.best
    lines = ["<table>"]
    if table.title:
        lines.append(f"<caption>{escape(table.title)}</caption>")
    lines += ["<thead>", *_group_header(table), "<tr>"]
    lines += [
        f'<th scope="col"{_class(column)}>{escape(column.label)}</th>' for column in table.columns
    ]
    lines += ["</tr>", "</thead>"]
    lines += ["<tbody>", *(_row(table, row, best) for row in table.measured), "</tbody>"]
    if table.published:
        lines += [
            "<tbody>",
            f'<tr class="heading"><th scope="rowgroup" colspan="{len(table.columns)}">{PUBLISHED}'
            "</th></tr>",
            *(_row(table, row, best) for row in table.published),
            "</tbody>",
        ]
    if table.notes:
        notes = "<br>".join(map(escape, table.notes))
        lines.append(
            f'<tfoot><tr><td colspan="{len(table.columns)}"><div>{notes}</div></td></tr></tfoot>'
        )
    lines.append("</table>")
    return "\n".join(lines) + "\n"


def _group_header(table: Table) -> list[str]:
    if not any(column.group for column in table.columns):
        return []
    cells = []
    for group, columns in groupby(table.columns, key=lambda column: column.group):
        width = len(list(columns))
        if group:
            cells.append(f'<th scope="colgroup" colspan="{width}">{escape(group)}</th>')
        else:
            cells.append(f'<td colspan="{width}"></td>')
    return ['<tr class="groups">', *cells, "</tr>"]


def _row(table: Table, row: Row, best: dict[str, float]) -> str:
    cells = []
    for index, column in enumerate(table.columns):
        value = row.values.get(column.key)
        text = column.text(value)
        shown = escape(text if column.is_text else text.replace("-", "\N{MINUS SIGN}"))
        if table.is_best(column, row, best):
            shown = f"<strong>{shown}</strong>"
        figure = number(value)
        data = "" if figure is None else f' data-value="{figure:.7g}"'
        if index == 0:
            shown += table.citation(row)
            shown += "".join(
                f' <abbr title="{MARKS[mark][2]}">{MARKS[mark][0]}</abbr>' for mark in row.marks
            )
            cells.append(f'<th scope="row"{data}>{shown}</th>')
        else:
            cells.append(f"<td{_class(column)}{data}>{shown}</td>")
    marks = f' class="{" ".join(row.marks)}"' if row.marks else ""
    return f"<tr{marks}>{''.join(cells)}</tr>"


def _class(column: Column) -> str:
    return "" if column.is_text else ' class="number"'
