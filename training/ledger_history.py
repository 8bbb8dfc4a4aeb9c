"""The committed ledger as a history: events, labels, and the order in which the stream applied them.

Reads what :mod:`serving.ledger` yields and gives the arrays that :mod:`training.backfill` takes, with the features that the
stream recorded, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE
from fraud.errors import InvalidEvent
from fraud.events import KINDS, Kind
from serving import ledger
from serving.avro_columns import Columns
from serving.codec import Codec
from serving.column_decoder import ColumnDecoder
from training.backfill import EVENT_FIELDS, LabelTable, event_matrix, hashes, tenant_hashes

__all__ = ["IncompleteLedger", "LedgerHistory", "load"]

Ints = NDArray[np.int64]
_KIND = {name: i for i, name in enumerate(KINDS)}
_LABELLED = (Kind.CARD, Kind.USER, Kind.MERCHANT)
_POSITIONS = ("entities.kind", "entities.seq")
_TX = "transaction."
_DECISION_FIELDS = (
    *("decision_id", "tenant_id", "transaction_id", "event_time_ms", "catalogue_version", "outcome"),
    *_POSITIONS,
    *(f"{_TX}{name}" for name in EVENT_FIELDS),
)
_LABEL_FIELDS = ("tenant_id", "transaction_id", "is_fraud", "label_time_ms", "transaction_time_ms", *_POSITIONS, "entities.key")

_BATCH = 4_000  # values decoded at a time: 8 MB of decisions, which keeps the work between two waits in the milliseconds
_THREADS = 2
_MAX_WAITING = 8  # batches


class IncompleteLedger(ValueError):
    """An entity's entries do not number 1, 2, 3 …: retention has removed some, or the ledger is wrong."""


@dataclass(slots=True, frozen=True)
class LedgerHistory:
    """``frame`` has tenant_id, transaction_id, card_id, event_time_ms, catalogue_version and outcome of each decision; the arrays its rows.

    ``recorded`` is float64[N, F], ``event_seqs`` int64[N, 5] and ``label_seqs`` int64[M, 5] by ``Kind``, -1 where there is none.
    ``repeated`` counts records of a decision that an earlier record had already: duplicates in the ledger.
    """

    frame: pl.DataFrame
    events: Ints
    recorded: NDArray[np.float64]
    event_seqs: Ints
    labels: LabelTable
    label_seqs: Ints
    repeated: int

    def check_complete(self) -> None:
        """Raise IncompleteLedger unless every entity's numbers are 1, 2, 3 … without gap or repetition."""
        words = {Kind.CARD: k.E_CARD, Kind.USER: k.E_USER, Kind.MERCHANT: k.E_MERCHANT, Kind.DEVICE: k.E_DEVICE, Kind.IP: k.E_IP}
        for kind in Kind:
            owners, seqs = self.events[:, words[kind]], self.event_seqs[:, kind]
            if kind in _LABELLED:
                owners = np.concatenate([owners, self.labels.entities[:, _LABELLED.index(kind)]])
                seqs = np.concatenate([seqs, self.label_seqs[:, kind]])
            present = owners != 0
            _check_numbers(kind, owners[present], seqs[present])


def _check_numbers(kind: Kind, owners: Ints, seqs: Ints) -> None:
    order = np.lexsort((seqs, owners))
    owners, seqs = owners[order], seqs[order]
    first = np.ones(len(owners), dtype=np.bool_)
    first[1:] = owners[1:] != owners[:-1]
    expected = np.where(first, 1, np.concatenate([[0], seqs[:-1]]) + 1)
    wrong = int((seqs != expected).sum())
    if wrong:
        raise IncompleteLedger(f"{wrong} entries of {kind.name.lower()} logs do not continue their log's numbering")


def load(records: Iterable[tuple[str, bytes | None]], codec: Codec) -> LedgerHistory:
    """Build the history from (topic, value) pairs of the topics ``fraud-events`` and ``labels-applied``.

    Values are decoded by threads while the next ones are read.

    Raises:
        InvalidEvent: a value is no record of its topic.
    """
    decoders = {
        ledger.DECISIONS: ColumnDecoder(codec, "decision", _DECISION_FIELDS, {"features": CATALOGUE.size}),
        ledger.LABELS_APPLIED: ColumnDecoder(codec, "label_applied", _LABEL_FIELDS),
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
        decided, applied = ([part.result() for part in columns.pop(topic)] for topic in decoders)
    return _history(decided, Columns.concatenated([part.columns for part in applied]))


@dataclass(slots=True, frozen=True)
class _Part:
    """Records of one topic: their columns and, of decisions, the event rows ``int64[n, EVENT_WORDS]``."""

    columns: Columns
    events: Ints


def _part(decoder: ColumnDecoder, topic: str, values: list[bytes | None]) -> _Part:
    columns = decoder.decode(values)
    if topic != ledger.DECISIONS:
        return _Part(columns, np.empty((0, k.EVENT_WORDS), dtype=np.int64))
    return _Part(columns, event_matrix(columns.frame.select(pl.col(f"{_TX}{name}").alias(name) for name in EVENT_FIELDS)))


def _history(decided: list[_Part], applied: Columns) -> LedgerHistory:
    decisions = Columns.concatenated([part.columns for part in decided])
    events = np.concatenate([part.events for part in decided])
    read = decisions.frame.height
    seqs = _seqs(decisions)
    recorded = decisions.vectors["features"]
    first = decisions.frame["decision_id"].is_first_distinct()
    frame = decisions.frame
    if not first.all():
        frame, kept = frame.filter(first), first.to_numpy()
        seqs, recorded, events = seqs[kept], recorded[kept], np.ascontiguousarray(events[kept])
    # another version of the catalogue served these, and its columns mean something else
    recorded[(frame["catalogue_version"] != CATALOGUE.version).to_numpy()] = np.nan
    return LedgerHistory(
        frame=frame.select("tenant_id", "transaction_id", pl.col("transaction.card_id").alias("card_id"), "event_time_ms").with_columns(
            frame["catalogue_version"], frame["outcome"]
        ),
        events=events,
        recorded=recorded,
        event_seqs=seqs,
        labels=_labels(applied),
        label_seqs=_seqs(applied),
        repeated=read - frame.height,
    )


def _kinds(items: pl.DataFrame) -> Ints:
    kinds = items["kind"].replace_strict(_KIND, default=None, return_dtype=pl.Int64)
    if kinds.has_nulls():
        raise InvalidEvent("malformed", "an entity of a kind that we do not know")
    return kinds.to_numpy()


def _seqs(columns: Columns) -> Ints:
    items = columns.items["entities"]
    seqs = np.full((columns.frame.height, len(Kind)), -1, dtype=np.int64)
    seqs[items["row"].to_numpy(), _kinds(items)] = items["seq"].to_numpy()
    return seqs


def _labels(applied: Columns) -> LabelTable:
    frame, items = applied.frame, applied.items["entities"]
    facts = np.stack([frame["transaction_time_ms"], tenant_hashes(frame, "transaction_id"), frame["is_fraud"].cast(pl.Int64)], axis=1)
    kinds = _kinds(items)
    if len(kinds) and kinds.max() >= len(_LABELLED):
        raise InvalidEvent("malformed", "a label of an entity that holds none")
    entities = np.zeros((frame.height, len(_LABELLED)), dtype=np.int64)
    entities[items["row"].to_numpy(), kinds] = hashes(items["key"])
    return LabelTable(np.ascontiguousarray(facts, dtype=np.int64), frame["label_time_ms"].to_numpy(), entities)
