"""Published figures, and which way of counting gives them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tcm_lab.complexity import explain_figure
from tcm_lab.errors import LabError
from tcm_lab.reporting.published import Published
from tcm_lab.reporting.table import Column, Row, Table

if TYPE_CHECKING:
    from tcm_lab.complexity import ComplexityRecord, Explanation, PublishedFigure

_UNITS = {"kmacs_per_px": "kMAC/px", "gmacs": "GMAC", "parameters_millions": "M parameters"}
_COLUMNS = {
    ("kmacs_per_px", "whole"): "kmacs_per_px",
    ("kmacs_per_px", "encode"): "encode_kmacs_per_px",
    ("kmacs_per_px", "decode"): "decode_kmacs_per_px",
    ("gmacs", "whole"): "gmacs",
    ("gmacs", "encode"): "encode_gmacs",
    ("gmacs", "decode"): "decode_gmacs",
}


def explain_table(explanations: Sequence[Explanation]) -> Table:
    """Return one row per published figure with the convention that reproduces it.

    Raises:
        LabError: there is no explanation.
    """
    if not explanations:
        raise LabError("explanations: there is none to tabulate.")
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
    and a count of parameters stands in the column that it is closest to. Figures that were
    measured on somebody's code rather than read in a source are left out.
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
            key = _COLUMNS[figure.quantity, figure.scope]
            closest = explain_figure(figure, own[0]).convention
            source = f"{figure.source}, closest to convention {closest}"
            found[figure.model, source][key] = figure.value
    return [
        Published(model=model, source=source, figures=values)
        for (model, source), values in sorted(found.items())
    ]
