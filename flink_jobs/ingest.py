"""First operator: records in, valid events applied to their cards, everything else to the dead letters.

For each record of a batch, in order: decode, validate, enrich, drop duplicates, apply to the card's log; then one observation
part for each shard that owns other entities of the batch, and the home part for ``infer``.

A rule set or a model passes through to ``infer`` between two batches: what a rule set asks for beyond the catalogue is computed
from the very batch on from which it is in force.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flink_jobs.cores import ByteMap, Part, Record
from flink_jobs.entities import EntityLogs
from flink_jobs.handover import Handover
from flink_jobs.packing import (
    ControlPart,
    Entry,
    HomePart,
    Item,
    ItemKind,
    ObservationPart,
    PartHeader,
    join_home,
    pack_names,
    unpack_names,
)
from flink_jobs.progress import Progress
from flink_jobs.refusals import RefusalLimits, Refusals
from fraud import kernel as k
from fraud.catalogue import EVENT_FEATURES, Catalogue
from fraud.errors import InvalidEvent
from fraud.events import KINDS, Kind, Label, Transaction, decision_id, entities_of, entity_key, hash64
from fraud.extra import ExtraFeatures
from fraud.rules import InvalidRules
from fraud.vector import all_event_features, event_words
from serving import ledger
from serving.challengers import features_asked_by
from serving.codec import Codec
from serving.dead_letters import storable_key, storable_other, storable_transaction
from serving.enrich import Enricher
from serving.logs import DecisionLog
from serving.records import DeadLetter, Erasure
from serving.stream_metrics import StreamMetrics
from serving.validate import Validator

__all__ = ["CONTROL", "Ingest", "shard_of"]

MAPS = ("cards",)
_CARD = int(Kind.CARD)  # compiled code takes 30 us to find out what a member of an enumeration is
_PROGRESS, _REFUSALS = "progress", "refusals"  # beside the cards in their map: one write a batch
_EXTRA = "extra"  # beside them too: names of the features that the rule set in force asks for
CONTROL = (ledger.RULES, "models")  # topics of what comes into force


@lru_cache(maxsize=1 << 16)  # entities come again
def shard_of(kind: int, key: str, shards: int) -> int:
    """Shard that owns an entity other than a card."""
    return zlib.crc32(f"{KINDS[kind]}|{key}".encode()) % shards


class _Observation(NamedTuple):
    item: int
    kind: int
    key: str
    row: int
    entry: Entry


class _Accepted(NamedTuple):
    """A transaction that may be scored, its encoding without the raw address, and what stands in its event row."""

    tx: Transaction
    body: bytes
    words: tuple[int, ...]


@dataclass(slots=True)
class _Batch:
    """What is being made of the records of a batch."""

    progress: Progress
    items: list[Item]
    observations: list[_Observation]
    rows: list[NDArray[np.int64]]


class Ingest:
    """Core of the first operator; one a subtask.

    Args:
        codec: decodes records, encodes dead letters.
        validator: refuses what cannot be scored.
        enricher: replaces the raw address by its hash and location.
        logs: the cards' logs.
        catalogue: layout of the vector.
        handover: to an ``infer`` of the same process.
        shards: number of shards of the job.
        out_of_orderness_ms: how far behind its partition an event may come before it counts as late.
        idle_ms: silence after which a partition no longer holds back the watermark.
        refusals: how many records may be refused before the job stops; None: any number.
        now_ms: wall clock, for the limit on events from the future.
        metrics: what came in and what was refused.
    """

    def __init__(
        self,
        codec: Codec,
        validator: Validator,
        enricher: Enricher,
        logs: EntityLogs,
        catalogue: Catalogue,
        handover: Handover,
        *,
        shards: int,
        out_of_orderness_ms: int,
        idle_ms: int,
        refusals: RefusalLimits | None,
        now_ms: Callable[[], int],
        metrics: StreamMetrics,
    ) -> None:
        self._codec = codec
        self._validator = validator
        self._enricher = enricher
        self._logs = logs
        self._handover = handover
        self._shards = shards
        self._out_of_orderness_ms = out_of_orderness_ms
        self._idle_ms = idle_ms
        self._limits = refusals
        self._now_ms = now_ms
        self._metrics = metrics
        self._log = DecisionLog()
        self._progress: dict[int, Progress] = {}
        self._refusals: dict[int, Refusals] = {}
        # number of each shard's last batch; counted anew by every attempt of the job, see ``infer``
        self._batches: dict[int, int] = {}
        self._extra: dict[int, ExtraFeatures | None] = {}
        card = catalogue.slices[Kind.CARD]
        self._own = len(EVENT_FEATURES)
        self._width = card.stop

    def close(self) -> None:
        """Release what the core holds."""
        self._logs.close()

    def own(self, shards: list[int]) -> None:
        """See ``EntityLogs.own``; called once, before anything else."""
        self._logs.own(shards)

    def heal(self, shard: int, maps: Mapping[str, ByteMap]) -> int:
        """See ``EntityLogs.heal``."""
        return self._logs.heal(shard, maps["cards"])

    def process(self, shard: int, records: Sequence[Record], maps: Mapping[str, ByteMap]) -> list[Part]:
        """Turn a batch of records into the parts that its entities' shards and ``infer`` need; raises TooManyRefused."""
        cards = maps["cards"]
        if records and records[0].source in CONTROL:
            return [self._control(shard, record, cards) for record in records]
        self._metrics.batch(len(records))
        batch = _Batch(self._progress_of(shard, cards), [], [], [])
        # first what concerns each record alone, then, in order, what concerns the logs
        judged = [self._judge(record) for record in records]
        refusals = self._refusals_of(shard, cards)
        refusals.add([one.code if isinstance(one, InvalidEvent) else None for one in judged])
        extra = self._extra_of(shard, cards)
        width = self._width if extra is None else self._width + extra.width(_CARD)
        rows, vectors = self._event_features([one for one in judged if isinstance(one, _Accepted)], width)
        at = 0
        for record, one in zip(records, judged, strict=True):
            if isinstance(one, _Accepted):
                self._transaction(record, one, rows[at], vectors[at], cards, batch, extra)
                at += 1
            elif isinstance(one, Label):
                self._label(record, one, cards, batch)
            elif isinstance(one, Erasure):
                self._erasure(record, one, cards, batch)
            else:
                self._metrics.dead_letters(record.source, one.code)
                self._log.dead_letter(record.source, record.partition, record.offset, one.code)
                batch.items.append(Item(ItemKind.DEAD_LETTER, self._dead_letter(record, one), timestamp_ms=record.timestamp_ms))
        self._logs.commit(cards, **{_PROGRESS: batch.progress.pack(), _REFUSALS: refusals.pack()})
        if not batch.items:
            return []
        number = self._batches[shard] = self._batches.get(shard, 0) + 1
        return self._parts(shard, number, batch, () if extra is None else extra.names)

    def _control(self, shard: int, record: Record, cards: ByteMap) -> Part:
        """Pass on what comes into force with the next batch."""
        if record.source == ledger.RULES:
            names = self._asked_by(record.value)
            if names is not None:
                cards.put(_EXTRA, pack_names(names))
                self._extra[shard] = ExtraFeatures(names) if names else None
        header = PartHeader(shard, self._batches.get(shard, 0) + 1, 0, 0)
        return Part(shard, ControlPart(header, record.source, record.value).pack())

    def _asked_by(self, value: bytes | None) -> tuple[str, ...] | None:
        """Features beyond the catalogue that rules in force and tried ask for; None for a record that ``infer`` will refuse as well."""
        try:
            return features_asked_by(self._codec.decode_rule(value))
        except (InvalidEvent, InvalidRules):
            return None

    def _extra_of(self, shard: int, cards: ByteMap) -> ExtraFeatures | None:
        if shard not in self._extra:
            names = unpack_names(cards.get(_EXTRA) or b"")
            self._extra[shard] = ExtraFeatures(names) if names else None
        return self._extra[shard]

    def _judge(self, record: Record) -> _Accepted | Label | Erasure | InvalidEvent:
        try:
            if record.source == ledger.ERASURES:
                erasure = self._codec.decode_erasure(record.value)
                self._validator.check_erasure(erasure, record.key)
                return erasure
            if record.source == ledger.LABELS:
                label = self._codec.decode_label(record.value)
                self._validator.check_label(label, record.key, now_ms=self._now_ms())
                return label
            tx, encode_again = self._codec.read_transaction(record.value)
            changed = self._validator.check_transaction(tx, record.key, now_ms=self._now_ms())
            if tx.decided is not None:
                self._check_answer(tx)
            self._enricher.enrich(tx)
            return _Accepted(tx, self._codec.encode_transaction(tx) if changed else encode_again(tx), event_words(tx))
        except InvalidEvent as error:
            return error

    def _check_answer(self, tx: Transaction) -> None:
        """Hold the API's decision to the transaction that it came with; what is wrong with it, ``infer`` could not put right."""
        try:
            answer = self._codec.decode_decision(tx.decided)
        except InvalidEvent as error:
            raise InvalidEvent("bad_decision", f"decided: {error.code}") from None
        if answer.door != "api" or answer.decision_id != decision_id(tx.tenant_id, tx.transaction_id) or not 0.0 <= answer.score <= 1.0:
            raise InvalidEvent("bad_decision", "decided: not the API's decision of this transaction")

    @staticmethod
    def _event_features(accepted: Sequence[_Accepted], width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Event rows ``int64[n, EVENT_WORDS]``, and vectors ``float64[n, width]`` in which the card's features are still missing."""
        rows = np.array([one.words for one in accepted], dtype=np.int64).reshape(len(accepted), k.EVENT_WORDS)
        vectors = np.full((len(accepted), width), np.nan)
        all_event_features(rows, vectors)
        return rows, vectors

    def _transaction(
        self,
        record: Record,
        accepted: _Accepted,
        row: NDArray[np.int64],
        features: NDArray[np.float64],
        cards: ByteMap,
        batch: _Batch,
        extra: ExtraFeatures | None,
    ) -> None:
        tx, body, words = accepted
        key = entity_key(tx.tenant_id, tx.card_id)
        late = batch.progress.is_late(record.partition, tx.event_time_ms, record.timestamp_ms)
        if self._logs.knows(cards, _CARD, key, words[k.E_TX]):
            # the API has answered what the stream had decided by itself: that decision stays
            self._metrics.transactions("duplicate" if tx.decided is None else "overtaken")
            return
        if extra is not None:
            self._logs.peek(cards, _CARD, key, row, extra, features[self._width :])
        seq = self._logs.observe(cards, _CARD, key, row, features[self._own : self._width])
        if late:
            self._metrics.late()
        item, at = len(batch.items), len(batch.rows)
        others = entities_of(tx)[1:]  # the card comes first
        batch.observations += [_Observation(item, kind, key, at, Entry.EVENT) for kind, key in others]
        batch.rows.append(row)
        batch.items.append(Item(ItemKind.TRANSACTION, body, seq, late, record.timestamp_ms, features, tx))

    def _label(self, record: Record, label: Label, cards: ByteMap, batch: _Batch) -> None:
        tx_hash = hash64(f"{label.tenant_id}|{label.transaction_id}")
        row = np.zeros(k.EVENT_WORDS, dtype=np.int64)
        row[:3] = label.transaction_time_ms, tx_hash, label.is_fraud
        key = entity_key(label.tenant_id, label.card_id)
        seq = self._logs.label(cards, _CARD, key, label.transaction_time_ms, tx_hash, label.is_fraud)
        batch.observations += [
            _Observation(len(batch.items), kind, key, len(batch.rows), Entry.LABEL) for kind, key in labelled_entities(label)
        ]
        batch.rows.append(row)
        batch.items.append(Item(ItemKind.LABEL, self._codec.encode_label(label), seq, timestamp_ms=record.timestamp_ms))

    def _erasure(self, record: Record, erasure: Erasure, cards: ByteMap, batch: _Batch) -> None:
        """A card is erased here, as its erasure comes with its key; whatever else by its shard."""
        kind, key, seq = Kind[erasure.kind.upper()], entity_key(erasure.tenant_id, erasure.subject_id), 0
        if kind == Kind.CARD:
            seq = self._logs.erase(cards, _CARD, key)
        else:
            batch.observations.append(_Observation(len(batch.items), kind, key, len(batch.rows), Entry.ERASURE))
            batch.rows.append(np.zeros(k.EVENT_WORDS, dtype=np.int64))
        body = self._codec.encode_erasure(erasure)
        batch.items.append(Item(ItemKind.ERASURE, body, seq, timestamp_ms=record.timestamp_ms))

    def _dead_letter(self, record: Record, error: InvalidEvent) -> bytes:
        letter = DeadLetter(
            origin_topic=record.source,
            origin_partition=record.partition,
            origin_offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            key=storable_key(record.key),
            value=self._storable(record),
            code=error.code,
            detail=error.detail,
        )
        return self._codec.encode_dead_letter(letter)

    def _storable(self, record: Record) -> bytes | None:
        """What of a refused value may be kept; the record itself stays where the dead letter's origin points."""
        if record.source == ledger.TRANSACTIONS:
            return storable_transaction(record.value, self._codec, self._enricher)
        return storable_other(record.value)

    def _progress_of(self, shard: int, states: ByteMap) -> Progress:
        progress = self._progress.get(shard)
        if progress is None:
            progress = self._progress[shard] = Progress(self._out_of_orderness_ms, self._idle_ms)
            data = states.get(_PROGRESS)
            if data is not None:
                progress.restore(data)
        return progress

    def _refusals_of(self, shard: int, states: ByteMap) -> Refusals:
        refusals = self._refusals.get(shard)
        if refusals is None:
            refusals = self._refusals[shard] = Refusals(self._limits, self._shards)
            data = states.get(_REFUSALS)
            if data is not None:
                refusals.restore(data)
        return refusals

    def _parts(self, home: int, number: int, batch: _Batch, extra: tuple[str, ...]) -> list[Part]:
        rows, by_shard = batch.rows, dict[int, list[_Observation]]()
        for observation in batch.observations:
            by_shard.setdefault(shard_of(observation.kind, observation.key, self._shards), []).append(observation)
        own = by_shard.pop(home, [])
        count = 1 + len(by_shard)
        header = PartHeader(home, number, 0, count)
        packed = HomePart(header, batch.items).pack()
        self._handover.put(home, number, packed, batch.items)
        parts = [Part(home, join_home(packed, _observation_part(header, own, rows, extra).pack() if own else b""))]
        for index, (shard, mine) in enumerate(by_shard.items(), start=1):
            parts.append(Part(shard, _observation_part(PartHeader(home, number, index, count), mine, rows, extra).pack()))
        return parts


def labelled_entities(label: Label) -> list[tuple[Kind, str]]:
    """Entities besides the card whose logs a label enters, with their keys."""
    entities = [(Kind.MERCHANT, entity_key(label.tenant_id, label.merchant_id))]
    if label.user_id is not None:
        entities.append((Kind.USER, entity_key(label.tenant_id, label.user_id)))
    return entities


def _observation_part(
    header: PartHeader, observations: list[_Observation], rows: list[NDArray[np.int64]], extra: tuple[str, ...]
) -> ObservationPart:
    used = {row: i for i, row in enumerate(dict.fromkeys(observation.row for observation in observations))}
    table = np.array([(o.item, o.kind, used[o.row]) for o in observations], dtype=np.int64)
    entries = np.array([o.entry for o in observations], dtype=np.uint8)
    return ObservationPart(header, table, entries, [o.key for o in observations], np.array([rows[row] for row in used]), extra)
