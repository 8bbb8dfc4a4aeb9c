"""What every peer computes, which is what our job computes: parse, one log an entity, decide.

Only ``fraud`` and ``serving`` are imported, so that it runs in the peers' environment.  Left out are what no peer has a place for: the
online store, alerts, dead letters, late flags and duplicates; the bench's input has none of the last three.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE, EVENT_FEATURES
from fraud.events import KINDS, Kind, Transaction, entities_of, entity_ids, entity_key
from fraud.rules import RuleSet
from fraud.state import decode_state, encode_state, state_seq
from fraud.vector import Evaluator, event_row
from infra.peers.settings import PeerSettings
from serving.clock import now_ms
from serving.codec import Codec
from serving.enrich import Enricher
from serving.model import load_model
from serving.records import EntityPosition
from serving.scoring import Scorer, ScoringInput
from serving.validate import Validator

__all__ = ["Event", "Work", "pack_event", "unpack_event"]

_OWN = len(EVENT_FEATURES)
_HEAD_BYTES = 8 * (k.EVENT_WORDS + len(Kind) + CATALOGUE.size)
_WORDS = {Kind.CARD: k.E_CARD, Kind.USER: k.E_USER, Kind.MERCHANT: k.E_MERCHANT, Kind.DEVICE: k.E_DEVICE, Kind.IP: k.E_IP}


@dataclass(slots=True)
class Event:
    """A transaction on its way through its entities: ``seqs`` int64[5] and ``features`` float64[F] fill up as it goes."""

    tx: Transaction
    row: NDArray[np.int64]
    seqs: NDArray[np.int64]
    features: NDArray[np.float64]

    def key(self, kind: Kind) -> str:
        """Key of its entity of a kind; where it has none, one of its own, so that such events do not meet in one place."""
        entity = entity_ids(self.tx)[kind]
        return entity_key(self.tx.tenant_id, entity) if entity is not None else f"none|{self.tx.transaction_id}"

    def has(self, kind: Kind) -> bool:
        """Whether it names an entity of a kind."""
        return bool(self.row[_WORDS[kind]] != 0)


class Work:
    """Collaborators of one worker process; not for several threads."""

    def __init__(self, settings: PeerSettings) -> None:
        self.codec = Codec(settings.schema_ids)
        self._validator = Validator()
        self._enricher = Enricher(Path(settings.ip_hash_key_file).read_bytes())
        self._evaluator = Evaluator()
        self._rules = RuleSet.from_json(settings.rules_json, CATALOGUE.index)
        self._model = load_model(Path(settings.models_dir), settings.model_sha256)
        self._scorer = Scorer("stream", settings.code_version)
        self._columns = CATALOGUE.slices
        self._first_read = Path(settings.first_read_file)
        self._has_read = False

    def read(self, key: bytes | None, value: bytes | None) -> Event:
        """Decode, validate and enrich a record; raises InvalidEvent, which the bench's input does not contain."""
        if not self._has_read:
            self._note_first_read()
        tx = self.codec.decode_transaction(value)
        self._validator.check_transaction(tx, key, now_ms=now_ms())
        self._enricher.enrich(tx)
        features = np.full(CATALOGUE.size, np.nan)
        row = event_row(tx)
        self._evaluator.event(row, features[:_OWN])
        return Event(tx, row, np.full(len(Kind), -1, dtype=np.int64), features)

    def log(self, kind: Kind, data: bytes | None) -> NDArray[np.int64]:
        """The log of an entity from what the peer kept of it."""
        return k.empty_state() if data is None else decode_state(data, kind)

    def observe(self, kind: Kind, log: NDArray[np.int64], event: Event) -> NDArray[np.int64]:
        """Apply an event to its entity: writes the kind's features and number into the event and returns the log to keep."""
        after = self._evaluator.observe(kind, log, event.row, event.features[self._columns[kind]])
        event.seqs[kind] = state_seq(after)
        return after

    def observe_row(self, kind: Kind, log: NDArray[np.int64], row: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Like :meth:`observe` for an event that is not at hand whole: the log to keep, and the kind's features."""
        out = np.empty(self._columns[kind].stop - self._columns[kind].start)
        return self._evaluator.observe(kind, log, row, out), out

    def pass_through(self, kind: Kind, data: bytes | None, event: Event) -> bytes:
        """:meth:`observe` from kept bytes to bytes to keep."""
        return encode_state(self.observe(kind, self.log(kind, data), event), kind)

    def decide(self, events: Sequence[Event]) -> list[tuple[bytes, bytes]]:
        """Score a batch: key and value of each decision."""
        batch = ScoringInput(
            transactions=[event.tx for event in events],
            features=np.array([event.features for event in events]),
            late=[False] * len(events),
            entities=[_positions(event) for event in events],
            blacklisted=[()] * len(events),
        )
        decisions = self._scorer.score(batch, self._rules, self._model)
        return [(decision.transaction.card_id.encode(), self.codec.encode_decision(decision)) for decision in decisions]

    def _note_first_read(self) -> None:
        """Leave the wall clock of the first record that any worker reads, in seconds, for the bench."""
        self._has_read = True
        try:
            with self._first_read.open("x", encoding="ascii") as file:
                file.write(repr(time.time()))
        except FileExistsError:
            return


def _positions(event: Event) -> list[EntityPosition]:
    return [EntityPosition(KINDS[kind], key, int(event.seqs[kind])) for kind, key in entities_of(event.tx)]


def pack_event(event: Event, codec: Codec) -> bytes:
    """An event as bytes, for hops that go through Kafka."""
    return b"".join((event.row.tobytes(), event.seqs.tobytes(), event.features.tobytes(), codec.encode_transaction(event.tx)))


def unpack_event(data: bytes, codec: Codec) -> Event:
    """The event that :func:`pack_event` wrote."""
    integers = np.frombuffer(data, dtype=np.int64, count=k.EVENT_WORDS + len(Kind)).copy()
    features = np.frombuffer(data, dtype=np.float64, count=CATALOGUE.size, offset=integers.nbytes).copy()
    tx = codec.decode_transaction(data[_HEAD_BYTES:])
    return Event(tx, integers[: k.EVENT_WORDS], integers[k.EVENT_WORDS :], features)


def work_of_environment(environment: Mapping[str, str] = os.environ) -> tuple[PeerSettings, Work]:
    """Settings and collaborators of this process, from the file that the bench named."""
    settings = PeerSettings.from_environment(environment)
    return settings, Work(settings)
