"""Renderers: functions from tables to text, by format name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from tcm_lab.errors import lookup
from tcm_lab.reporting.renderers.html import html
from tcm_lab.reporting.renderers.latex import latex
from tcm_lab.reporting.renderers.markdown import markdown
from tcm_lab.reporting.renderers.text import as_csv, as_json
from tcm_lab.reporting.table import Table

Format: TypeAlias = Literal["markdown", "latex", "csv", "json", "html"]

RENDERERS: Mapping[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
    "json": as_json,
    "html": html,
}

SUFFIXES: Mapping[str, Sequence[str]] = {
    "markdown": (".md", ".txt"),
    "latex": (".tex",),
    "csv": (".csv",),
    "json": (".json",),
    "html": (".html", ".htm"),
}
"""Suffixes of files in each format, the usual one first."""


def render(table: Table, form: Format) -> str:
    """Return ``table`` in a format; ``html`` is a whole page.

    Raises:
        LabError: the format is unknown.
    """
    return render_all([table], form)


def render_all(tables: Sequence[Table], form: Format) -> str:
    """Return several tables in one format: in sequence, as a JSON list, or as one page.

    Raises:
        LabError: the format is unknown, or it is ``csv``, which holds one table only.
    """
    return lookup(RENDERERS, form, "format")(tables)
