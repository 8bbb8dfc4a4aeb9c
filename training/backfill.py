"""Features over history: the kernel run over a file or the ledger, without Flink.

Two orders exist and are named.  *File order* takes each entity's events as they stand in the file and each label as soon as
the file's clock (the newest event time so far) reaches the label's time.  *Ledger order* takes each entity's events and labels
by the number (``seq``) that the stream recorded for them, which reproduces what the stream computed bit for bit.

This module must not know where a history comes from: it takes frames and arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE, Catalogue
from fraud.currency import to_base_minor_batch
from fraud.events import Kind
from fraud.geo import MISSING, pack_country
from fraud.hashing import hash64_many
from fraud.vector import all_event_features, channel_flags

__all__ = [
    "ENTITY_WORDS",
    "EVENT_FIELDS",
    "LABELLED",
    "Backfill",
    "Erasures",
    "LabelTable",
    "Served",
    "event_matrix",
    "file_order",
    "hashes",
    "label_table",
    "ledger_order",
    "run",
    "tenant_hashes",
]

Ints = NDArray[np.int64]
_SHARES = 8  # of a kind: no thread waits long for another that has the largest merchants
# the word of an event row that holds the hash of each entity
ENTITY_WORDS = {Kind.CARD: k.E_CARD, Kind.USER: k.E_USER, Kind.MERCHANT: k.E_MERCHANT, Kind.DEVICE: k.E_DEVICE, Kind.IP: k.E_IP}
# kinds whose logs labels enter, in the order of LabelTable.entities
LABELLED = (Kind.CARD, Kind.USER, Kind.MERCHANT)
# what event_matrix reads of a transaction
EVENT_FIELDS = (
    *("tenant_id", "transaction_id", "card_id", "user_id", "merchant_id", "device_id", "ip_hash", "event_time_ms", "amount_minor"),
    *("currency", "lat", "lon", "billing_lat", "billing_lon", "ip_lat", "ip_lon", "country", "ip_country", "card_country"),
    *("merchant_country", "merchant_mcc", "card_age_days", "declined", "channel"),
)


@dataclass(slots=True, frozen=True)
class LabelTable:
    """Labels in order of arrival: ``facts`` is ``int64[M, 3]`` (transaction time, transaction hash, fraud).

    ``time_ms`` is when each became known, ``entities`` the hashes of its card, user and merchant (``int64[M, 3]``, 0 = none).
    """

    facts: Ints
    time_ms: Ints
    entities: Ints


@dataclass(slots=True, frozen=True)
class Erasures:
    """Entities that were erased, int64[E] each: kind, hash, and number of the erasure in the entity's log."""

    kinds: Ints
    entities: Ints
    seqs: Ints

    def of(self, kind: Kind) -> tuple[Ints, Ints]:
        """Hashes and numbers of one kind."""
        mine = self.kinds == kind
        return self.entities[mine], self.seqs[mine]


@dataclass(slots=True, frozen=True)
class Backfill:
    """Result: ``features`` float64[N, F]; ``seqs`` int64[N, 5] and ``label_seqs`` int64[M, 5] by ``Kind``, -1 where there is none."""

    features: NDArray[np.float64]
    seqs: Ints
    label_seqs: Ints


def _mapped(values: pl.Series, function: Callable[[str], int], missing: int) -> Ints:
    """Apply ``function`` once to each distinct value; ``missing`` for null."""
    distinct = values.unique().drop_nulls()
    table = pl.DataFrame(
        {"value": distinct, "mapped": np.fromiter((function(v) for v in distinct.to_list()), dtype=np.int64, count=len(distinct))}
    )
    joined = pl.DataFrame({"value": values}).join(table, on="value", how="left", maintain_order="left")["mapped"]
    return joined.fill_null(missing).to_numpy().astype(np.int64, copy=False)


def tenant_hashes(frame: pl.DataFrame, column: str) -> Ints:
    """Hash of each id within its tenant (:func:`fraud.vector.tenant_hash`); 0 where there is none."""
    return hashes(frame.select(pl.concat_str("tenant_id", column, separator="|").alias("id"))["id"])


def hashes(texts: pl.Series) -> Ints:
    """``fraud.events.hash64`` of each text; 0 for null."""
    array = texts.rechunk().to_arrow().cast(pa.large_string())
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)
    # copies: the compiled signature takes writable memory
    text_bytes = np.frombuffer(data, dtype=np.uint8).copy() if data is not None and data.size else np.empty(0, dtype=np.uint8)
    found = hash64_many(text_bytes, starts.copy())
    if array.null_count:
        found[texts.is_null().to_numpy()] = 0
    return cast(Ints, found)


def _e6(frame: pl.DataFrame, lat: str, lon: str) -> tuple[Ints, Ints]:
    """Both coordinates in millionths of a degree; missing together, and (0, 0) is missing."""
    pair = [frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in (lat, lon)]
    missing = np.isnan(pair[0]) | np.isnan(pair[1]) | ((pair[0] == 0.0) & (pair[1] == 0.0))
    scaled = [np.where(missing, MISSING, np.rint(np.where(missing, 0.0, degrees) * 1e6).astype(np.int64)) for degrees in pair]
    return scaled[0], scaled[1]


