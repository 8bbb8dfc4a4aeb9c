"""The committed ledger as a history: events, labels, and the order in which the stream applied them.

Reads what :mod:`serving.ledger` yields and gives the arrays that :mod:`training.backfill` takes, with the features that the
stream recorded, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE, Catalogue
from fraud.errors import InvalidEvent
from fraud.events import KINDS, Kind
from serving import ledger
from serving.avro_columns import Columns
from serving.codec import Codec
from serving.column_decoder import ColumnDecoder
from training.backfill import (
    ENTITY_WORDS,
    EVENT_FIELDS,
    LABELLED,
    Backfill,
    Erasures,
    LabelTable,
    Served,
    event_matrix,
    hashes,
    ledger_order,
    run,
    tenant_hashes,
)
from training.parity import bits_differ

__all__ = ["LEDGER_TOPICS", "IncompleteLedger", "LedgerHistory", "load"]

LEDGER_TOPICS = (ledger.DECISIONS, ledger.LABELS_APPLIED, ledger.ERASURES_APPLIED)
Ints = NDArray[np.int64]
_KIND = {name: i for i, name in enumerate(KINDS)}
_POSITIONS = ("entities.kind", "entities.seq")
_SERVED_AT = ("served_at.kind", "served_at.seq")
_API = "api"
_TX = "transaction."
_DECISION_FIELDS = (
    *("decision_id", "tenant_id", "transaction_id", "event_time_ms", "catalogue_version", "outcome", "door"),
    *_POSITIONS,
    *_SERVED_AT,
    *(f"{_TX}{name}" for name in EVENT_FIELDS),
)
_ERASURE_FIELDS = ("kind", "key", "seq")
_LABEL_FIELDS = ("tenant_id", "transaction_id", "is_fraud", "label_time_ms", "transaction_time_ms", *_POSITIONS, "entities.key")

_BATCH = 10_000  # values decoded at a time: 20 MB of decisions; what a batch costs beside its values is a tenth of the work then
_THREADS = 2
_MAX_WAITING = 4  # batches


class IncompleteLedger(ValueError):
    """An entity's entries do not number 1, 2, 3 …: retention or an erasure from the lake has removed some, or the record is wrong."""


