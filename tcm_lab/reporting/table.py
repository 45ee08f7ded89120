"""Tables as data: columns, rows and notes, in any format that `renderers` know.

A `Table` holds plain values with their units. Formats for readers round as each column says;
formats for machines (CSV, JSON) keep seven significant digits and whole counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import AfterValidator, model_validator

from tcm_lab._utils import Frozen
from tcm_lab.metrics import METRICS
from tcm_lab.stats import Interval

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")
Mark: TypeAlias = Literal["pareto", "pareto-by-mean", "baseline", "partial", "infeasible"]
Value: TypeAlias = str | int | float | Interval | None
Several: TypeAlias = Annotated[Sequence[T], AfterValidator(tuple)]

MARKS: Mapping[Mark, tuple[str, str]] = {
    "pareto": ("★", "Pareto-optimal"),
    "pareto-by-mean": (
        "(★)",
        "Pareto-optimal by its mean, but not distinguishable from the baseline",
    ),
    "baseline": ("†", "baseline"),
    "partial": ("‡", "stopped before the full budget"),
    "infeasible": ("\N{MULTIPLICATION SIGN}", "over a constraint"),
}
"""The sign behind a row's first cell, and its meaning."""

PUBLISHED = "published by others"
"""Heading over rows with a source."""


class Column(Frozen):
    """A column of a table.

    Attributes:
        key: name for machines, with its unit, such as ``kmacs_per_px``.
        header: name for readers, without the unit.
        group: heading over neighbouring columns that share it.
        unit: of the displayed values.
        format: a format specification such as ``.1f`` for numbers; empty for text.
        scale: displayed values are the stored ones times this (``1e-6`` displays millions).
        best: whether the lowest or the highest value is marked, if any.
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
        """Return ``value`` as displayed; an en dash for none."""
        if value is None:
            return "\N{EN DASH}"
        if isinstance(value, str):
            return value
        if isinstance(value, Interval):
            if value.low == value.high:  # nothing was resampled
                return self.text(value.value)
            low, high = self.text(value.low), self.text(value.high)
            return f"{self.text(value.value)} [{low}, {high}]"
        if not self.format:
            return str(value)
        text = format(value if self.scale == 1 else value * self.scale, self.format)
        rounded_away = text.startswith("-") and not re.search("[1-9a-z]", text)
        return format(0.0, self.format) if rounded_away else text  # zero has no sign

    def displayed(self, value: Value) -> float | None:
        """Return a number in the column's unit, to the displayed digit; None for words."""
        value = number(value)
        return None if value is None else float(self.text(value).replace(",", ""))


def metric_column(name: str, **changes: Any) -> Column:
    """Return the column of a metric as ``tcm_lab.metrics`` describes it, its best value marked.

    Args:
        name: of a registered metric.
        changes: fields of the column that differ here.

    Raises:
        ConfigError: no metric has that name.
    """
    metric = METRICS[name]
    column = Column(
        key=name,
        header=metric.header or metric.label,
        group=metric.group,
        unit=metric.unit,
        format=metric.format,
        scale=metric.scale,
        best="low" if metric.direction == "minimize" else "high",
    )
    return column.model_copy(update=changes)


def unmarked_column(name: str, **changes: Any) -> Column:
    """Return the column of a metric under no heading of a group, its best value not marked."""
    return metric_column(name, **{"group": "", "best": None, **changes})


class Row(Frozen):
    """Values by column key.

    Attributes:
        values: one per column key; a missing one, or ``None``, is unknown.
        marks: shown behind the first cell.
        name: what charts of the same page call it, so that either finds the other.
        source: who published these values, unless they were measured here. Such rows stand under
            a heading of their own, cite their source, and are never marked as best.
    """

    values: dict[str, Value]
    marks: tuple[Mark, ...] = ()
    name: str = ""
    source: str = ""

    def within(self, columns: Iterable[Column]) -> Row:
        """Return the row with only the values that have a column."""
        keys = {column.key for column in columns}
        values = {key: value for key, value in self.values.items() if key in keys}
        return self.model_copy(update={"values": values})


class Cell(NamedTuple):
    """A cell as displayed: its text, unescaped, and whether it is the best of its column."""

    column: Column
    value: Value
    text: str
    is_best: bool


