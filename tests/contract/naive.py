"""The obviously right oracle of the feature kernel: every feature by name, from first principles, in plain Python.

Each value is computed anew from the whole list of what was applied to the entity: no state, no increments, no folding, money and
moments in exact fractions.  It is O(n) a feature and O(n^2) a log, and meant to be read beside ``design.md`` section 3.

It shares no line with :mod:`fraud.kernel` or :mod:`fraud.catalogue`; it knows their definitions, not their code.  It must stay
slow and plain: whoever makes it clever has lost the oracle.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from statistics import median

from fraud.events import KINDS, Kind, Label, Transaction

__all__ = ["DAY_MS", "HOUR_MS", "LIFETIME_MS", "MINUTE_MS", "RETENTION_MS", "Log", "Naive", "distance_km"]

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
UNIT_MS = {"s": 1_000, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}

# How long a log keeps an event, measured from the entity's newest one: the longest reach of a window, and one day of lateness.
RETENTION_MS = {
    Kind.CARD: 31 * DAY_MS,
    Kind.USER: 31 * DAY_MS,
    Kind.MERCHANT: 38 * DAY_MS,
    Kind.DEVICE: 8 * DAY_MS,
    Kind.IP: 8 * DAY_MS,
}
LIFETIME_MS = 90 * DAY_MS  # an entity silent for longer than this starts anew
EARTH_RADIUS_KM = 6371.0088

# What was applied to one entity, in the order in which it was applied.
Log = Sequence[Transaction | Label]
Value = int | float | None  # None is missing

_NAME = re.compile(rf"({'|'.join(KINDS)})_(\w+?)(?:_delayed(\d+)([smhd]))?(?:_(\d+)([smhd]))?")


def distance_km(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Great-circle distance in km, by the haversine formula, from degrees."""
    phi1, phi2 = math.radians(lat1), math.radians(lat2)
    h = math.sin(math.radians(lat2 - lat1) / 2) ** 2 + math.cos(phi1) * math.cos(phi2) * math.sin(math.radians(lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


def _mean(amounts: Sequence[int]) -> Fraction:
    return Fraction(sum(amounts), len(amounts))


def _sample_variance(amounts: Sequence[int]) -> Fraction:
    n, total = len(amounts), sum(amounts)
    return Fraction(sum((n * x - total) ** 2 for x in amounts), n * n * (n - 1))


def _nearest_rank_95(amounts: Sequence[int]) -> int:
    """The smallest amount that at least 95 % of the amounts do not exceed."""
    ordered = sorted(amounts)
    return next(x for rank, x in enumerate(ordered, start=1) if 100 * rank >= 95 * len(ordered))


def _ratio(amount: int, reference: Fraction | float) -> float | None:
    return None if reference == 0 else float(Fraction(amount) / Fraction(reference))


def _position(tx: Transaction) -> tuple[float, float] | None:
    return None if tx.lat is None or tx.lon is None else (tx.lat, tx.lon)


class Naive:
    """The features of one transaction over the log of one entity.

    Args:
        kind: of the entity.
        log: what was applied before, in arrival order.
        tx: the transaction to evaluate; it arrives after everything in ``log``.
    """

    def __init__(self, kind: Kind, log: Log, tx: Transaction) -> None:
        self.kind, self.tx, self.t = kind, tx, tx.event_time_ms
        arrived = [entry for entry in log if isinstance(entry, Transaction)]
        self.life = self._current_life(arrived)
        newest = max([self.t, *(x.event_time_ms for x in arrived)])
        self.horizon = newest - RETENTION_MS[kind]
        # a stable sort: among equal event times the order is that of arrival
        kept = sorted((x for x in arrived if x.event_time_ms > self.horizon), key=lambda x: x.event_time_ms)
        self.earlier = [x for x in kept if self.is_earlier(x)]
        self.fraud_times = self._fraud_times(entry for entry in log if isinstance(entry, Label))

    # --- the definitions a mutant changes to show that the comparison would notice ------------------------------------------

    def is_earlier(self, other: Transaction) -> bool:
        """Whether a transaction that arrived before this one also happened before it; at the same millisecond it did."""
        return other.event_time_ms <= self.t

    def in_window(self, event_time_ms: int, end_ms: int, window_ms: int) -> bool:
        """(end - window, end]."""
        return end_ms - window_ms < event_time_ms <= end_ms

    def reference(self, window_ms: int) -> list[int]:
        """Amounts that a z-score or a ratio compares with: the window without this transaction."""
        return [x.amount_minor for x in self.earlier if self.in_window(x.event_time_ms, self.t, window_ms)]

    # --- what the features are made of -----------------------------------------------------------------------------------------

    def _current_life(self, arrived: Sequence[Transaction]) -> list[Transaction]:
        """Transactions since the last silence of more than 90 days, as it stands when this one arrives."""
        life: list[Transaction] = []
        newest = None
        for x in [*arrived, self.tx]:
            if newest is not None and x.event_time_ms - newest > LIFETIME_MS:
                life = []
            life.append(x)
            newest = x.event_time_ms if newest is None else max(newest, x.event_time_ms)
        return life[:-1]

    def _fraud_times(self, labels: Iterable[Label]) -> list[int]:
        """Event times of the transactions that are labelled fraud by now; a later label of the same transaction replaces it."""
        fraud: dict[str, int] = {}
        for label in labels:
            if label.is_fraud:
                fraud.setdefault(label.transaction_id, label.transaction_time_ms)
            else:
                fraud.pop(label.transaction_id, None)
        return [t for t in fraud.values() if t > self.horizon]

    def window(self, window_ms: int) -> list[Transaction]:
        return [x for x in self.earlier if self.in_window(x.event_time_ms, self.t, window_ms)] + [self.tx]

    def amounts(self, window_ms: int) -> list[int]:
        return [x.amount_minor for x in self.window(window_ms)]

    def distinct(self, window_ms: int, column: str) -> int:
        return len({getattr(x, column) for x in self.window(window_ms)} - {None})

    # --- the features ------------------------------------------------------------------------------------------------------------

    def value(self, name: str) -> Value:
        """Value of a feature of this entity by its catalogue name; None is missing."""
        match = _NAME.fullmatch(name)
        assert match is not None, name
        entity, aggregate, delay, delay_unit, number, unit = match.groups()
        assert Kind[entity.upper()] == self.kind, name
        compute: Callable[..., Value] = getattr(self, f"_{aggregate}")
        if number is None:
            return compute()
        window_ms = int(number) * UNIT_MS[unit]
        if delay is None:
            return compute(window_ms)
        return self._delayed(aggregate, int(delay) * UNIT_MS[delay_unit], window_ms)

    def _count_tx(self, w: int) -> Value:
        return len(self.window(w))

    def _sum_amount(self, w: int) -> Value:
        return sum(self.amounts(w))

    def _mean_amount(self, w: int) -> Value:
        return float(_mean(self.amounts(w)))

    def _min_amount(self, w: int) -> Value:
        return min(self.amounts(w))

    def _max_amount(self, w: int) -> Value:
        return max(self.amounts(w))

    def _std_amount(self, w: int) -> Value:
        amounts = self.amounts(w)
        return None if len(amounts) < 2 else math.sqrt(_sample_variance(amounts))

    def _distinct_merchant(self, w: int) -> Value:
        return self.distinct(w, "merchant_id")

    def _distinct_device(self, w: int) -> Value:
        return self.distinct(w, "device_id")

    def _distinct_card(self, w: int) -> Value:
        return self.distinct(w, "card_id")

    def _distinct_user(self, w: int) -> Value:
        return self.distinct(w, "user_id")

    def _distinct_country(self, w: int) -> Value:
        return self.distinct(w, "country")

    def _distinct_mcc(self, w: int) -> Value:
        return self.distinct(w, "merchant_mcc")

    def _count_declined(self, w: int) -> Value:
        return sum(x.declined for x in self.window(w))

    def _count_small(self, w: int) -> Value:
        return sum(amount <= 5_00 for amount in self.amounts(w))

    def _count_nearlimit(self, w: int) -> Value:
        return sum(1_800_00 <= amount <= 2_000_00 for amount in self.amounts(w))

    def _zscore_amount(self, w: int) -> Value:
        amounts = self.reference(w)
        if len(amounts) < 2 or len(set(amounts)) == 1:
            return None
        return float(self.tx.amount_minor - _mean(amounts)) / math.sqrt(_sample_variance(amounts))

    def _ratio_mean_amount(self, w: int) -> Value:
        amounts = self.reference(w)
        return _ratio(self.tx.amount_minor, _mean(amounts)) if amounts else None

    def _ratio_median_amount(self, w: int) -> Value:
        amounts = self.reference(w)
        return _ratio(self.tx.amount_minor, median(amounts)) if amounts else None

    def _ratio_p95_amount(self, w: int) -> Value:
        amounts = self.reference(w)
        return _ratio(self.tx.amount_minor, _nearest_rank_95(amounts)) if amounts else None

    def _count_fraud(self, w: int) -> Value:
        return sum(self.in_window(t, self.t, w) for t in self.fraud_times)

    def _delayed(self, aggregate: str, delay_ms: int, window_ms: int) -> Value:
        """Over (t - d - w, t - d]: how many transactions, or the share of them that is known to be fraud."""
        end = self.t - delay_ms
        count = sum(self.in_window(x.event_time_ms, end, window_ms) for x in self.earlier)
        if aggregate == "count":
            return count
        fraud = sum(self.in_window(t, end, window_ms) for t in self.fraud_times)
        return min(1.0, fraud / count) if count else 0.0

    # the grammar finds the two above by their method, the delay decides
    _count = _risk = _count_tx

    def _seconds_since_previous(self) -> Value:
        return (self.t - self.earlier[-1].event_time_ms) / 1000 if self.earlier else None

    def _previous_position(self) -> Transaction | None:
        located = [x for x in self.earlier if _position(x)]
        return located[-1] if located else None

    def _km_from_previous(self) -> Value:
        here, previous = _position(self.tx), self._previous_position()
        there = None if previous is None else _position(previous)
        return None if here is None or there is None else distance_km(*there, *here)

    def _kmh_from_previous(self) -> Value:
        km, previous = self._km_from_previous(), self._previous_position()
        if km is None or previous is None:
            return None
        return km / (max(1_000, self.t - previous.event_time_ms) / HOUR_MS)

    def _count_tx_total(self) -> Value:
        return len(self.life) + 1

    def _mean_amount_total(self) -> Value:
        return float(_mean([x.amount_minor for x in [*self.life, self.tx]]))

    def _age_seconds(self) -> Value:
        return max(0.0, (self.t - min(x.event_time_ms for x in [*self.life, self.tx])) / 1000)

    def _first_seen_merchant(self) -> Value:
        """Over the whole life: of what has left the log, at least 64 merchants are remembered (tests here use fewer)."""
        earlier = [x for x in self.life if self.is_earlier(x) or x.event_time_ms <= self.horizon]
        return int(self.tx.merchant_id not in {x.merchant_id for x in earlier})

    def _first_seen_device(self) -> Value:
        return None if self.tx.device_id is None else int(self.tx.device_id not in {x.device_id for x in self.earlier})

    def _first_seen_country(self) -> Value:
        return None if self.tx.country is None else int(self.tx.country not in {x.country for x in self.earlier})
