"""Interactive versions of plots for pages, as Vega-Lite specifications.

A specification is a plain value that includes its data. The page draws it with its own copy of
Vega. Each mark has its variant's name, so that a selected variant is found in the tables, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tcm_lab.evaluation import Quality
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.plots._style import PlotAxis
from tcm_lab.reporting.plots.rd import BPP, QUALITY, RdSeries, limits
from tcm_lab.reporting.plots.search import ParetoPoint
from tcm_lab.reporting.renderers.html import Spec

_GREY = "#8a939d"
_KINDS = {
    "Pareto front": ("circle", "#0a5fb0"),
    "baseline": ("diamond", "#c0392b"),
    "dominated": ("circle", _GREY),
    "over a constraint": ("triangle-down", _GREY),
    "stopped early": ("cross", _GREY),
}
"""Shape and colour of each kind of point."""
_DASHES = {"measured": [1, 0], "baseline": [1, 0], "anchor": [6, 3], "published": [2, 3]}
_SELECTED = "datum.name === chosen"
_ZOOM = {
    "name": "zoom",
    "select": {
        "type": "interval",
        "zoom": "wheel![event.ctrlKey || event.shiftKey || event.metaKey]",
    },
    "bind": "scales",
}


def pareto_chart(
    points: Sequence[ParetoPoint],
    x: PlotAxis,
    y: PlotAxis,
    *,
    names: Sequence[str] = (),
    details: Sequence[Mapping[str, str]] = (),
) -> Spec:
    """Return the chart of a Pareto plot; tooltips show names, values and intervals.

    Args:
        points: variants.
        x: the horizontal objective.
        y: the vertical objective.
        names: names of the points, if not their labels.
        details: further values of each point by display name, such as those of its axes.

    Raises:
        LabError: no points given.
    """
    need("points", points)
    rows = [
        {
            "name": names[i] if names else point.label or point.kind,
            "kind": point.kind,
            **_fields("x", x, point.x, point.x_interval),
            **_fields("y", y, point.y, point.y_interval),
            **({f"axis {name}": value for name, value in details[i].items()} if details else {}),
        }
        for i, point in enumerate(points)
    ]
    channels: dict[str, Any] = {
        "x": {"field": "x", **_axis(x, _reach("x", points))},
        "y": {"field": "y", **_axis(y, _reach("y", points))},
    }
    kinds = [kind for kind in _KINDS if any(point.kind == kind for point in points)]
    shapes, colours = zip(*(_KINDS[kind] for kind in kinds), strict=True)
    color = _nominal("kind", kinds, range=colours)
    marks = {
        "mark": {"type": "point", "filled": True, "clip": True},
        "params": [_ZOOM],
        "encoding": {
            **channels,
            "color": color,
            "shape": _nominal("kind", kinds, range=shapes),
            "tooltip": [
                _tip("name", "variant"),
                *map(_tip, [x.label, y.label]),
                *(_tip(f"axis {name}", name) for name in (details[0] if details else ())),
            ],
            "size": {"condition": {"test": _SELECTED, "value": 320}, "value": 90},
            "opacity": _fading(0.4),
        },
    }
    text = {"type": "text", "align": "left", "dx": 8, "dy": -7, "fontSize": 11}
    named = {
        "mark": {**text, "clip": True, "tooltip": None},
        "transform": [{"filter": {"field": "kind", "oneOf": ["Pareto front", "baseline"]}}],
        "encoding": {**channels, "text": {"field": "name"}, "color": color},
    }
    return _chart(rows, [*(_interval_rule(end, channels) for end in ("x", "y")), marks, named])


def _interval_rule(axis: str, channels: Mapping[str, Any]) -> Spec:
    """Return the layer of the intervals along one axis."""
    return {
        "mark": {"type": "rule", "color": _GREY, "clip": True, "tooltip": None},
        "transform": [{"filter": f"isValid(datum.{axis}_low)"}],
        "encoding": {
            **channels,
            axis: {**channels[axis], "field": f"{axis}_low"},
            f"{axis}2": {"field": f"{axis}_high"},
        },
    }


def rd_chart(
    series: Sequence[RdSeries], *, names: Sequence[str] = (), quality: Quality = "psnr_db"
) -> Spec:
    """Return the chart of a rate-distortion plot; tooltips show curve, rate and quality.

    Args:
        series: curves in the order of the legend.
        names: names of the curves in tables, if not their labels.
        quality: quality metric of the series.

    Raises:
        LabError: no series given.
    """
    need("series", series)
    rates, levels = limits(series)
    axis = QUALITY[quality]
    rows = []
    for i, curve in enumerate(series):
        about = {"name": names[i] if names else curve.label, "codec": curve.label}
        lows, highs = curve.low or curve.quality, curve.high or curve.quality
        for bpp, value, low, high in zip(curve.bpp, curve.quality, lows, highs, strict=True):
            text = _text(value, (low, high) if curve.low else None)
            position = {"x": bpp, "y": value, "low": low, "high": high}
            rows.append({**about, **position, BPP.label: f"{bpp:.4f}", axis.label: text})
    labels = [curve.label for curve in series]
    channels: dict[str, Any] = {
        "x": {"field": "x", **_axis(BPP, rates)},
        "y": {"field": "y", **_axis(axis, levels)},
        "color": _nominal("codec", labels, scheme="tableau10"),
        "opacity": _fading(0.2),
    }
    dashes = _nominal("codec", labels, range=[_DASHES[curve.role] for curve in series])
    line = {
        "mark": {"type": "line", "clip": True, "strokeWidth": 1.6},
        "encoding": {**channels, "strokeDash": dashes},
    }
    band = {
        "mark": {"type": "area", "clip": True, "opacity": 0.18, "tooltip": None},
        "encoding": {
            "x": channels["x"],
            "y": {**channels["y"], "field": "low"},
            "y2": {"field": "high"},
            "color": channels["color"],
        },
    }
    points = {
        "mark": {"type": "point", "filled": True, "size": 60, "clip": True},
        "params": [_ZOOM],
        "encoding": {**channels, "tooltip": [*map(_tip, ("codec", BPP.label, axis.label))]},
    }
    return _chart(rows, [band, line, points])


def _chart(rows: Sequence[Mapping[str, Any]], layers: Sequence[Spec]) -> Spec:
    return {
        "width": "container",
        "height": 340,
        "data": {"values": rows},
        "params": [{"name": "chosen", "value": ""}],
        "layer": layers,
    }


def _fading(opacity: float) -> dict[str, Any]:
    """Return the opacity of marks: ``opacity`` for the others while one is selected."""
    test = f"chosen === '' || {_SELECTED}"
    return {"condition": {"test": test, "value": 1}, "value": opacity}


def _axis(axis: PlotAxis, values: Sequence[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return {
        "type": "quantitative",
        "title": axis.label,
        "axis": {"tickCount": 8, "labelOverlap": True},
        "scale": {"zero": False, "nice": False, "domain": [low - margin, high + margin]},
    }


def _nominal(field: str, domain: Sequence[str], **scale: Any) -> dict[str, Any]:
    longest = max(map(len, domain), default=0)
    columns = 4 if longest <= 14 else 2 if longest <= 30 else 1  # as many as fit in the legend
    return {
        "field": field,
        "type": "nominal",
        "legend": {"orient": "bottom", "title": None, "columns": columns, "labelLimit": 420},
        "scale": {"domain": domain, **scale},
    }


def _reach(name: str, points: Sequence[ParetoPoint]) -> list[float]:
    """Return all values on an axis and the ends of intervals, except those of stopped trainings."""
    values: list[float] = [getattr(point, name) for point in points]
    for point in points:
        if not point.partial:
            values += getattr(point, f"{name}_interval") or ()
    return values


def _fields(
    name: str, axis: PlotAxis, value: float, interval: tuple[float, float] | None
) -> dict[str, Any]:
    """Return a value with the ends of its interval, if any, and a text of both."""
    ends = {f"{name}_low": interval[0], f"{name}_high": interval[1]} if interval else {}
    return {name: value, **ends, axis.label: _text(value, interval)}


def _text(value: float, interval: tuple[float, float] | None) -> str:
    ends = "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"
    return f"{value:.4g}{ends}"


def _tip(field: str, title: str = "") -> dict[str, str]:
    # Vega reads dots and brackets in a field's name as a path.
    plain = field.replace("\\", "\\\\").replace(".", "\\.").replace("[", "\\[").replace("]", "\\]")
    return {"field": plain, "type": "nominal", "title": title or field}
