"""Commands that show records and names: tables, plots, lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from tcm_lab._commands import options
from tcm_lab._commands.options import Convention, Detail, Files, Flag, Form
from tcm_lab.errors import LabError, near


def table(
    records: Files,
    /,
    *,
    format: Form = "markdown",
    convention: Convention = "all",
    detail: Detail = "totals",
    published: Flag = False,
    out: Path | None = None,
) -> int:
    """Make tables again from records that were written with --format json.

    Args:
        records: JSON files.
        format: what to print.
        convention: which operators the figures count.
        detail: of costs: totals, parts or kinds of operators.
        published: add what others printed of these models, in rows of their own.
        out: write to this file instead.
    """
    from tcm_lab import reporting

    tables = reporting.tables_of(
        [record for path in records for record in reporting.read_records(path)],
        convention=convention,
        detail=detail,
        published=published,
    )
    options.show(tables, format, out)
    return 0


def plot(
    kind: Annotated[Literal["parts", "parameters", "size", "roofline", "rd"], tyro.conf.Positional],
    records: Files,
    /,
    *,
    out: Path,
    title: str = "",
) -> int:
    """Draw a plot from records that were written with --format json, as PNG and SVG.

    Args:
        kind: cost by part, cost over parameters, cost over image size, what each part reaches under
            what the device allows, or rate and distortion.
        records: JSON files.
        out: where to write, without the endings.
        title: over the plot.
    """
    from tcm_lab import reporting

    found = [record for path in records for record in reporting.read_records(path)]
    stem = out.with_suffix("") if out.suffix in (".png", ".svg") else out
    for path in reporting.save_figure(reporting.plot_of(kind, found, title=title), stem):
        print(path)
    return 0


def models(pattern: Annotated[str, tyro.conf.Positional] = "*", /) -> int:
    """List the models that can be named.

    Args:
        pattern: such as 'tcm-*'.
    """
    from tcm_lab.codec import list_models

    names = list_models(pattern)
    if not names:
        raise LabError(f"'{pattern}': no model has such a name.{near(pattern, list_models())}")
    print("\n".join(names))
    return 0


def blocks(*, format: Form = "markdown", out: Path | None = None) -> int:
    """List the blocks, attention modules and resamplers that a configuration can name.

    Args:
        format: what to print.
        out: write to this file instead.
    """
    from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS
    from tcm_lab.reporting import layer_table

    options.show([layer_table([BLOCKS, ATTENTIONS, RESAMPLERS])], format, out)
    return 0
