from . import plots
from .analysis_tables import attention_table, erf_table, latent_table
from .axis_table import axis_table
from .cost_tables import check_table, complexity_table
from .explain_table import explain_table, published_beside
from .overviews import layer_table, plot_of, tables_of
from .plots import (
    Change,
    Effect,
    ParetoPoint,
    PlotAxis,
    RdSeries,
    RooflinePoint,
    ablation_plot,
    cost_by_part_plot,
    cost_size_plot,
    effects_plot,
    figure_svg,
    history_plot,
    interactions_plot,
    macs_parameters_plot,
    pareto_front,
    pareto_plot,
    rd_plot,
    roofline_plot,
    roofline_points,
    save_figure,
    series_of_records,
)
from .published import Published
from .rd_tables import bd_rate_table, rd_table
from .record_files import read_records, records_json
from .renderers import Format, render, render_all
from .renderers.html import Code, Piece, PlotImage, Section, render_report
from .table import Column, Mark, Row, Table, Value
from .timing_tables import stage_table, timing_table

__all__ = [
    "Change",
    "Code",
    "Column",
    "Effect",
    "Format",
    "Mark",
    "ParetoPoint",
    "Piece",
    "PlotAxis",
    "PlotImage",
    "Published",
    "RdSeries",
    "RooflinePoint",
    "Row",
    "Section",
    "Table",
    "Value",
    "ablation_plot",
    "attention_table",
    "axis_table",
    "bd_rate_table",
    "check_table",
    "complexity_table",
    "cost_by_part_plot",
    "cost_size_plot",
    "effects_plot",
    "erf_table",
    "explain_table",
    "figure_svg",
    "history_plot",
    "interactions_plot",
    "latent_table",
    "layer_table",
    "macs_parameters_plot",
    "pareto_front",
    "pareto_plot",
    "plot_of",
    "plots",
    "published_beside",
    "rd_plot",
    "rd_table",
    "read_records",
    "records_json",
    "render",
    "render_all",
    "render_report",
    "roofline_plot",
    "roofline_points",
    "save_figure",
    "series_of_records",
    "stage_table",
    "tables_of",
    "timing_table",
]
