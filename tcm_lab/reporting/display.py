"""What records, curves and tables look like in a notebook: their tables, as fragments of HTML.

Importing this module registers them; `tcm_lab._utils.display` does when a value is shown.
"""

from __future__ import annotations

from tcm_lab._utils.display import shows
from tcm_lab.analysis.latents import LatentRecord
from tcm_lab.complexity import CheckReport, ComplexityRecord, TimingComparison, TimingRecord
from tcm_lab.evaluation import MeasuredCurve, RdCurve, RdRecord
from tcm_lab.reporting import tables
from tcm_lab.reporting.renderers.html import fragment
from tcm_lab.reporting.table import Column, Row, Table, metric_column


def _curve(curve: RdCurve) -> str:
    columns = [
        Column(key="point", header="point", format="d"),
        *(metric_column(name, group="", best=None) for name in ("bpp", "psnr_db")),
    ]
    rows = [
        Row(values={"point": i, "bpp": bpp, "psnr_db": psnr_db})
        for i, (bpp, psnr_db) in enumerate(zip(curve.bpp, curve.psnr_db, strict=True), 1)
    ]
    source = (f"{curve.source.rstrip('.')}.",) if curve.source else ()
    return fragment(Table(title=curve.name, columns=columns, rows=rows, footer=source))


shows(Table, fragment)
shows(ComplexityRecord, lambda r: fragment(tables.complexity_table([r], detail="parts")))
shows(TimingRecord, lambda r: fragment(tables.stage_table([r])))
shows(TimingComparison, lambda c: fragment(tables.timing_table(c.records, c.ratios)))
shows(CheckReport, lambda r: fragment(tables.check_table([r])))
shows(RdCurve, _curve)
shows(RdRecord, lambda r: fragment(tables.rd_table([r])))
shows(MeasuredCurve, lambda c: fragment(tables.rd_table(c.records)))
shows(LatentRecord, lambda r: fragment(tables.latent_table({r.model: r})))
