"""What a chart shows, without how it is drawn (``analytics.drawing``): plain values, so that it can be sent to the process that draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CHARTS", "Chart", "Contributions", "Lines", "Map", "OutcomeBars", "Place", "Shares"]


@dataclass(frozen=True, slots=True)
class OutcomeBars:
    """Decisions by minute, one on the other; ``minutes_ms`` are the minutes that have some, the axis goes to ``until_ms``."""

    minutes_ms: Sequence[int]
    allowed: Sequence[int]
    challenged: Sequence[int]
    denied: Sequence[int]
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Lines:
    """Values over time by name; None is a gap."""

    minutes_ms: Sequence[int]
    values: Mapping[str, Sequence[float | None]]
    unit: str
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares by name with their intervals, from 0 to 1; ``notes`` say of how many."""

    names: Sequence[str]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    notes: Sequence[str]
    label: str


@dataclass(frozen=True, slots=True)
class Contributions:
    """What each feature added to a score, the strongest first."""

    names: Sequence[str]
    values: Sequence[float]
    label: str


@dataclass(frozen=True, slots=True)
class Place:
    """A payment on the map; ``number`` is its row in the table beside."""

    number: int
    lat: float
    lon: float
    outcome: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class Map:
    """Payments on a map, oldest first, joined in their order."""

    places: Sequence[Place]


Chart = OutcomeBars | Lines | Shares | Contributions | Map
CHARTS: dict[str, type[Any]] = {one.__name__: one for one in (OutcomeBars, Lines, Shares, Contributions, Map)}
