"""Temporal patterns: spacing as regular as only a machine's, and bursts at an hour at which a shop sleeps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fraud.patterns.findings import Finding, Scene
from fraud.patterns.frequency import merchant_rates
from fraud.patterns.tails import negative_binomial_tail, regularity_tail
from fraud.patterns.window import NO_ENTITY, Floats, Groups, Ints

__all__ = ["night_bursts", "regular_spacing"]

_MIN_EVENTS = 6
_IRREGULAR = 0.5  # a script that waits at random is not regular, however many payments it makes
_CLOCK_STEPS_MS = (60_000.0, 1_000.0)
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
_NIGHT_H = 5.0  # from midnight to five in the morning, solar time of the place
_MS_PER_DEGREE = 240_000  # the sun moves 15 degrees an hour
_E6 = 1_000_000
_MIN_BURST = 10


def regular_spacing(scene: Scene) -> Iterator[Finding]:
    """Cards, devices and addresses whose payments come at equal intervals.

    Honest people are less regular than chance, never more.  Merchants are not tested: billing runs are regular by nature.  Where
    all times are whole seconds or minutes, intervals are taken to be as irregular as such a clock could hide.
    """
    events = scene.events
    for name, entities in (("card", events.card), ("device", events.device), ("ip", events.ip)):
        groups = scene.groups(name)
        tested = entities.counts() >= _MIN_EVENTS
        level = scene.level(int(tested.sum()))
        for code in np.flatnonzero(tested & (_variations(groups, events.time_ms, len(entities.names)) < _IRREGULAR)).tolist():
            members = groups.members(code)
            times_ms = events.time_ms[members]
            gaps = np.diff(times_ms)
            mean = float(gaps.mean())
            variation = max(float(gaps.std()), _resolution_ms(times_ms)) / mean
            log_p = regularity_tail(variation, len(gaps))
            if log_p <= level:
                yield scene.finding("temporal.regular", name, entities.names[code], members, log_p, interval_ms=mean, variation=variation)


def _resolution_ms(times_ms: Ints) -> float:
    """The step of the clock that these times may have been read from."""
    return next((step for step in _CLOCK_STEPS_MS if not (times_ms % step).any()), 1.0)


def _variations(groups: Groups, time_ms: Ints, names: int) -> Floats:
    """Coefficient of variation of each name's intervals, infinite where there are none."""
    times = time_ms[groups.order].astype(np.float64)
    together = (groups.codes[1:] == groups.codes[:-1]) & (groups.codes[1:] != NO_ENTITY)
    gaps, codes = np.diff(times)[together], groups.codes[1:][together]
    count, total, squares = (np.bincount(codes, weights, names) for weights in (np.ones(len(gaps)), gaps, gaps * gaps))
    mean = np.divide(total, count, out=np.zeros(names), where=count > 0)
    variance = np.divide(squares, count, out=np.zeros(names), where=count > 0) - mean * mean
    return np.divide(np.sqrt(np.maximum(0.0, variance)), mean, out=np.full(names, np.inf), where=mean > 0)


def night_bursts(scene: Scene) -> Iterator[Finding]:
    """Merchants with more payments at night than the mean of their own day allows.

    The mean is an upper bound of what a night lets expect, so nothing is allowed on top of it as there is by day.
    """
    events = scene.events
    counts, cards = events.merchant.counts(), events.merchant.distinct(events.card)
    prior, exposure, known = merchant_rates(scene)
    located = events.located
    middle_ms = (events.start_ms + events.end_ms) // 2
    candidates = np.flatnonzero(known & (counts >= _MIN_BURST) & (cards >= scene.limits.min_cards)).tolist()
    level = scene.level(int(known.sum()))
    for code in candidates:
        members = scene.groups("merchant").members(code)
        longitudes = events.lon_e6[members][located[members]]
        if len(longitudes) * 2 < len(members):
            continue
        local_ms = (middle_ms + int(np.median(longitudes)) * _MS_PER_DEGREE // _E6) % _DAY_MS
        if local_ms >= _NIGHT_H * _HOUR_MS:
            continue
        log_p = negative_binomial_tail(int(counts[code]), int(prior[code]), float(exposure[code]))
        if log_p <= level:
            yield scene.finding(
                "temporal.night_burst",
                "merchant",
                events.merchant.names[code],
                members,
                log_p,
                expected=float((prior[code] + 1) * exposure[code]),
                local_hour=local_ms / _HOUR_MS,
            )
