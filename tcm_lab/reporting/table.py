"""Tables as data: columns, rows and notes, for any format of `renderers`.

A `Table` holds plain values with their units. Formats for readers round as each column specifies;
formats for machines (CSV, JSON) keep seven significant digits and exact counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import AfterValidator, model_validator

from tcm_lab._utils import Frozen
from tcm_lab.metrics import METRICS, formatted
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
"""The sign after a row's first cell, and its meaning."""

PUBLISHED = "published by others"
"""Heading above rows with a source."""


class Column(Frozen):
    """A column of a table.

    Attributes:
        key: name for machines, with its unit, such as ``kmacs_per_px``.
        header: name for readers, without the unit.
        group: heading above neighbouring columns of the same group.
        unit: unit of the displayed values.
        format: format specification such as ``.1f`` for numbers; empty for text.
        scale: factor from stored to displayed values (``1e-6`` displays millions).
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
        """Whether the column holds text."""
        return not self.format

    @property
    def label(self) -> str:
        """The header with its unit."""
        return f"{self.header} ({self.unit})" if self.unit else self.header

    def text(self, value: Value) -> str:
        """Return ``value`` as displayed; an en dash for None."""
        if value is None:
            return "\N{EN DASH}"
        if isinstance(value, str):
            return value
        if isinstance(value, Interval):
            if value.low == value.high:  # no resampling
                return self.text(value.value)
            low, high = self.text(value.low), self.text(value.high)
            return f"{self.text(value.value)} [{low}, {high}]"
        if not self.format:
            return str(value)
        return formatted(value if self.scale == 1 else value * self.scale, self.format)


def metric_column(name: str, **changes: Any) -> Column:
    """Return a metric's column, as ``tcm_lab.metrics`` describes it, with its best value marked.

    Args:
        name: name of a registered metric.
        changes: fields of the column to change.

    Raises:
        ConfigError: there is no such metric.
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
    """Return the column of a metric without a group and without marking its best value."""
    return metric_column(name, **{"group": "", "best": None, **changes})


class Row(Frozen):
    """One row: values by column key.

    Attributes:
        values: values by column key; a missing value, or ``None``, is unknown.
        marks: marks shown after the first cell.
        name: name of the row in charts of the same page, to link the two.
        source: who published these values; empty if they were measured here. Published rows are
            shown under a heading of their own, cite their source, and are never marked as best.
    """

    values: dict[str, Value]
    marks: tuple[Mark, ...] = ()
    name: str = ""
    source: str = ""

    def within(self, columns: Iterable[Column]) -> Row:
        """Return the row with only the values of these columns."""
        keys = {column.key for column in columns}
        values = {key: value for key, value in self.values.items() if key in keys}
        return self.model_copy(update={"values": values})


class Cell(NamedTuple):
    """A cell as displayed: its unescaped text, and whether it is the best of its column."""

    column: Column
    value: Value
    text: str
    is_best: bool


class Table(Frozen):
    """Columns, rows and notes on the conditions of measurement.

    Attributes:
        title: one line.
        columns: columns from left to right.
        rows: rows from top to bottom, published ones last.
        footer: conditions, conventions, versions; one line each.

    Raises:
        ValueError: a row has a value for a column that does not exist, or a measured row follows a
            published one.
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
            raise ValueError("rows: published ones must follow those that were measured")
        return self

    def without_empty_columns(self) -> Table:
        """Return the table without the columns in which no row has a value."""
        items = (item for row in self.rows for item in row.values.items())
        filled = {key for key, value in items if value is not None}
        columns = tuple(column for column in self.columns if column.key in filled)
        return self.model_copy(update={"columns": columns})

    def values_by_column(self) -> dict[str, list[str | float | None]]:
        """Return the values of each column from top to bottom, by column key.

        Intervals are given by their values, and by columns ``…_low`` and ``…_high`` for their ends.
        """
        by_key: dict[str, list[str | float | None]] = {}
        for column in self.columns:
            values = [row.values.get(column.key) for row in self.rows]
            by_key[column.key] = [v.value if isinstance(v, Interval) else v for v in values]
            if any(isinstance(value, Interval) for value in values):
                by_key[f"{column.key}_low"] = [getattr(value, "low", None) for value in values]
                by_key[f"{column.key}_high"] = [getattr(value, "high", None) for value in values]
        return by_key

    def to_frame(self) -> DataFrame:
        """Return the values as a pandas data frame with the columns of `values_by_column`."""
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
        """Group headings with the number of columns below each; empty without groups."""
        grouped = groupby(column.group for column in self.columns)
        runs = [(group, len(list(columns))) for group, columns in grouped]
        return runs if any(group for group, _ in runs) else []

    @property
    def sources(self) -> list[str]:
        """The distinct cited sources, in the order of the rows."""
        return list(dict.fromkeys(row.source for row in self.published))

    def citation(self, row: Row) -> str:
        """Return a citation such as `` [1]`` for a published row, "" for a measured one."""
        return f" [{self.sources.index(row.source) + 1}]" if row.source else ""

    @property
    def best(self) -> dict[str, float]:
        """The best value of each column that marks it, if at least two look different."""
        best: dict[str, float] = {}
        for column in self.columns:
            if column.best is not None:
                values = (number(row.values.get(column.key)) for row in self.measured)
                known = [value for value in values if value is not None and not math.isnan(value)]
                if len({column.text(value) for value in known}) > 1:
                    best[column.key] = min(known) if column.best == "low" else max(known)
        return best

    def cells(self, rows: Iterable[Row]) -> Iterator[tuple[Row, list[Cell]]]:
        """Yield each row with its cells; values equal to the displayed digit may all be best.

        A value whose interval contains 0 is never best. In a column with such a value, neither is a
        value without an interval, such as the baseline's: the two may be equal.
        """
        best = self.best
        measured = ((key, value) for row in self.measured for key, value in row.values.items())
        undecided = {key for key, value in measured if _contains_zero(value)}
        for row in rows:
            cells = []
            for column in self.columns:
                value = row.values.get(column.key)
                is_best = (
                    not row.source
                    and column.key in best
                    and column.text(number(value)) == column.text(best[column.key])
                    and not _contains_zero(value)
                    and (isinstance(value, Interval) or column.key not in undecided)
                )
                cells.append(Cell(column, value, column.text(value), is_best))
            yield row, cells

    @property
    def notes(self) -> list[str]:
        """The legend of the marks used, then the footer, then the sources."""
        used = {mark for row in self.rows for mark in row.marks}
        signs = [f"{sign} {meaning}" for mark, (sign, meaning) in MARKS.items() if mark in used]
        legend = [f"{', '.join(signs)}."] if signs else []
        sources = [f"[{n}] {source.rstrip('.')}." for n, source in enumerate(self.sources, 1)]
        return [*legend, *self.footer, *sources]


def _contains_zero(value: Value) -> bool:
    return isinstance(value, Interval) and not value.excludes_zero


def number(value: Value) -> float | None:
    """Return the number in a cell, or None for text."""
    if isinstance(value, Interval):
        return value.value
    return None if isinstance(value, str) else value


def rounded(tree: Any, digits: int) -> Any:
    """Return a JSON tree with floats of ``digits`` significant digits, null for not finite ones."""
    if isinstance(tree, Mapping):
        return {name: rounded(value, digits) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [rounded(value, digits) for value in tree]
    if isinstance(tree, float):
        return float(f"{tree:.{digits}g}") if tree - tree == 0 else None
    return tree
