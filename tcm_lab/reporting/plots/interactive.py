"""Charts for pages: what the plots show, as Vega-Lite specifications that a reader can point at.

A specification is a plain value and holds its data. The page draws it with its own copy of Vega;
each mark knows its variant by name, so that a selected one is found in the tables, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tcm_lab.evaluation import Quality
from tcm_lab.reporting.plots._style import PlotAxis
from tcm_lab.reporting.plots.rd import BPP, QUALITY, RdSeries, limits
from tcm_lab.reporting.plots.search import ParetoPoint
from tcm_lab.reporting.renderers.html import Spec

_KINDS = {
    "Pareto front": ("circle", "#0a5fb0"),
    "baseline": ("diamond", "#c0392b"),
    "dominated": ("circle", "#8a939d"),
    "stopped early": ("cross", "#8a939d"),
}
_ROLES = {"measured": [1, 0], "baseline": [1, 0], "anchor": [6, 3], "published": [2, 3]}
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
    """Return the chart of a Pareto plot; every point is named, with its values and intervals.

    Args:
        points: variants.
        x: the horizontal objective.
        y: the vertical objective.
        names: of the points, if not their labels.
        details: more about each point, by what a reader knows it as, such as its axes.
    """
    rows = [
        {
            "name": names[i] if names else point.label or point.kind,
            "kind": point.kind,
            "x": point.x,
            "y": point.y,
            **_ends("x", point.x_interval),
            **_ends("y", point.y_interval),
            x.label: _text(point.x, point.x_interval),
            y.label: _text(point.y, point.y_interval),
            **(dict(details[i]) if details else {}),
        }
        for i, point in enumerate(points)
    ]
    fields = [x.label, y.label, *(name for more in details[:1] for name in more)]
    channels: dict[str, Any] = {
        "x": {"field": "x", **_axis(x, _reach("x", points))},
        "y": {"field": "y", **_axis(y, _reach("y", points))},
    }
    kinds = [kind for kind in _KINDS if any(point.kind == kind for point in points)]
    symbols: dict[str, Any] = {
        "color": _scale("kind", kinds, [_KINDS[kind][1] for kind in kinds]),
        "shape": _scale("kind", kinds, [_KINDS[kind][0] for kind in kinds]),
        "tooltip": [_tip("name", "variant"), *map(_tip, fields)],
        "size": {"condition": {"test": _SELECTED, "value": 320}, "value": 90},
        "opacity": {
            "condition": {"test": f"chosen === '' || {_SELECTED}", "value": 1},
            "value": 0.4,
        },
    }
    rules: list[Spec] = [
        {
            "mark": {"type": "rule", "color": "#8a939d", "clip": True, "tooltip": None},
            "transform": [{"filter": f"isValid(datum.{way}_low)"}],
            "encoding": {
                **channels,
                way: {**channels[way], "field": f"{way}_low"},
                f"{way}2": {"field": f"{way}_high"},
            },
        }
        for way in ("x", "y")
    ]
    marks: Spec = {
        "mark": {"type": "point", "filled": True, "clip": True},
        "params": [_ZOOM],
        "encoding": {**channels, **symbols},
    }
    named: Spec = {
        "mark": {
            "type": "text",
            "align": "left",
            "dx": 8,
            "dy": -7,
            "fontSize": 11,
            "clip": True,
            "tooltip": None,
        },
        "transform": [{"filter": {"field": "kind", "oneOf": ["Pareto front", "baseline"]}}],
        "encoding": {**channels, "text": {"field": "name"}, "color": symbols["color"]},
    }
    return _chart(rows, [*rules, marks, named])


def rd_chart(
    series: Sequence[RdSeries], *, names: Sequence[str] = (), quality: Quality = "psnr_db"
) -> Spec:
    """Return the chart of a rate-distortion plot; every point says its curve, rate and quality.

    Args:
        series: curves in the order of the legend.
        names: of the curves in tables, if not their labels.
        quality: what the series hold.
    """
    (left, right), (low, high) = limits(series)
    axis = QUALITY[quality]
    rows = [
        {"name": names[i] if names else curve.label, "codec": curve.label, "x": bpp, "y": value,
         "low": low_, "high": high_,
         BPP.label: f"{bpp:.4f}", axis.label: _text(value, (low_, high_) if curve.low else None)}
        for i, curve in enumerate(series)
        for bpp, value, low_, high_ in zip(
            curve.bpp, curve.quality, curve.low or curve.quality, curve.high or curve.quality,
            strict=True,
        )
    ]  # fmt: skip
    labels = [curve.label for curve in series]
    dashes = [_ROLES[curve.role] for curve in series]
    channels: dict[str, Any] = {
        "x": {"field": "x", **_axis(BPP, (left, right))},
        "y": {"field": "y", **_axis(axis, (low, high))},
        "color": {"field": "codec", "type": "nominal", "sort": labels, "legend": _legend(labels),
                  "scale": {"domain": labels, "scheme": "tableau10"}},
        "opacity": {"condition": {"test": f"chosen === '' || {_SELECTED}", "value": 1},
                    "value": 0.2},
    }  # fmt: skip
    line = {
        "mark": {"type": "line", "clip": True, "strokeWidth": 1.6},
        "encoding": {
            **channels,
            "strokeDash": {"field": "codec", "type": "nominal", "sort": labels,
                           "legend": _legend(labels),
                           "scale": {"domain": labels, "range": dashes}},
        },
    }  # fmt: skip
    band = {
        "mark": {"type": "area", "clip": True, "opacity": 0.18, "tooltip": None},
        "encoding": {
            **{name: channels[name] for name in ("x", "color")},
            "y": {**channels["y"], "field": "low"},
            "y2": {"field": "high"},
        },
    }
    tips = {"tooltip": [_tip("codec"), _tip(BPP.label), _tip(axis.label)]}
    points = {
        "mark": {"type": "point", "filled": True, "size": 60, "clip": True},
        "params": [_ZOOM],
        "encoding": channels | tips,
    }
    return _chart(rows, [band, line, points])


def _chart(rows: Sequence[Mapping[str, Any]], layers: Sequence[Spec]) -> Spec:
    return {
        "width": "container",
        "height": 340,
        "data": {"values": [*rows]},
        "params": [{"name": "chosen", "value": ""}],
        "layer": [*layers],
    }


def _axis(axis: PlotAxis, values: Sequence[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return {
        "type": "quantitative",
        "title": axis.label,
        "axis": {"tickCount": 8, "labelOverlap": True},
        "scale": {"zero": False, "nice": False, "domain": [low - margin, high + margin]},
    }


def _scale(field: str, domain: Sequence[str], values: Sequence[str]) -> dict[str, Any]:
    return {
        "field": field,
        "type": "nominal",
        "legend": _legend(domain),
        "scale": {"domain": [*domain], "range": [*values]},
    }


def _legend(names: Sequence[str]) -> dict[str, Any]:
    """Put the legend below the data, in as many columns as fit beside each other."""
    longest = max((len(name) for name in names), default=0)
    columns = 4 if longest <= 14 else 2 if longest <= 30 else 1
    return {"orient": "bottom", "title": None, "columns": columns, "labelLimit": 420}


def _reach(way: str, points: Sequence[ParetoPoint]) -> list[float]:
    """Return every value and interval end of an axis, those of stopped trainings apart."""
    found: list[float] = [getattr(point, way) for point in points]
    for point in points:
        if not point.partial:
            found += getattr(point, f"{way}_interval") or ()
    return found


def _ends(way: str, interval: tuple[float, float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{way}_low": interval[0], f"{way}_high": interval[1]}


def _text(value: float, interval: tuple[float, float] | None) -> str:
    ends = "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"
    return f"{value:.4g}{ends}"


def _tip(field: str, title: str = "") -> dict[str, str]:
    # Vega reads dots and brackets of a field as a path.
    plain = field.replace("\\", "\\\\").replace(".", "\\.").replace("[", "\\[").replace("]", "\\]")
    return {"field": plain, "type": "nominal", "title": title or field}