@dataclass(slots=True, frozen=True)
class LedgerHistory:
    """``frame`` has tenant_id, transaction_id, card_id, event_time_ms, catalogue_version and outcome of each decision; the arrays its rows.

    ``event_seqs`` is int64[N, 5] and ``label_seqs`` int64[M, 5] by ``Kind``, -1 where there is none.  ``served`` has the features as
    they were served, float64[n, F] a part of the ledger, one part after the other.  ``repeated`` counts records of a decision that an
    earlier record had already: duplicates in the ledger.

    What the API has answered was served before the stream applied the event: ``early`` says after which numbers of its logs, where
    that was not right before it; ``blind`` marks answers of which no state was read, so that their features cannot be computed again.
    ``also`` has what else was asked for of each decision, by the rows of ``frame``.
    """

    frame: pl.DataFrame
    events: Ints
    served: Sequence[NDArray[np.float64]]
    event_seqs: Ints
    labels: LabelTable
    label_seqs: Ints
    repeated: int
    early: Served
    erasures: Erasures
    blind: NDArray[np.bool_]
    also: Columns

    @property
    def recorded(self) -> NDArray[np.float64]:
        """The features as they were served, float64[N, F], in one piece: a copy of most of the ledger."""
        return np.concatenate(self.served)

    def differing(self, features: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which decisions have other features than float64[N, F], by their bits; none that is not :attr:`comparable`."""
        again = np.split(features, np.cumsum([len(part) for part in self.served[:-1]]))
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(lambda mine, part: bits_differ(mine, part).any(axis=1), again, self.served))
        differs: NDArray[np.bool_] = np.concatenate(parts) & self.comparable
        return differs

    @property
    def of_this_catalogue(self) -> NDArray[np.bool_]:
        """Which decisions were served by the catalogue of today."""
        mask: NDArray[np.bool_] = (self.frame["catalogue_version"] == CATALOGUE.version).to_numpy()
        return mask

    @property
    def comparable(self) -> NDArray[np.bool_]:
        """Which decisions' features can be computed again: by today's catalogue, from states that were read."""
        return self.of_this_catalogue & ~self.blind

    def recompute(self, catalogue: Catalogue = CATALOGUE, kinds: Sequence[Kind] = tuple(Kind)) -> Backfill:
        """The features of every decision, in the recorded order and as of the recorded numbers; columns of other ``kinds`` stay missing."""
        order = ledger_order(self.event_seqs, self.label_seqs)
        return run(self.events, self.labels, order, catalogue=catalogue, kinds=kinds, served=self.early, erasures=self.erasures)

    def breaks(self) -> dict[Kind, int]:
        """Of each kind with any, how many numbers do not continue their log's 1, 2, 3 …: gaps and repetitions."""
        with ThreadPoolExecutor(_THREADS) as pool:
            counts = dict(zip(Kind, pool.map(self._breaks_of, Kind), strict=True))
        return {kind: count for kind, count in counts.items() if count}

    def _breaks_of(self, kind: Kind) -> int:
        owners, seqs = self.events[:, ENTITY_WORDS[kind]], self.event_seqs[:, kind]
        if kind in LABELLED:
            owners = np.concatenate([owners, self.labels.entities[:, LABELLED.index(kind)]])
            seqs = np.concatenate([seqs, self.label_seqs[:, kind]])
        erased, erased_at = self.erasures.of(kind)
        owners, seqs = np.concatenate([owners, erased]), np.concatenate([seqs, erased_at])
        present = owners != 0
        return _count_breaks(owners[present], seqs[present])

    def check_complete(self) -> None:
        """Raise IncompleteLedger unless every entity's numbers are 1, 2, 3 … without gap or repetition."""
        if breaks := self.breaks():
            found = ", ".join(f"{count} entries of {kind.name.lower()} logs" for kind, count in breaks.items())
            raise IncompleteLedger(f"{found} do not continue their log's numbering: some are kept no longer, or were erased")


def _count_breaks(owners: Ints, seqs: Ints) -> int:
    order = np.lexsort((seqs, owners))
    owners, seqs = owners[order], seqs[order]
    first = np.ones(len(owners), dtype=np.bool_)
    first[1:] = owners[1:] != owners[:-1]
    expected = np.where(first, 1, np.concatenate([[0], seqs])[: len(seqs)] + 1)
    return int((seqs != expected).sum())


def load(records: Iterable[tuple[str, bytes | None]], codec: Codec, also: Sequence[str] = ()) -> LedgerHistory:
    """Build the history from (topic, value) pairs of the topics ``LEDGER_TOPICS``; pairs of others are passed over.

    Values are decoded by threads while the next ones are read.  ``also`` names further fields of a decision (see
    :class:`serving.avro_columns.ColumnReader`).

    Raises:
        InvalidEvent: a value is no record of its topic.
    """
    decoders = {
        ledger.DECISIONS: ColumnDecoder(codec, "decision", list(dict.fromkeys((*_DECISION_FIELDS, *also))), {"features": CATALOGUE.size}),
        ledger.LABELS_APPLIED: ColumnDecoder(codec, "label_applied", _LABEL_FIELDS),
        ledger.ERASURES_APPLIED: ColumnDecoder(codec, "erasure_applied", _ERASURE_FIELDS),
    }
    waiting: dict[str, list[bytes | None]] = {topic: [] for topic in decoders}
    with ThreadPoolExecutor(_THREADS) as pool:
        columns: dict[str, list[Future[_Part]]] = {topic: [] for topic in decoders}
        for topic, value in records:
            batch = waiting.get(topic)
            if batch is None:
                continue
            batch.append(value)
            if len(batch) == _BATCH:
                columns[topic].append(pool.submit(_part, decoders[topic], topic, batch))
                waiting[topic] = []
                if len(columns[topic]) > _MAX_WAITING:
                    columns[topic][-_MAX_WAITING].result()  # reading is ahead of decoding: values must not pile up
        for topic, batch in waiting.items():
            columns[topic].append(pool.submit(_part, decoders[topic], topic, batch))
        decided, applied, erased = ([part.result() for part in columns.pop(topic)] for topic in decoders)
    labels, erasures = (Columns.concatenated([part.columns for part in parts]) for parts in (applied, erased))
    return _history(decided, labels, erasures, also)


@dataclass(slots=True, frozen=True)
class _Part:
    """Records of one topic: their columns and, of decisions, event rows ``int64[n, EVENT_WORDS]`` and features ``float64[n, F]``.

    ``seqs`` and ``served_seqs`` are int64[n, 5] by ``Kind``: where a decision stands in its logs, and after what it was served.
    """

    columns: Columns
    events: Ints
    features: NDArray[np.float64]
    seqs: Ints
    served_seqs: Ints


def _part(decoder: ColumnDecoder, topic: str, values: list[bytes | None]) -> _Part:
    columns = decoder.decode(values)
    if topic != ledger.DECISIONS:
        none = np.empty((0, len(Kind)), dtype=np.int64)
        return _Part(columns, np.empty((0, k.EVENT_WORDS), dtype=np.int64), np.empty((0, CATALOGUE.size)), none, none)
    events = event_matrix(columns.frame.select(pl.col(f"{_TX}{name}").alias(name) for name in EVENT_FIELDS))
    features = columns.vectors["features"]
    # another version of the catalogue served these, and its columns mean something else
    features[(columns.frame["catalogue_version"] != CATALOGUE.version).to_numpy()] = np.nan
    items = {name: table for name, table in columns.items.items() if f"{name}.seq" not in (*_POSITIONS, *_SERVED_AT)}
    seqs, served_seqs = _seqs(columns, "entities"), _seqs(columns, "served_at")
    return _Part(replace(columns, items=items, vectors={}), events, features, seqs, served_seqs)


def _history(decided: list[_Part], applied: Columns, erased: Columns, also: Sequence[str]) -> LedgerHistory:
    decisions = Columns.concatenated([part.columns for part in decided])
    events = np.concatenate([part.events for part in decided])
    seqs, served_seqs = np.concatenate([part.seqs for part in decided]), np.concatenate([part.served_seqs for part in decided])
    served = [part.features for part in decided]
    frame, items = decisions.frame, decisions.items
    read = frame.height
    first = frame["decision_id"].is_first_distinct()
    if not first.all():
        frame, kept = frame.filter(first), first.to_numpy()
        items = {name: _items_of(table, kept) for name, table in items.items()}
        seqs, served_seqs, events = seqs[kept], served_seqs[kept], np.ascontiguousarray(events[kept])
        kept_of_part = np.split(kept, np.cumsum([len(part) for part in served[:-1]]))
        served = [part[mine] for part, mine in zip(served, kept_of_part, strict=True)]
    answered = (frame["door"] == _API).to_numpy()
    blind = answered & (served_seqs < 0).all(axis=1)
    early = np.flatnonzero(answered & ~blind & (served_seqs != np.where(seqs < 0, -1, seqs - 1)).any(axis=1))
    return LedgerHistory(
        frame=frame.select("tenant_id", "transaction_id", pl.col("transaction.card_id").alias("card_id"), "event_time_ms").with_columns(
            frame["catalogue_version"], frame["outcome"]
        ),
        events=events,
        served=served,
        event_seqs=seqs,
        labels=_labels(applied),
        label_seqs=_seqs(applied, "entities"),
        repeated=read - frame.height,
        early=Served(early, served_seqs[early]),
        erasures=Erasures(_kinds(erased.frame), hashes(erased.frame["key"]), erased.frame["seq"].to_numpy()),
        blind=blind,
        also=Columns(frame.select(name for name in also if name in frame.columns), items),
    )


def _items_of(table: pl.DataFrame, kept: NDArray[np.bool_]) -> pl.DataFrame:
    """Items of the kept records, by the rows that these have now."""
    rows = table["row"].to_numpy()
    return table.filter(pl.Series(kept[rows])).with_columns(pl.Series("row", (np.cumsum(kept) - 1)[rows[kept[rows]]]))


def _kinds(items: pl.DataFrame) -> Ints:
    kinds = items["kind"].replace_strict(_KIND, default=None, return_dtype=pl.Int64)
    if kinds.has_nulls():
        raise InvalidEvent("malformed", "an entity of a kind that we do not know")
    return kinds.to_numpy()


def _seqs(columns: Columns, positions: str) -> Ints:
    items = columns.items[positions]
    seqs = np.full((columns.frame.height, len(Kind)), -1, dtype=np.int64)
    seqs[items["row"].to_numpy(), _kinds(items)] = items["seq"].to_numpy()
    return seqs


def _labels(applied: Columns) -> LabelTable:
    frame, items = applied.frame, applied.items["entities"]
    facts = np.stack([frame["transaction_time_ms"], tenant_hashes(frame, "transaction_id"), frame["is_fraud"].cast(pl.Int64)], axis=1)
    kinds = _kinds(items)
    if len(kinds) and kinds.max() >= len(LABELLED):
        raise InvalidEvent("malformed", "a label of an entity that holds none")
    entities = np.zeros((frame.height, len(LABELLED)), dtype=np.int64)
    entities[items["row"].to_numpy(), kinds] = hashes(items["key"])
    return LabelTable(np.ascontiguousarray(facts, dtype=np.int64), frame["label_time_ms"].to_numpy(), entities)