def _integers(series: pl.Series) -> Ints:
    return series.cast(pl.Int64).fill_null(MISSING).to_numpy().astype(np.int64, copy=False)


def event_matrix(frame: pl.DataFrame) -> Ints:
    """Return ``int64[N, EVENT_WORDS]``: the rows of :func:`fraud.vector.event_row` for a frame of canonical, enriched columns."""
    matrix = np.empty((frame.height, k.EVENT_WORDS), dtype=np.int64)
    matrix[:, k.E_T] = frame["event_time_ms"].to_numpy()
    matrix[:, k.E_AMOUNT] = to_base_minor_batch(frame["amount_minor"].to_numpy(), frame["currency"].to_numpy())
    for word, column in (
        (k.E_TX, "transaction_id"),
        (k.E_CARD, "card_id"),
        (k.E_USER, "user_id"),
        (k.E_MERCHANT, "merchant_id"),
        (k.E_DEVICE, "device_id"),
        (k.E_IP, "ip_hash"),
    ):
        matrix[:, word] = tenant_hashes(frame, column)
    matrix[:, k.E_LAT], matrix[:, k.E_LON] = _e6(frame, "lat", "lon")
    matrix[:, k.E_BILL_LAT], matrix[:, k.E_BILL_LON] = _e6(frame, "billing_lat", "billing_lon")
    matrix[:, k.E_IP_LAT], matrix[:, k.E_IP_LON] = _e6(frame, "ip_lat", "ip_lon")
    for word, column in (
        (k.E_COUNTRY, "country"),
        (k.E_IP_COUNTRY, "ip_country"),
        (k.E_CARD_COUNTRY, "card_country"),
        (k.E_MERCHANT_COUNTRY, "merchant_country"),
    ):
        matrix[:, word] = _mapped(frame[column], pack_country, 0)
    matrix[:, k.E_MCC] = _integers(frame["merchant_mcc"])
    matrix[:, k.E_CARD_AGE] = _integers(frame["card_age_days"])
    declined = frame["declined"].cast(pl.Int64).fill_null(0).to_numpy() * k.FLAG_DECLINED
    matrix[:, k.E_FLAGS] = _mapped(frame["channel"], channel_flags, 0) | declined
    return matrix


def label_table(frame: pl.DataFrame) -> LabelTable:
    """Turn a frame of :class:`fraud.events.Label` columns, in order of arrival, into arrays."""
    facts = np.empty((frame.height, 3), dtype=np.int64)
    facts[:, 0] = frame["transaction_time_ms"].to_numpy()
    facts[:, 1] = tenant_hashes(frame, "transaction_id")
    facts[:, 2] = frame["is_fraud"].cast(pl.Int64).to_numpy()
    entities = np.stack([tenant_hashes(frame, column) for column in ("card_id", "user_id", "merchant_id")], axis=1)
    return LabelTable(facts, frame["label_time_ms"].to_numpy().astype(np.int64), entities)


def no_labels() -> LabelTable:
    """The empty table."""
    return LabelTable(np.empty((0, 3), np.int64), np.empty(0, np.int64), np.empty((0, 3), np.int64))


def file_order(events: Ints, labels: LabelTable) -> Callable[[Kind], tuple[Ints, Ints]]:
    """Order keys (events, labels) of a kind: events as they stand, a label before the first event of its time or later."""
    clock = np.maximum.accumulate(events[:, k.E_T]) if len(events) else events[:, k.E_T]
    event_keys = 2 * np.arange(len(events), dtype=np.int64) + 1
    label_keys = 2 * np.searchsorted(clock, labels.time_ms, side="left").astype(np.int64)
    return lambda _kind: (event_keys, label_keys)


def ledger_order(event_seqs: Ints, label_seqs: Ints) -> Callable[[Kind], tuple[Ints, Ints]]:
    """Order keys from recorded numbers, ``int64[N, 5]`` and ``int64[M, 5]`` by ``Kind``."""
    return lambda kind: (2 * event_seqs[:, kind], 2 * label_seqs[:, kind])


@dataclass(slots=True, frozen=True)
class Served:
    """Events that were answered before the stream applied them: ``rows`` of them, and after which number of each log, ``int64[P, 5]``.

    -1 is a log that could not be read: the features of its kind are missing.
    """

    rows: Ints
    seqs: Ints


