from .analysis import attention_table, erf_table, latent_table, shortcut_table
from .cost import (
    Detail,
    axis_table,
    check_table,
    complexity_table,
    explain_table,
    part_names,
    published_beside,
    totals,
)
from .layers import layer_table
from .rd import bd_rate_table, beside_table, rd_table
from .timing import spread_interval, stage_table, timing_table

__all__ = [
    "Detail",
    "attention_table",
    "axis_table",
    "bd_rate_table",
    "beside_table",
    "check_table",
    "complexity_table",
    "erf_table",
    "explain_table",
    "latent_table",
    "layer_table",
    "part_names",
    "published_beside",
    "rd_table",
    "shortcut_table",
    "spread_interval",
    "stage_table",
    "timing_table",
    "totals",
]
