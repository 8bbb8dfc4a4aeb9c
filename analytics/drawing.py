"""Charts as SVG, drawn here and not in the browser: numbers in, a picture that needs no script and no font out.

Colours are Okabe and Ito's, which colour-blind people tell apart, and never stand alone: outcomes differ in hatching and marker, lines
in their dashes, and bars carry their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import singledispatch
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analytics.charts import Contributions, Lines, Map, OutcomeBars, Place, Shares
from analytics.coast import Line, borders, land

__all__ = ["draw"]

# Okabe and Ito (2008), "Color Universal Design"
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"
_OUTCOMES = {  # colour, hatching, marker
    "ALLOW": (SKY, "", "o"),
    "CHALLENGE": (ORANGE, "///", "s"),
    "DENY": (VERMILLION, "xxx", "X"),
}
_INK, _FAINT = "#1a1a1a", "#c8ccd0"
_WIDE_IN, _HALF_IN = 12.0, 6.0  # across the page, and two beside each other; text keeps its size
_DPI = 100
_MINUTE_DAYS = 1 / 1440
_STYLE: Any = {  # matplotlib's own type is a union of every setting there is
    "svg.hashsalt": "fraudguard",  # the same numbers give the same picture
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e3e6e8",
    "hatch.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@singledispatch
def draw(chart: Any) -> bytes:
    """The picture of a chart, as SVG."""
    raise TypeError(f"no chart: {type(chart).__name__}")


@draw.register
def _(chart: OutcomeBars) -> bytes:
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(_WIDE_IN, 2.7)
        at = [_day(one) for one in chart.minutes_ms]
        below = [0] * len(at)
        for outcome, counts in (("ALLOW", chart.allowed), ("CHALLENGE", chart.challenged), ("DENY", chart.denied)):
            colour, hatch, _ = _OUTCOMES[outcome]
            axes.bar(
                at, counts, width=_MINUTE_DAYS * 0.9, align="edge", bottom=below, color=colour, hatch=hatch, edgecolor=_INK,
                linewidth=0.4, label=outcome,
            )  # fmt: skip
            below = [low + count for low, count in zip(below, counts, strict=True)]
        axes.set_ylabel("decisions a minute")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_ylim(bottom=0)
        _time_axis(axes, chart.from_ms, chart.until_ms)
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
        return _svg(figure)


@draw.register
def _(chart: Lines) -> bytes:
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(_HALF_IN, 2.7)
        at = [_day(one) + _MINUTE_DAYS / 2 for one in chart.minutes_ms]
        looks = ((BLUE, "-", "o"), (VERMILLION, "--", "s"), (GREEN, ":", "^"))
        for (name, values), (colour, dashes, marker) in zip(chart.values.items(), looks, strict=False):
            known = [math.nan if value is None else value for value in values]
            axes.plot(at, known, color=colour, linestyle=dashes, marker=marker, markersize=3.5, linewidth=1.6, label=name)
        axes.set_ylabel(chart.unit)
        axes.set_ylim(bottom=0)
        _time_axis(axes, chart.from_ms, chart.until_ms)
        axes.legend(ncols=len(chart.values), loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
        return _svg(figure)


@draw.register
def _(chart: Shares) -> bytes:
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(_HALF_IN if len(chart.names) < 9 else _WIDE_IN, 0.8 + 0.28 * len(chart.names))
        rows = range(len(chart.names))
        off = [
            [value - low for value, low in zip(chart.values, chart.lows, strict=True)],
            [high - value for value, high in zip(chart.values, chart.highs, strict=True)],
        ]
        axes.barh(rows, chart.values, height=0.62, color=SKY, edgecolor=_INK, linewidth=0.4)
        axes.errorbar(chart.values, rows, xerr=off, fmt="none", ecolor=_INK, elinewidth=1.2, capsize=3)
        for row, (high, value, note) in enumerate(zip(chart.highs, chart.values, chart.notes, strict=True)):
            axes.text(max(high, value) + 0.015, row, f"{value:.0%}  {note}", va="center")
        _rows(axes, chart.names)
        axes.set_xlim(0, 1.3)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel(chart.label)
        return _svg(figure)


@draw.register
def _(chart: Contributions) -> bytes:
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(_WIDE_IN, 0.8 + 0.28 * len(chart.names))
        span = max(map(abs, chart.values), default=1.0) or 1.0
        for row, value in enumerate(chart.values):
            raises = value >= 0
            axes.barh(
                row, value, height=0.64, color=VERMILLION if raises else SKY, hatch="xxx" if raises else "", edgecolor=_INK, linewidth=0.4
            )
            axes.text(value + (0.02 if raises else -0.02) * span, row, f"{value:+.3f}", va="center", ha="left" if raises else "right")
        axes.axvline(0, color=_INK, linewidth=0.8)
        _rows(axes, chart.names)
        low, high = min(0.0, *chart.values, 0.0), max(0.0, *chart.values, 0.0)
        axes.set_xlim(low - 0.22 * span, high + 0.22 * span)
        axes.set_xlabel(chart.label)
        return _svg(figure)


@draw.register
def _(chart: Map) -> bytes:
    with mpl.rc_context(_STYLE):
        west, east, south, north = _extent(chart.places)
        figure, axes = _canvas(_WIDE_IN, _WIDE_IN * (north - south) / (east - west) + 0.4)
        fine = east - west < 120
        coasts, frontiers = (_seen(lines, (west, east, south, north)) for lines in (land(fine=fine), borders(fine=fine)))
        axes.add_collection(PolyCollection(coasts, facecolor="#eef0ea", edgecolor="#8a9199", linewidth=0.5))
        axes.add_collection(LineCollection(frontiers, color="#b4bac0", linewidth=0.4))
        axes.plot([one.lon for one in chart.places], [one.lat for one in chart.places], color="#6b7278", linewidth=0.8, linestyle="--")
        for outcome, (colour, _, marker) in _OUTCOMES.items():
            those = [one for one in chart.places if one.outcome == outcome]
            if those:
                axes.scatter(
                    [one.lon for one in those], [one.lat for one in those], s=70, color=colour, marker=marker, edgecolor=_INK,
                    linewidth=0.7, zorder=3, label=outcome,
                )  # fmt: skip
        for one in chart.places:
            if one.is_this:
                axes.scatter([one.lon], [one.lat], s=260, facecolor="none", edgecolor=BLACK, linewidth=1.8, zorder=4, label="this payment")
        axes.set_xlim(west, east)
        axes.set_ylim(south, north)
        _name_places(axes, chart.places)
        axes.set_aspect("equal")
        axes.set_facecolor("#f5f8fa")
        axes.grid(visible=True, linewidth=0.5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _degrees(x, "E", "W")))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _degrees(y, "N", "S")))
        axes.legend(ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
        return _svg(figure)


def _canvas(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _day(time_ms: int) -> float:
    """As matplotlib counts time: days since 1970."""
    return time_ms / 86_400_000


def _time_axis(axes: Axes, from_ms: int, until_ms: int) -> None:
    axes.set_xlim(_day(from_ms), _day(until_ms))
    axes.xaxis_date(tz=UTC)
    axes.xaxis.set_major_locator(AutoDateLocator(tz=UTC, minticks=4, maxticks=9))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=UTC))  # type: ignore[no-untyped-call]
    axes.set_xlabel(f"UTC, {datetime.fromtimestamp(until_ms / 1000, UTC):%d %B %Y}")
    axes.grid(visible=True, axis="y")


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")


def _extent(places: Sequence[Place]) -> tuple[float, float, float, float]:
    """West, east, south, north: all places with a margin, twice as wide as high, 8 degrees high at least and the whole world at most."""
    lats, lons = [one.lat for one in places], [one.lon for one in places]
    height = max(8.0, 1.3 * (max(lats) - min(lats)), 0.65 * (max(lons) - min(lons)))
    height = min(height, 180.0)
    lat, lon = (max(lats) + min(lats)) / 2, (max(lons) + min(lons)) / 2
    lat = min(max(lat, -90 + height / 2), 90 - height / 2)
    lon = min(max(lon, -180 + height), 180 - height)
    return lon - height, lon + height, lat - height / 2, lat + height / 2


def _seen(lines: Sequence[Line], extent: tuple[float, float, float, float]) -> list[Line]:
    """Lines that reach into the map and are no mere dot on it."""
    west, east, south, north = extent
    smallest = (east - west) / 300
    found = []
    for line in lines:
        (left, bottom), (right, top) = line.min(axis=0), line.max(axis=0)
        reaches = right >= west and left <= east and top >= south and bottom <= north
        if reaches and max(right - left, top - bottom) >= smallest:
            found.append(line)
    return found


def _name_places(axes: Axes, places: Sequence[Place]) -> None:
    """The row numbers at each place, once for all payments that are hardly apart on this map."""
    west, east = axes.get_xlim()
    apart = (east - west) / 50
    numbers: dict[tuple[int, int], list[Place]] = {}
    for one in places:
        numbers.setdefault((round(one.lat / apart), round(one.lon / apart)), []).append(one)
    for found in numbers.values():
        rows = sorted(one.number for one in found)
        text = ", ".join(map(str, rows[:4])) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
        axes.annotate(text, (found[0].lon, found[0].lat), xytext=(10, 9), textcoords="offset points", fontsize=9, zorder=5)


def _degrees(value: float, positive: str, negative: str) -> str:
    side = positive if value > 0 else negative if value < 0 else ""
    return f"{abs(value):g}° {side}".rstrip()