_NOTHING_ERASED = Erasures(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
_NOTHING_SERVED = Served(np.empty(0, np.int64), np.empty((0, len(Kind)), np.int64))


def _items(entity: Ints, label_entity: Ints, event_keys: Ints, label_keys: Ints, erased: tuple[Ints, Ints]) -> tuple[Ints, Ints, Ints]:
    """Histories of one kind as the kernel's ``replay`` takes them: (items, starts), and the number after which each item's begins.

    An erasure ends its entity's history, and what follows is the history of an entity that nothing was known of.
    """
    events, labels = np.flatnonzero(entity), np.flatnonzero(label_entity)
    erased_entity, erased_seqs = erased
    owner = np.concatenate([erased_entity, label_entity[labels], entity[events]])
    keys = np.concatenate([2 * erased_seqs, label_keys[labels], event_keys[events]])
    order = np.lexsort((keys, owner))  # stable: labels first among equals
    items = np.concatenate([np.zeros_like(erased_seqs), -1 - labels, events])[order]
    is_erasure, owner = order < len(erased_seqs), owner[order]
    kept = ~is_erasure
    # how many erasures stand before each item, whoever's they are: what tells an entity's histories apart
    before = np.cumsum(is_erasure)[kept]
    items, owner = items[kept], owner[kept]
    is_first = (
        np.concatenate([[True], (owner[1:] != owner[:-1]) | (before[1:] != before[:-1])]) if len(items) else np.empty(0, dtype=np.bool_)
    )
    last_owner, last_seq = (np.concatenate([[0], of[order[is_erasure]]]) for of in (erased_entity, erased_seqs))
    base = np.where(last_owner[before] == owner, last_seq[before], 0)
    return items, np.concatenate([np.flatnonzero(is_first), [len(items)]]).astype(np.int64), base


def run(
    events: Ints,
    labels: LabelTable,
    order: Callable[[Kind], tuple[Ints, Ints]],
    *,
    catalogue: Catalogue = CATALOGUE,
    kinds: Sequence[Kind] = tuple(Kind),
    served: Served = _NOTHING_SERVED,
    erasures: Erasures = _NOTHING_ERASED,
    threads: int = 2,
) -> Backfill:
    """Compute every feature of every event.

    Args:
        events: ``int64[N, EVENT_WORDS]`` without duplicates.
        labels: what became known.
        order: from :func:`file_order` or :func:`ledger_order`.
        catalogue: features to compute.
        kinds: entities to run; the columns of the others stay missing.
        served: of these events the features are those after the given numbers of their logs; with :func:`ledger_order` alone.
        erasures: where logs begin anew; with :func:`ledger_order` alone.
        threads: histories run side by side, outside the interpreter's lock.
    """
    count = len(events)
    rows = np.concatenate([events, events[served.rows]]) if len(served.rows) else events
    features = np.empty((len(rows), catalogue.size))
    seqs = np.full((len(Kind), count), -1, dtype=np.int64)
    label_seqs = np.full((len(Kind), len(labels.facts)), -1, dtype=np.int64)

    def begin(part: slice) -> None:
        features[part] = np.nan
        all_event_features(rows[part], features[part])

    def histories(kind: Kind) -> tuple[Ints, Ints, Ints]:
        label_entity = labels.entities[:, LABELLED.index(kind)] if kind in LABELLED else np.zeros(len(labels.facts), np.int64)
        event_keys, label_keys = order(kind)
        keys = np.concatenate([event_keys, 2 * served.seqs[:, kind] + 1])
        entity = rows[:, ENTITY_WORDS[kind]].copy()
        entity[count:][served.seqs[:, kind] < 0] = 0
        return _items(entity, label_entity, keys, label_keys, erasures.of(kind))

    def replay(kind: Kind, items: Ints, starts: Ints) -> None:
        column = catalogue.slices[kind].start
        plan = catalogue.plans[kind]
        k.replay(rows, labels.facts, items, starts, plan, k.new_scratch(), column, features, seqs[kind], label_seqs[kind])

    with ThreadPoolExecutor(threads) as pool:
        bounds = np.linspace(0, len(rows), _SHARES + 1).astype(int).tolist()
        list(pool.map(begin, [slice(*ends) for ends in pairwise(bounds)]))
        of_kind = dict(zip(kinds, pool.map(histories, kinds), strict=True))
        shares = [(kind, items, share) for kind, (items, starts, _) in of_kind.items() for share in _shares(starts)]
        list(pool.map(lambda share: replay(*share), shares))
    if len(erasures.seqs):
        for kind, (items, _, base) in of_kind.items():
            is_event, is_label = (items >= 0) & (items < count), items < 0
            seqs[kind, items[is_event]] += base[is_event]
            label_seqs[kind, -1 - items[is_label]] += base[is_label]
    features[served.rows] = features[count:]
    return Backfill(features[:count], seqs.T, label_seqs.T)


def _shares(starts: Ints) -> list[Ints]:
    """Parts of ``starts`` for threads to take one after the other: each has whole histories, and about as many items as the others."""
    bounds = np.searchsorted(starts, np.linspace(0, starts[-1], _SHARES + 1)).tolist()
    return [starts[begin : end + 1] for begin, end in pairwise(bounds) if end > begin]


def first_occurrences(events: Ints) -> NDArray[np.bool_]:
    """Mark the events that are not repetitions of an earlier one: same card, same transaction."""
    order = np.lexsort((np.arange(len(events)), events[:, k.E_TX], events[:, k.E_CARD]))
    sorted_ids = events[order][:, [k.E_CARD, k.E_TX]]
    first = np.ones(len(events), dtype=np.bool_)
    first[order[1:]] = (sorted_ids[1:] != sorted_ids[:-1]).any(axis=1)
    return first
