"""Tables as which notebooks and consoles show records, curves and tables.

Importing this module registers them; `tcm_lab._utils.display` imports it when a value is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tcm_lab._utils.display import Form, register_renderer
from tcm_lab.analysis.latents import LatentRecord
from tcm_lab.complexity import CheckReport, ComplexityRecord, TimingComparison, TimingRecord
from tcm_lab.evaluation import MeasuredCurve, RdCurve, RdRecord
from tcm_lab.reporting import tables
from tcm_lab.reporting.renderers import render
from tcm_lab.reporting.renderers.html import fragment
from tcm_lab.reporting.table import Column, Row, Table, unmarked_column

T = TypeVar("T")


def _register(kind: type[T], table: Callable[[T], Table]) -> None:
    def render_value(value: T, form: Form) -> str:
        return fragment(table(value)) if form == "html" else render(table(value), "markdown")

    register_renderer(kind, render_value)


def _curve(curve: RdCurve) -> Table:
    points = Column(key="point", header="point", format="d")
    columns = [points, unmarked_column("bpp"), unmarked_column("psnr_db")]
    rows = [
        Row(values={"point": i, "bpp": bpp, "psnr_db": psnr_db})
        for i, (bpp, psnr_db) in enumerate(zip(curve.bpp, curve.psnr_db, strict=True), 1)
    ]
    source = (f"{curve.source.rstrip('.')}.",) if curve.source else ()
    return Table(title=curve.name, columns=columns, rows=rows, footer=source)


_register(Table, lambda t: t)
_register(ComplexityRecord, lambda r: tables.complexity_table([r], detail="parts"))
_register(TimingRecord, lambda r: tables.stage_table([r]))
_register(TimingComparison, lambda c: tables.timing_table(c.records, c.ratios))
_register(CheckReport, lambda r: tables.check_table([r]))
_register(RdCurve, _curve)
_register(RdRecord, lambda r: tables.rd_table([r]))
_register(MeasuredCurve, lambda c: tables.rd_table(c.records))
_register(LatentRecord, lambda r: tables.latent_table({r.model: r}))
