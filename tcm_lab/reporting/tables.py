"""A table as a value, and its five forms; what it says was measured elsewhere.

A `Table` holds plain figures with their units, so that one table can be markdown, LaTeX, CSV, JSON
and HTML, and byte for byte the same each time. Readers' forms round to what a column says;
machines' forms (CSV, JSON) keep seven significant digits and whole counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from pydantic import model_validator

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError, near, one_of

Format: TypeAlias = Literal["markdown", "latex", "csv", "json", "html"]
Mark: TypeAlias = Literal["pareto", "baseline", "partial", "infeasible"]

MARKS: Mapping[Mark, tuple[str, str, str]] = {
    "pareto": ("★", r"$\star$", "Pareto-optimal"),
    "baseline": ("†", r"$\dagger$", "baseline"),
    "partial": ("‡", r"$\ddagger$", "stopped before the full budget"),
    "infeasible": ("\N{MULTIPLICATION SIGN}", r"$\times$", "over a constraint"),
}
"""What stands behind a row's first cell, as text and in LaTeX, and what it means."""


PUBLISHED = "published by others"
"""Heading over rows with a source."""


class Span(Frozen):
    """A figure with the interval it may lie in.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


Value: TypeAlias = str | int | float | Span | None


class Column(Frozen):
    """What stands in a column.

    Attributes:
        key: name for machines, with its unit, such as ``kmacs_per_px``.
        header: name for readers, without the unit.
        group: heading over neighbouring columns that share it.
        unit: what the printed figures are counted in.
        format: a format specification such as ``.1f`` for numbers; empty for text.
        scale: printed figures are the values times this (``1e-6`` prints a count in millions).
        best: whether the lowest or the highest figure is marked, if any.
    """

    key: str
    header: str
    group: str = ""
    unit: str = ""
    format: str = ""
    scale: float = 1.0
    best: Literal["low", "high"] | None = None

    @property
    def is_text(self) -> bool:
        """Whether the column holds words."""
        return not self.format

    @property
    def label(self) -> str:
        """The header with its unit."""
        return f"{self.header} ({self.unit})" if self.unit else self.header

    def text(self, value: Value) -> str:
        """Return ``value`` as a reader sees it; an en dash for none."""
        if value is None:
            return "\N{EN DASH}"
        if isinstance(value, str):
            return value
        if isinstance(value, Span):
            low, high = self.text(value.low), self.text(value.high)
            return f"{self.text(value.value)} [{low}, {high}]"
        if not self.format:
            return str(value)
        text = format(value if self.scale == 1 else value * self.scale, self.format)
        rounded_away = text.startswith("-") and not re.search("[1-9a-z]", text)
        return format(0.0, self.format) if rounded_away else text  # zero has no sign


class Row(Frozen):
    """Values by column key, and what is to be said of the whole row.

    Attributes:
        values: one per column key; a missing one is unknown.
        marks: shown behind the first cell.
        source: who published these figures, if it wasn't we who measured them. Such rows stand
            under a heading of their own, cite their source, and compete for nothing.
    """

    values: dict[str, Value]
    marks: tuple[Mark, ...] = ()
    source: str = ""


class Table(Frozen):
    """Columns, rows and the conditions that they hold under.

    Attributes:
        title: one line.
        columns: from left to right.
        rows: from top to bottom, published ones last.
        footer: conditions, conventions, versions; one line each.

    Raises:
        ValueError: a row has a value for a column that is not there, or a measured row stands
            below a published one.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footer: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rows_fit_columns(self) -> Table:
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys):
            raise ValueError(f"columns {keys}: two have the same key")
        for row in self.rows:
            unknown = set(row.values) - set(keys)
            if unknown:
                raise ValueError(f"row values {sorted(unknown)}: there is no such column")
        if [bool(row.source) for row in self.rows] != sorted(bool(row.source) for row in self.rows):
            raise ValueError("rows: published ones must stand below those that were measured")
        return self

    @property
    def measured(self) -> tuple[Row, ...]:
        """The rows that are ours."""
        return tuple(row for row in self.rows if not row.source)

    @property
    def published(self) -> tuple[Row, ...]:
        """The rows that are others'."""
        return tuple(row for row in self.rows if row.source)

    @property
    def sources(self) -> list[str]:
        """Every source that is cited, once, in the order of the rows."""
        return list(dict.fromkeys(row.source for row in self.published))

    def citation(self, row: Row) -> str:
        """Return `` [1]`` and the like for a published row, nothing for one of ours."""
        return f" [{self.sources.index(row.source) + 1}]" if row.source else ""

    @property
    def best(self) -> dict[str, float]:
        """The best printed figure of each column that has one, among at least two that differ."""
        found: dict[str, float] = {}
        for column in self.columns:
            if column.best is None:
                continue
            figures = [number(row.values.get(column.key)) for row in self.measured]
            known = {printed(column, figure) for figure in figures if figure is not None}
            if len(known) > 1:
                found[column.key] = min(known) if column.best == "low" else max(known)
        return found

    def is_best(self, column: Column, row: Row, best: Mapping[str, float]) -> bool:
        """Say whether this cell holds the column's best figure, to the printed digit."""
        figure = number(row.values.get(column.key))
        if row.source or figure is None or column.key not in best:
            return False
        return printed(column, figure) == best[column.key]

    @property
    def notes(self) -> list[str]:
        """The legend of the marks in use, then the footer, then the sources."""
        used = {mark for row in self.rows for mark in row.marks}
        legend = [f"{MARKS[mark][0]} {MARKS[mark][2]}" for mark in MARKS if mark in used]
        sources = [f"[{n}] {source.rstrip('.')}." for n, source in enumerate(self.sources, 1)]
        return [*([", ".join(legend) + "."] if legend else []), *self.footer, *sources]

    def to_markdown(self) -> str:
        """Return a GitHub-flavoured table under its title, the notes below."""
        from tcm_lab.reporting._text_forms import to_markdown

        return to_markdown(self)

    def to_latex(self) -> str:
        """Return a ``table`` environment; needs the booktabs package."""
        from tcm_lab.reporting._latex import to_latex

        return to_latex(self)

    def to_csv(self) -> str:
        """Return comma-separated values under the column keys; an interval takes two columns."""
        from tcm_lab.reporting._text_forms import to_csv

        return to_csv(self)

    def to_json(self) -> str:
        """Return title, columns, rows by key, and notes."""
        from tcm_lab.reporting._text_forms import to_json

        return to_json(self)

    def to_html(self) -> str:
        """Return a ``<table>`` element, escaped, whose columns a page's script can sort."""
        from tcm_lab.reporting._html_table import to_html

        return to_html(self)


