"""Figures by others: beside ours, in rows of their own, with their source."""

from __future__ import annotations

from collections.abc import Iterable

from tcm_lab._utils import Frozen
from tcm_lab.reporting.table import Column, Row, Value


class Published(Frozen):
    """What somebody else printed about a model.

    Attributes:
        model: as they call it.
        source: who, where.
        figures: by column key of the table that it is to stand in.
    """

    model: str
    source: str
    figures: dict[str, float]

    def row(self, columns: Iterable[Column]) -> Row:
        """Return the figures that the columns have room for."""
        keys = {column.key for column in columns}
        known: dict[str, Value] = {key: v for key, v in self.figures.items() if key in keys}
        return Row(values={"model": self.model, **known}, source=self.source)
