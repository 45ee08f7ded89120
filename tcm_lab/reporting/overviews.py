"""From records of any kinds to the tables and plots that suit them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from tcm_lab.errors import LabError
from tcm_lab.reporting.cost_tables import Detail, complexity_table
from tcm_lab.reporting.explain_table import published_beside
from tcm_lab.reporting.field_tables import plain
from tcm_lab.reporting.plots.cost import cost_by_part_plot, cost_size_plot, macs_parameters_plot
from tcm_lab.reporting.plots.rd import rd_plot, series_of_records
from tcm_lab.reporting.plots.roofline import roofline_plot, roofline_points
from tcm_lab.reporting.rd_tables import rd_table
from tcm_lab.reporting.table import Column, Row, Table
from tcm_lab.reporting.timing_tables import stage_table, timing_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tcm_lab.blocks import LayerRegistry
    from tcm_lab.complexity import ComplexityRecord, Convention, TimingRecord
    from tcm_lab.reporting.record_files import AnyRecord

PlotKind: TypeAlias = Literal["parts", "parameters", "size", "roofline", "rd"]
_Wanted = TypeVar("_Wanted")


def tables_of(
    records: Sequence[AnyRecord],
    *,
    convention: Convention = "all",
    detail: Detail = "totals",
    published: bool = False,
) -> list[Table]:
    """Return one table for each kind of record, costs first; times with their stages.

    Args:
        records: of any kinds.
        convention: of costs: which operators the figures count.
        detail: of costs: totals, parts or kinds.
        published: of costs: whether others' figures stand beside ours, in rows of their own.

    Raises:
        LabError: there is no record.
    """
    from tcm_lab.complexity import ComplexityRecord, TimingRecord, published_figures
    from tcm_lab.evaluation import RdRecord

    if not records:
        raise LabError("records: there is none to tabulate.")
    costs, times = _only(ComplexityRecord, records), _only(TimingRecord, records)
    curves = _only(RdRecord, records)
    tables = []
    if costs:
        beside = published_beside(costs, published_figures()) if published else []
        tables.append(
            complexity_table(costs, convention=convention, detail=detail, published=beside)
        )
    if times:
        tables += [timing_table(times), stage_table(times)]
    if curves:
        tables.append(rd_table(curves))
    return tables


def plot_of(kind: PlotKind, records: Sequence[AnyRecord], *, title: str = "") -> Figure:
    """Return the plot called ``kind`` of the records that it can show.

    Raises:
        LabError: none of the records suits it.
    """
    from tcm_lab.complexity import ComplexityRecord, TimingRecord
    from tcm_lab.evaluation import RdRecord

    if kind == "rd":
        curves = _only(RdRecord, records)
        if not curves:
            raise LabError("plot rd: none of the records is of rate and distortion.")
        by_name: dict[str, list[RdRecord]] = {}
        for record in curves:
            by_name.setdefault(record.name, []).append(record)
        anchors = ("jpeg", "webp")
        return rd_plot(
            [
                series_of_records(own, role="anchor" if name in anchors else "measured")
                for name, own in by_name.items()
            ],
            title=title,
        )
    costs = _only(ComplexityRecord, records)
    if not costs:
        raise LabError(f"plot {kind}: none of the records is of complexity.")
    if kind == "roofline":
        return _roofline(costs, _only(TimingRecord, records), title)
    draw = {"parts": cost_by_part_plot, "parameters": macs_parameters_plot, "size": cost_size_plot}
    return draw[kind](costs, title=title)


def _roofline(
    costs: Sequence[ComplexityRecord], times: Sequence[TimingRecord], title: str
) -> Figure:
    counted = {(cost.fingerprint, cost.size): cost for cost in costs}
    for timing in times:
        cost = counted.get((timing.fingerprint, timing.size))
        if cost is not None and timing.device_peak is not None:
            shown = title or f"{timing.model} on {timing.environment.device}"
            return roofline_plot(roofline_points(cost, timing), timing.device_peak, title=shown)
    raise LabError(
        "plot roofline: needs a record of complexity and one of times, of one model and size. "
        "tcm-lab complexity and tcm-lab time write them with --format json."
    )


def layer_table(registries: Iterable[LayerRegistry[Any]]) -> Table:
    """Return what can be named in a configuration, with its options and their defaults."""
    rows = []
    for registry in registries:
        for name in registry:
            fields = registry[name].model_fields
            options = [
                option
                + (
                    ""
                    if field.is_required()
                    else f"={plain(field.get_default(call_default_factory=True))}"
                )
                for option, field in fields.items()
                if option != "type"
            ]
            does = (registry[name].__doc__ or "").strip().splitlines()
            values = {"kind": registry.kind, "name": name, "options": ", ".join(options)}
            rows.append(Row(values={**values, "does": does[0] if does else ""}))
    columns = ("kind", "name", "options", "does")
    return Table(
        title="What a configuration can name",
        columns=tuple(Column(key=key, header=key) for key in columns),
        rows=tuple(rows),
    )


def _only(kind: type[_Wanted], records: Iterable[object]) -> list[_Wanted]:
    return [record for record in records if isinstance(record, kind)]