def number(value: Value) -> float | None:
    """Return the figure in a cell, or nothing where it holds words."""
    figure = value.value if isinstance(value, Span) else value
    return None if isinstance(figure, str) else figure


def printed(column: Column, figure: float) -> float:
    """Return ``figure`` in the column's unit, to the digit that is printed."""
    return float(column.text(figure).replace(",", ""))


def render(table: Table, form: Format) -> str:
    """Return ``table`` in one of its forms; ``html`` is a whole page.

    Raises:
        LabError: there is no such form.
    """
    from tcm_lab.reporting.html import page_of

    forms: dict[str, Callable[[], str]] = {
        "markdown": table.to_markdown,
        "latex": table.to_latex,
        "csv": table.to_csv,
        "json": table.to_json,
        "html": lambda: page_of(table),
    }
    if form not in forms:
        raise LabError(f"format '{form}': unknown.{near(form, forms)} Write {one_of(forms)}.")
    return forms[form]()


def render_all(tables: Sequence[Table], form: Format) -> str:
    """Return several tables in one form: one below the other, a JSON list, or one page.

    Raises:
        LabError: there is no such form, or it is ``csv``, which holds one table only.
    """
    if len(tables) == 1:
        return render(tables[0], form)
    if form == "csv":
        raise LabError(
            f"format csv holds one table, and these are {len(tables)} "
            f"({', '.join(table.title for table in tables)}). Make them one at a time."
        )
    if form == "html":
        from tcm_lab.reporting.html import Section, render_report

        title = ", ".join(table.title for table in tables)
        return render_report(title, (), [Section(heading="", pieces=tuple(tables))])
    parts = [render(table, form) for table in tables]
    if form == "json":
        return "[\n" + ",\n".join(part.rstrip("\n") for part in parts) + "\n]\n"
    return "\n".join(parts)
