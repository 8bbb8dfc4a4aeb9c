"""What a Grafana dashboard is made of, and its JSON; which dashboards there are stands in ``infra.dashboards``.

Colours are Okabe and Ito's, which the colour-blind tell apart, and no panel says anything by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BLUE", "ORANGE", "VERMILLION", "Dashboard", "Panel", "Query", "expressions", "render"]

_SCHEMA_VERSION = 39
_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
_ORDER = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)

Kind = Literal["timeseries", "stat", "bargauge", "heatmap", "state-timeline"]
Threshold = tuple[float, str]


@dataclass(frozen=True)
class Query:
    """A PromQL expression and how its series are called: text, or ``{{label}}``."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; ``unit`` is Grafana's name of it, ``thresholds`` are lower bounds with the colour from there on."""

    title: str
    kind: Kind
    queries: tuple[Query, ...]
    unit: str
    description: str
    thresholds: tuple[Threshold, ...] = ()
    width: int = 8
    height: int = 8
    maximum: float | None = None
    stacked: bool = False
    mappings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: rows of panels under headings; ``uid`` is its address and must not change."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def expressions(dashboard: Dashboard) -> list[str]:
    """Every expression of a dashboard, as Grafana would send it."""
    found = (query.expr for _, panels in dashboard.rows for panel in panels for query in panel.queries)
    return [expr.replace("$__rate_interval", "1m") for expr in found]


def render(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": dashboard.uid,
        "title": f"FraudGuard: {dashboard.title}",
        "description": dashboard.description,
        "tags": ["fraudguard"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}]},
        "annotations": {"list": []},
        "panels": list(_panels(dashboard.rows)),
    }


def _panels(rows: Sequence[tuple[str, tuple[Panel, ...]]]) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for heading, panels in rows:
        yield {"id": number, "type": "row", "title": heading, "collapsed": False, "gridPos": _place(0, top, _COLUMNS, 1), "panels": []}
        number, top, left, deepest = number + 1, top + 1, 0, 0
        for panel in panels:
            if left + panel.width > _COLUMNS:
                top, left, deepest = top + deepest, 0, 0
            yield {"id": number, "gridPos": _place(left, top, panel.width, panel.height), **_panel(panel)}
            number, left, deepest = number + 1, left + panel.width, max(deepest, panel.height)
        top += deepest


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            "instant": panel.kind == "bargauge",
            "range": panel.kind != "bargauge",
        }
        for i, query in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps = [{"value": None if i == 0 else bound, "color": colour} for i, (bound, colour) in enumerate(panel.thresholds or ((0.0, BLUE),))]
    by_threshold = panel.kind not in {"timeseries", "heatmap"}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds"} if by_threshold else {"mode": "shades", "fixedColor": BLUE},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.mappings:
        options = {value: {"text": text, "index": i} for i, (value, text) in enumerate(panel.mappings.items())}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 2,
            "fillOpacity": 25 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "dashed" if panel.thresholds else "off"},
        }
    return defaults


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """A colour of its own for each query of a panel; the series of one query are shades of it."""
    if panel.kind != "timeseries" or len(panel.queries) == 1:
        return []
    return [
        {
            "matcher": {"id": "byFrameRefID", "options": chr(ord("A") + i)},
            "properties": [{"id": "color", "value": {"mode": "shades" if "{{" in query.legend else "fixed", "fixedColor": colour}}],
        }
        for i, (query, colour) in enumerate(zip(panel.queries, _ORDER, strict=False))
    ]


def _options(panel: Panel) -> dict[str, Any]:
    latest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "stat":
            return {"reduceOptions": latest, "colorMode": "value", "graphMode": "area", "textMode": "value"}
        case "bargauge":
            return {"reduceOptions": latest, "orientation": "horizontal", "displayMode": "basic", "showUnfilled": True}
        case "heatmap":
            return {"calculate": False, "color": {"mode": "scheme", "scheme": "Cividis", "steps": 64}, "yAxis": {"unit": panel.unit}}
        case "state-timeline":
            return {"showValue": "always", "mergeValues": True, "rowHeight": 0.8}
        case _:
            return {
                "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
                "tooltip": {"mode": "multi"},
            }
