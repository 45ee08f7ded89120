"""Tables, plots and pages, drawn from records alone: nothing here measures."""

from tcm_lab.reporting.axis_table import axis_table
from tcm_lab.reporting.cost_tables import check_table, complexity_table, mark_front
from tcm_lab.reporting.explain_table import explain_table, published_beside
from tcm_lab.reporting.html import Code, PlotImage, Section, render_report
from tcm_lab.reporting.overviews import layer_table, plot_of, tables_of
from tcm_lab.reporting.plots import PlotAxis, figure_svg, save_figure
from tcm_lab.reporting.plots.ablation import Change, ablation_plot
from tcm_lab.reporting.plots.cost import (
    cost_by_part_plot,
    cost_size_plot,
    macs_parameters_plot,
)
from tcm_lab.reporting.plots.pareto import ParetoPoint, pareto_front, pareto_plot
from tcm_lab.reporting.plots.rd import RdSeries, rd_plot, series_of_curve, series_of_records
from tcm_lab.reporting.plots.roofline import RooflinePoint, roofline_plot, roofline_points
from tcm_lab.reporting.plots.search import Effect, effects_plot, history_plot, interactions_plot
from tcm_lab.reporting.published import Published
from tcm_lab.reporting.rd_tables import bd_rate_table, rd_table
from tcm_lab.reporting.record_files import read_records, records_json
from tcm_lab.reporting.tables import Column, Format, Mark, Row, Span, Table, render, render_all
from tcm_lab.reporting.timing_tables import stage_table, timing_table

__all__ = [
    "Change",
    "Code",
    "Column",
    "Effect",
    "Format",
    "Mark",
    "ParetoPoint",
    "PlotAxis",
    "PlotImage",
    "Published",
    "RdSeries",
    "RooflinePoint",
    "Row",
    "Section",
    "Span",
    "Table",
    "ablation_plot",
    "axis_table",
    "bd_rate_table",
    "check_table",
    "complexity_table",
    "cost_by_part_plot",
    "cost_size_plot",
    "effects_plot",
    "explain_table",
    "figure_svg",
    "history_plot",
    "interactions_plot",
    "layer_table",
    "macs_parameters_plot",
    "mark_front",
    "pareto_front",
    "pareto_plot",
    "plot_of",
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
    "series_of_curve",
    "series_of_records",
    "stage_table",
    "tables_of",
    "timing_table",
]
