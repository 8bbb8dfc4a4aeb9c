"""From a transaction and its entities' states to the feature vector.

``event_row`` turns a transaction into the integers that the kernel works on; ``Evaluator`` walks one event over its entities.
The same rows come out of a Kafka record, an HTTP request and a history file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE, EVENT_FEATURES, Catalogue
from fraud.currency import to_base_minor
from fraud.events import Kind, Transaction, hash64
from fraud.geo import MISSING, haversine_km, pack_country
from fraud.state import decode_state

__all__ = [
    "Evaluator",
    "all_event_features",
    "channel_flags",
    "evaluate_vector",
    "event_features",
    "event_row",
    "event_words",
    "tenant_hash",
]

_CARD_PRESENT = frozenset({"pos", "chip", "swipe", "contactless", "atm"})
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday


@lru_cache(maxsize=1 << 16)  # entities come again, and a hash costs seven times a look
def tenant_hash(tenant_id: str, entity_id: str | None) -> int:
    """Hash of an id within its tenant; 0 where there is none."""
    return 0 if entity_id is None else hash64(f"{tenant_id}|{entity_id}")


def channel_flags(channel: str | None) -> int:
    """Card-present channels are pos, chip, swipe, contactless and atm; any other named channel is remote."""
    if channel is None:
        return 0
    return k.FLAG_CARD_PRESENT if channel in _CARD_PRESENT else k.FLAG_CARD_NOT_PRESENT


def _e6(lat: float | None, lon: float | None) -> tuple[int, int]:
    """Both coordinates in millionths of a degree; missing together, and (0, 0) is missing."""
    if lat is None or lon is None or lat == 0.0 == lon:
        return MISSING, MISSING
    return round(lat * 1e6), round(lon * 1e6)


def event_row(tx: Transaction, row: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Write a transaction as the kernel's ``int64[EVENT_WORDS]``; raises InvalidEvent for an unknown currency."""
    if row is None:
        return np.array(event_words(tx), dtype=np.int64)
    row[:] = event_words(tx)
    return row


def event_words(tx: Transaction) -> tuple[int, ...]:
    """Return what stands in a transaction's row; a batch of them becomes an array in one call.  Raises InvalidEvent like it."""
    tenant = tx.tenant_id
    return (
        tx.event_time_ms,
        to_base_minor(tx.amount_minor, tx.currency),
        hash64(f"{tenant}|{tx.transaction_id}"),
        tenant_hash(tenant, tx.card_id),
        tenant_hash(tenant, tx.user_id),
        tenant_hash(tenant, tx.merchant_id),
        tenant_hash(tenant, tx.device_id),
        tenant_hash(tenant, tx.ip_hash),
        *_e6(tx.lat, tx.lon),
        pack_country(tx.country),
        MISSING if tx.merchant_mcc is None else tx.merchant_mcc,
        channel_flags(tx.channel) | (k.FLAG_DECLINED if tx.declined else 0),
        *_e6(tx.billing_lat, tx.billing_lon),
        *_e6(tx.ip_lat, tx.ip_lon),
        pack_country(tx.ip_country),
        pack_country(tx.card_country),
        pack_country(tx.merchant_country),
        MISSING if tx.card_age_days is None else tx.card_age_days,
    )


@njit("float64(int64, int64)", cache=True)
def _mismatch(country: int, other: int) -> float:
    if country == 0 or other == 0:
        return math.nan
    return 1.0 if country != other else 0.0


