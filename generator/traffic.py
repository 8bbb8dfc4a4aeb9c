"""Payments as arrays of indices and numbers, before they become text: what legitimate traffic and scenarios produce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from generator.geography import Floats, Ints
from generator.population import Population

__all__ = ["ATM", "CONTACTLESS", "ECOM", "POS", "PURCHASE", "TRANSFER", "TYPES", "WITHDRAWAL", "Traffic", "card_payments"]

POS, CONTACTLESS, ATM, ECOM = 0, 1, 2, 3
TYPES = ("purchase", "withdrawal", "transfer")
PURCHASE, WITHDRAWAL, TRANSFER = 0, 1, 2
NONE = -1


@dataclass(slots=True)
class Traffic:
    """N payments, one array of N a field.

    ``user``, ``merchant``, ``city``, ``card_country`` and ``billing_country`` are indices, -1 where unknown; ``cents`` is the
    worth in USD cents; ``device`` 0 and ``address`` 0 are none; ``lat`` is NaN where the place is unknown; ``scenario`` is -1
    for legitimate payments and ``instance`` counts the frauds of a kind.
    """

    time_ms: Ints
    card: NDArray[np.uint64]
    user: Ints
    merchant: Ints
    cents: Ints
    channel: Ints
    kind: Ints
    declined: NDArray[np.bool_]
    device: NDArray[np.uint64]
    address: Ints
    lat: Floats
    lon: Floats
    city: Ints
    card_type: Ints
    card_country: Ints
    card_age_days: Ints
    billing_lat: Floats
    billing_lon: Floats
    billing_country: Ints
    scenario: Ints
    instance: Ints

    def __len__(self) -> int:
        return len(self.time_ms)

    @classmethod
    def concatenate(cls, parts: Sequence[Traffic]) -> Traffic:
        """Put parts one after the other."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def in_order(self) -> Traffic:
        """The same payments by time; equal times keep their order."""
        order = np.argsort(self.time_ms, kind="stable")
        return Traffic(**{f.name: getattr(self, f.name)[order] for f in fields(self)})


def card_payments(population: Population, *, time_ms: Ints, card: Ints, merchant: Ints, cents: Ints, channel: Ints | int) -> Traffic:
    """Payments of people's own cards, as the issuer knows them, with nothing said of place, device or address.

    Args:
        population: whose cards.
        time_ms: ``int64[N]``.
        card: ``int64[N]``, indices of cards.
        merchant: ``int64[N]``.
        cents: ``int64[N]``, USD cents.
        channel: one code or ``int64[N]``.
    """
    n = len(time_ms)
    user = population.card_user[card]
    return Traffic(
        time_ms=time_ms,
        card=population.card_token[card],
        user=user,
        merchant=merchant,
        cents=cents,
        channel=_filled(n, channel),
        kind=np.full(n, PURCHASE),
        declined=np.zeros(n, dtype=np.bool_),
        device=np.zeros(n, dtype=np.uint64),
        address=np.zeros(n, dtype=np.int64),
        lat=np.full(n, np.nan),
        lon=np.full(n, np.nan),
        city=np.full(n, NONE),
        card_type=population.card_type[card],
        card_country=population.home_country[user],
        card_age_days=population.card_age_days(card, time_ms),
        billing_lat=population.home_lat[user],
        billing_lon=population.home_lon[user],
        billing_country=population.home_country[user],
        scenario=np.full(n, NONE),
        instance=np.full(n, NONE),
    )


def _filled(n: int, value: Ints | int) -> Ints:
    return np.broadcast_to(np.asarray(value, dtype=np.int64), (n,)).copy()
