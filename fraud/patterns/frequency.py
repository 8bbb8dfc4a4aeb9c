"""Frequency: an entity far busier than it can be expected to be, and card testing at a merchant."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fraud.patterns.findings import HETEROGENEITY, Finding, Scene
from fraud.patterns.tails import binomial_tail, negative_binomial_tail, poisson_tail
from fraud.patterns.window import Bools, Entities, Floats, Ints

__all__ = ["Crowd", "card_testing", "merchant_rates", "merchants", "persons_and_devices"]

_MIN_EVENTS = 10
_MIN_DECLINES = 3
_LEFT_OUT = 3  # of a small population the busiest three, which may be what is looked for


class Crowd:
    """How busy the entities of a kind are in this window, from the counts of those that occur.

    ``busy`` is the count of the busiest percent.  The attack itself does not move it as long as it is less than one percent of the
    entities, or three of them.
    """

    def __init__(self, counts: Ints) -> None:
        active = counts[counts > 0]
        self.size = len(active)
        self._share = min(1.0, max(0.01, _LEFT_OUT / max(self.size, 1)))
        self.busy = self._quantile(active, self._share)
        self._per_decade = max(1.0, self.busy - self._quantile(active, min(1.0, 10 * self._share)))

    @staticmethod
    def _quantile(active: Ints, share: float) -> float:
        return max(1.0, float(np.quantile(active, 1.0 - share, method="higher"))) if len(active) else 1.0

    def log_tail(self, count: int) -> float:
        """Log of the probability that an honest entity has ``count`` or more, by the milder of two readings.

        Either it is as busy as the busiest percent and Poisson.  Or people differ, and the tail goes on as it does from the
        busiest tenth to the busiest hundredth: as many more events for each further factor of ten.
        """
        if count <= self.busy:
            return 0.0
        decades = (count - self.busy) / self._per_decade
        return max(poisson_tail(count, self.busy), math.log(self._share) - decades * math.log(10.0))


def persons_and_devices(scene: Scene) -> Iterator[Finding]:
    """Cards, users, devices and addresses with far more payments than the busiest percent.

    An address may be that of a carrier or an office, so it must also be riskier than the tenant's rest.
    """
    events = scene.events
    for name, entities in (("card", events.card), ("user", events.user), ("device", events.device), ("ip", events.ip)):
        counts = entities.counts()
        crowd = Crowd(counts)
        level = scene.level(crowd.size)
        for code in np.flatnonzero(counts >= _MIN_EVENTS).tolist():
            log_p = crowd.log_tail(int(counts[code]))
            if log_p <= level:
                members = scene.groups(name).members(code)
                if name != "ip" or scene.is_tilted(members):
                    yield scene.finding(f"frequency.{name}", name, entities.names[code], members, log_p, busy=crowd.busy)


def merchants(scene: Scene) -> Iterator[Finding]:
    """Merchants with far more payments than their own last day lets expect.

    Merchants differ too much for a common level, so only those whose log is old enough are tested.  The expectation is the
    merchant's own rate, times how busy the tenant's other merchants are now against theirs.
    """
    events = scene.events
    counts, cards = events.merchant.counts(), events.merchant.distinct(events.card)
    prior, exposure, known = merchant_rates(scene)
    expected = np.where(known, (prior + 1.0) * exposure, 0.0)
    observed_sum, expected_sum = int(counts[known].sum()), float(expected.sum())
    level = scene.level(int(known.sum()))
    for code in np.flatnonzero(known & (counts >= _MIN_EVENTS) & (cards >= scene.limits.min_cards)).tolist():
        rest = expected_sum - expected[code]
        pace = max(1.0, (observed_sum - counts[code]) / rest) if rest > 0 else 1.0
        times = HETEROGENEITY * pace
        log_p = negative_binomial_tail(int(counts[code]), int(prior[code]), float(exposure[code]) * times)
        if log_p <= level:
            members = scene.groups("merchant").members(code)
            mean = float(expected[code]) * times
            yield scene.finding("frequency.merchant", "merchant", events.merchant.names[code], members, log_p, expected=mean)


def merchant_rates(scene: Scene) -> tuple[Ints, Floats, Bools]:
    """Each merchant's payments before the window, the window's length in units of the time they took, and whether both are known."""
    events = scene.events
    size = len(events.merchant.names)
    first = np.full(size, -1, dtype=np.int64)
    first[events.merchant.codes[::-1]] = np.arange(len(events))[::-1]  # the first event in time is written last
    has = first >= 0
    prior, seconds = np.full(size, np.nan), np.full(size, np.nan)
    prior[has], seconds[has] = events.merchant_prior[first[has]], events.merchant_prior_s[first[has]]
    known = has & ~np.isnan(prior) & (seconds > 0)
    exposure = np.divide(events.seconds, seconds, out=np.zeros(size), where=known)
    return np.where(known, prior, 0.0).astype(np.int64), exposure, known


def card_testing(scene: Scene) -> Iterator[Finding]:
    """Merchants where many cards are tried with small amounts and declined beyond the tenant's own share.

    Given how many payments a merchant has, declines are what an honest crowd would share evenly, so a popular merchant is no
    more suspect than a quiet one.  Only merchants of small amounts are tested: most of theirs are in the tenant's lowest quarter of
    the currency.
    """
    events = scene.events
    counts, declines = events.merchant.counts(), events.merchant.counts(events.declined)
    small = events.merchant.counts(_in_lowest_quarter(events.amount_minor, events.currency))
    tested = (counts >= scene.limits.min_cards) & (2 * small > counts)
    level = scene.level(int(tested.sum()))
    cards = events.merchant.distinct(events.card)
    for code in np.flatnonzero(tested & (cards >= scene.limits.min_cards) & (declines >= _MIN_DECLINES)).tolist():
        members = scene.groups("merchant").members(code)
        chance = scene.share_elsewhere(events.declined, members)
        log_p = binomial_tail(int(declines[code]), int(counts[code]), chance)
        if log_p <= level:
            yield scene.finding(
                "frequency.card_testing",
                "merchant",
                events.merchant.names[code],
                members,
                log_p,
                small=int(small[code]),
                expected_share=chance,
            )


def _in_lowest_quarter(amount_minor: Ints, currency: Entities) -> Bools:
    """Which amounts are below the lower quartile of their currency."""
    lower = [np.quantile(amount_minor[currency.codes == code], 0.25) for code in range(len(currency.names))]
    below: Bools = amount_minor < np.array([*lower, -np.inf])[currency.codes]  # the last one is for those without a currency
    return below
