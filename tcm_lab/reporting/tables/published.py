"""Published costs: beside ours in rows of their own, and by which way of counting they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tcm_lab._utils import Frozen
from tcm_lab.complexity import ComplexityRecord, Explanation, PublishedFigure, explain_figure
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.table import Column, Row, Table

_UNITS = {"kmacs_per_px": "kMAC/px", "gmacs": "GMAC", "parameters_millions": "M parameters"}


class Published(Frozen):
    """What others published about a model.

    Attributes:
        model: their name of it.
        source: who, where.
        values: by column key of the table that shows them.
    """

    model: str
    source: str
    values: dict[str, float]


def explain_table(explanations: Sequence[Explanation]) -> Table:
    """Return one row per published figure with the convention that reproduces it.

    Raises:
        LabError: no explanations given.
    """
    need("explanations", explanations)
    rows = [
        Row(
            values={
                "model": e.published.model,
                "printed_as": e.published.printed_as,
                "covers": e.published.scope,
                "convention": e.convention,
                "ours": f"{e.ours:.{e.published.decimals}f} {_UNITS[e.published.quantity]}",
                "difference_percent": e.difference_percent,
                "verdict": "yes" if e.to_the_printed_digit else "no",
                "source": e.published.source,
            }
        )
        for e in explanations
    ]
    return Table(
        title="Published figures and the counting that reproduces them",
        columns=(
            Column(key="model", header="model"),
            Column(key="printed_as", header="printed as"),
            Column(key="covers", header="covers"),
            Column(key="convention", header="reproduced by convention"),
            Column(key="ours", header="counted here"),
            Column(key="difference_percent", header="difference", unit="%", format="+.2f"),
            Column(key="verdict", header="within a unit of the last digit"),
            Column(key="source", header="source"),
        ),
        rows=tuple(rows),
        footer=(
            "all: convolutions, linear layers, attention products and GDN; "
            "no-attention-products: without the products; conv-linear-only: without GDN too.",
        ),
    )


def published_beside(
    records: Sequence[ComplexityRecord], figures: Sequence[PublishedFigure]
) -> list[Published]:
    """Return what others reported of the records' models at the records' sizes.

    Others count differently: each source is followed by the convention that comes closest to it,
    and a count of parameters goes into the column that it is closest to. Values measured on
    published code rather than read in a source are left out.
    """
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for figure in figures:
        own = [r for r in records if r.model == figure.model]
        if figure.quantity == "gmacs":
            own = [record for record in own if record.size == figure.size]
        if not figure.reported or not own:
            continue
        if figure.quantity == "parameters_millions":
            count = round(figure.value * 1e6)
            both = {
                "parameters": own[0].total_parameters,
                "conv_linear_parameters": own[0].conv_linear_parameters,
            }
            key = min(both, key=lambda name: abs(both[name] - count))
            found[figure.model, figure.source][key] = count
        else:
            scope = "" if figure.scope == "whole" else f"{figure.scope}_"
            key = f"{scope}{figure.quantity}"
            closest = explain_figure(figure, own[0]).convention
            source = f"{figure.source}, closest to convention {closest}"
            found[figure.model, source][key] = figure.value
    return [
        Published(model=model, source=source, values=values)
        for (model, source), values in sorted(found.items())
    ]