@njit("void(int64[::1], float64[::1])", cache=True)
def event_features(event: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    """Write the features of the event alone, in the order of ``EVENT_FEATURES``."""
    t, flags = event[k.E_T], event[k.E_FLAGS]
    hour = (t % _DAY_MS) // _HOUR_MS
    weekday = (t // _DAY_MS + _EPOCH_WEEKDAY) % 7
    out[0] = event[k.E_AMOUNT]
    out[1] = event[k.E_AMOUNT] / 100.0
    out[2] = hour
    out[3] = weekday
    out[4] = 1.0 if weekday >= 5 else 0.0
    out[5] = 1.0 if hour <= 6 else 0.0
    out[6] = 1.0 if flags & k.FLAG_DECLINED else 0.0
    out[7] = math.nan
    if flags & (k.FLAG_CARD_NOT_PRESENT | k.FLAG_CARD_PRESENT):
        out[7] = 1.0 if flags & k.FLAG_CARD_NOT_PRESENT else 0.0
    out[8] = math.nan if event[k.E_MCC] == MISSING else float(event[k.E_MCC])
    out[9] = math.nan if event[k.E_CARD_AGE] == MISSING else float(event[k.E_CARD_AGE])
    out[10] = _mismatch(event[k.E_IP_COUNTRY], event[k.E_CARD_COUNTRY])
    out[11] = _mismatch(event[k.E_MERCHANT_COUNTRY], event[k.E_CARD_COUNTRY])
    out[12] = _mismatch(event[k.E_COUNTRY], event[k.E_CARD_COUNTRY])
    out[13] = haversine_km(event[k.E_IP_LAT], event[k.E_IP_LON], event[k.E_BILL_LAT], event[k.E_BILL_LON])
    out[14] = math.nan if event[k.E_LAT] == MISSING else event[k.E_LAT] / 1e6
    out[15] = math.nan if event[k.E_LON] == MISSING else event[k.E_LON] / 1e6
    out[16] = haversine_km(event[k.E_LAT], event[k.E_LON], event[k.E_BILL_LAT], event[k.E_BILL_LON])


@njit("void(int64[:, ::1], float64[:, ::1])", cache=True, nogil=True)
def all_event_features(events: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    """Run :func:`event_features` over ``int64[N, EVENT_WORDS]`` into ``float64[N, F]``."""
    for i in range(events.shape[0]):
        event_features(events[i], out[i])


class Evaluator:
    """Evaluates events over entity states with one catalogue; owns its working memory, so one a thread."""

    def __init__(self, catalogue: Catalogue = CATALOGUE) -> None:
        self.catalogue = catalogue
        self._scratch = k.new_scratch()
        self._columns = catalogue.slices
        self._plans = catalogue.plans
        self._event_features = len(EVENT_FEATURES)

    def new_vector(self) -> NDArray[np.float64]:
        """Return ``float64[F]`` of missing values."""
        return np.full(self.catalogue.size, math.nan)

    def event(self, row: NDArray[np.int64], vector: NDArray[np.float64]) -> None:
        """Write the event's own features into ``vector``."""
        event_features(row, vector)

    def observe(self, kind: int, state: NDArray[np.int64], row: NDArray[np.int64], out: NDArray[np.float64]) -> NDArray[np.int64]:
        """Apply an event to one entity: writes the kind's features to ``out`` and returns the state to keep."""
        result: Any = k.observe(state, row, self._plans[kind], self._scratch, out, True)
        return result

    def peek(self, kind: int, state: NDArray[np.int64], row: NDArray[np.int64], out: NDArray[np.float64]) -> None:
        """Like :meth:`observe`, but leaves no trace."""
        k.observe(state, row, self._plans[kind], self._scratch, out, False)

    def label(self, kind: int, state: NDArray[np.int64], tx_time_ms: int, tx_hash: int, is_fraud: bool) -> NDArray[np.int64]:
        """Apply a label to one entity and return the state to keep."""
        result: Any = k.apply_label(state, self._plans[kind], tx_time_ms, tx_hash, is_fraud)
        return result

    def evaluate(self, row: NDArray[np.int64], states: Sequence[NDArray[np.int64] | None]) -> NDArray[np.float64]:
        """Return the full vector as of an event, over its entities' states in the order of ``Kind``; changes nothing.

        ``None`` is an entity that the event does not name: its features are missing.  An entity that nothing is known of
        yet has the empty state.
        """
        vector = self.new_vector()
        event_features(row, vector)
        for kind, state in enumerate(states):
            if state is not None:
                self.peek(kind, state, row, vector[self._columns[kind]])
        return vector


def evaluate_vector(tx: Transaction, states: Sequence[bytes | None], evaluator: Evaluator | None = None) -> NDArray[np.float64]:
    """Evaluate every feature of a transaction over encoded entity states (order of ``Kind``), leaving no trace.

    ``None`` where the online store holds nothing: the entity's features are evaluated over an empty log if the transaction
    names the entity, and are missing if it does not.
    """
    row = event_row(tx)
    named = (row[k.E_CARD], row[k.E_USER], row[k.E_MERCHANT], row[k.E_DEVICE], row[k.E_IP])
    decoded = [
        None if named[kind] == 0 else (k.empty_state() if state is None else decode_state(state, Kind(kind)))
        for kind, state in enumerate(states)
    ]
    return (evaluator or Evaluator()).evaluate(row, decoded)