class Table(Frozen):
    """Columns, rows and the conditions under which they hold.

    Attributes:
        title: one line.
        columns: from left to right.
        rows: from top to bottom, published ones last.
        footer: conditions, conventions, versions; one line each.

    Raises:
        ValueError: a row has a value for a column that does not exist, or a measured row stands
            below a published one.
    """

    title: str
    columns: Several[Column]
    rows: Several[Row]
    footer: Several[str] = ()

    @model_validator(mode="after")
    def _rows_fit_columns(self) -> Table:
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys):
            raise ValueError(f"columns {keys}: two have the same key")
        if unknown := {key for row in self.rows for key in row.values} - set(keys):
            raise ValueError(f"row values {sorted(unknown)}: no such column")
        if [*self.measured, *self.published] != list(self.rows):
            raise ValueError("rows: published ones must stand below those that were measured")
        return self

    def without_empty_columns(self) -> Table:
        """Return the table without the columns of which no row has a value."""
        found = (item for row in self.rows for item in row.values.items())
        filled = {key for key, value in found if value is not None}
        columns = tuple(column for column in self.columns if column.key in filled)
        return self.model_copy(update={"columns": columns})

    def values_by_column(self) -> dict[str, list[str | float | None]]:
        """Return the values of each column from top to bottom, by its key.

        An interval is its value, with columns ``…_low`` and ``…_high`` for its ends.
        """
        found: dict[str, list[str | float | None]] = {}
        for column in self.columns:
            values = [row.values.get(column.key) for row in self.rows]
            found[column.key] = [v.value if isinstance(v, Interval) else v for v in values]
            if any(isinstance(value, Interval) for value in values):
                found[f"{column.key}_low"] = [getattr(value, "low", None) for value in values]
                found[f"{column.key}_high"] = [getattr(value, "high", None) for value in values]
        return found

    def to_frame(self) -> DataFrame:
        """Return the values as pandas' data frame; its columns are those of `values_by_column`."""
        from pandas import DataFrame

        return DataFrame(self.values_by_column())

    @property
    def measured(self) -> tuple[Row, ...]:
        """The rows that were measured here."""
        return tuple(row for row in self.rows if not row.source)

    @property
    def published(self) -> tuple[Row, ...]:
        """The rows that others published."""
        return tuple(row for row in self.rows if row.source)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings over columns with the number of columns below each; empty without headings."""
        grouped = groupby(column.group for column in self.columns)
        runs = [(group, len(list(columns))) for group, columns in grouped]
        return runs if any(group for group, _ in runs) else []

    @property
    def sources(self) -> list[str]:
        """Every cited source once, in the order of the rows."""
        return list(dict.fromkeys(row.source for row in self.published))

    def citation(self, row: Row) -> str:
        """Return `` [1]`` and the like for a published row, and nothing for a measured one."""
        return f" [{self.sources.index(row.source) + 1}]" if row.source else ""

    @property
    def best(self) -> dict[str, float]:
        """The best displayed value of each column that marks one, if at least two differ."""
        found: dict[str, float] = {}
        for column in self.columns:
            if column.best is not None:
                values = (column.displayed(row.values.get(column.key)) for row in self.measured)
                known = {value for value in values if value is not None and not math.isnan(value)}
                if len(known) > 1:
                    found[column.key] = min(known) if column.best == "low" else max(known)
        return found

    def cells(self, rows: Iterable[Row]) -> Iterator[tuple[Row, list[Cell]]]:
        """Yield each row with its cells; equal to the displayed digit, several are best.

        A value whose interval holds 0 is never best, nor is one without an interval, such as a
        baseline's, beside it: either may be the other's equal.
        """
        best = self.best
        measured = ((key, value) for row in self.measured for key, value in row.values.items())
        unsure = {key for key, value in measured if _holds_zero(value)}
        for row in rows:
            cells = []
            for column in self.columns:
                value = row.values.get(column.key)
                is_best = (
                    not row.source
                    and column.key in best
                    and column.displayed(value) == best[column.key]
                    and not _holds_zero(value)
                    and (isinstance(value, Interval) or column.key not in unsure)
                )
                cells.append(Cell(column, value, column.text(value), is_best))
            yield row, cells

    @property
    def notes(self) -> list[str]:
        """The legend of the marks in use, then the footer, then the sources."""
        used = {mark for row in self.rows for mark in row.marks}
        legend = ", ".join(f"{sign} {what}" for mark, (sign, what) in MARKS.items() if mark in used)
        sources = [f"[{n}] {source.rstrip('.')}." for n, source in enumerate(self.sources, 1)]
        return [*([f"{legend}."] if legend else []), *self.footer, *sources]


def _holds_zero(value: Value) -> bool:
    return isinstance(value, Interval) and not value.excludes_zero


def number(value: Value) -> float | None:
    """Return the number in a cell, or None for words."""
    if isinstance(value, Interval):
        return value.value
    return None if isinstance(value, str) else value


def rounded(tree: Any, digits: int) -> Any:
    """Return a JSON tree whose floats have ``digits`` significant digits; not finite ones: null."""
    if isinstance(tree, Mapping):
        return {name: rounded(value, digits) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [rounded(value, digits) for value in tree]
    if isinstance(tree, float):
        return float(f"{tree:.{digits}g}") if tree - tree == 0 else None
    return tree
