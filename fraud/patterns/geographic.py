"""Geographic clustering: risky payments of many cards within a small radius, beyond what the place's own traffic explains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fraud.geo import haversine_km
from fraud.patterns.findings import HETEROGENEITY, Finding, Scene
from fraud.patterns.tails import binomial_tail
from fraud.patterns.window import Ints

__all__ = ["clusters"]

_CELL_E6 = 100_000  # a tenth of a degree, 11 km from south to north
_KM_PER_DEGREE = 111.0
_MIN_COS = 0.02  # nobody pays within a degree of a pole


def clusters(scene: Scene) -> Iterator[Finding]:
    """Places whose share of risky cards is far above the tenant's share elsewhere.

    Candidates are the centres of the risky events of each cell of a tenth of a degree; members are all located events within
    ``radius_km``, so a cluster across a cell's border is whole, and a busy district is held against its own crowd.  A card counts
    once.  Clusters across the 180th meridian are seen in halves.
    """
    events = scene.events
    high = events.located & (events.score >= scene.limits.high_risk)
    if int(high.sum()) < scene.limits.min_cards:
        return
    cells = np.stack([events.lat_e6[high] // _CELL_E6, events.lon_e6[high] // _CELL_E6], axis=1)
    places, cell_of = np.unique(cells, axis=0, return_inverse=True)
    cell_of = cell_of.reshape(-1)
    level = scene.level(len(places))
    located, risky = np.flatnonzero(events.located), np.flatnonzero(high)
    cards_all, cards_high = len(np.unique(events.card.codes[located])), len(np.unique(events.card.codes[risky]))
    for number, (row, column) in enumerate(places.tolist()):
        of_cell = risky[cell_of == number]
        if len(of_cell) < 2:
            continue
        centre = int(np.rint(events.lat_e6[of_cell].mean())), int(np.rint(events.lon_e6[of_cell].mean()))
        near = _within(scene, located, centre)
        members = near[high[near]]
        total, count = len(np.unique(events.card.codes[near])), len(np.unique(events.card.codes[members]))
        if count < scene.limits.min_cards:
            continue
        chance = min(0.5, HETEROGENEITY * (max(0, cards_high - count) + 1) / (max(0, cards_all - total) + 2))
        log_p = binomial_tail(count, total, chance)
        if log_p <= level:
            name = f"{row * _CELL_E6 / 1e6:.1f},{column * _CELL_E6 / 1e6:.1f}"
            yield scene.finding(
                "geographic.cluster",
                "place",
                name,
                members,
                log_p,
                lat=centre[0] / 1e6,
                lon=centre[1] / 1e6,
                cards_in_reach=total,
                expected_share=chance,
            )


def _within(scene: Scene, located: Ints, centre: tuple[int, int]) -> Ints:
    """Indices of the located events within the radius of a point."""
    events, radius_km = scene.events, scene.limits.radius_km
    lat, lon = events.lat_e6[located], events.lon_e6[located]
    reach_lat = radius_km / _KM_PER_DEGREE * 1.01e6
    reach_lon = reach_lat / max(_MIN_COS, float(np.cos(np.deg2rad(abs(centre[0]) / 1e6 + 0.1))))
    boxed = located[(np.abs(lat - centre[0]) <= reach_lat) & (np.abs(lon - centre[1]) <= reach_lon)]
    inside = [haversine_km(int(events.lat_e6[i]), int(events.lon_e6[i]), *centre) <= radius_km for i in boxed.tolist()]
    within: Ints = boxed[np.array(inside, dtype=np.bool_)]
    return within
