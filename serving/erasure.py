"""Erasing a person's data from what can be changed: the online store, the decisions kept by id, and the stream's state.

The topic ``erasures`` carries the request to the stream.  It drops the entity's state at that place of the entity's log, puts an empty
row in the place of the online one, and writes the number of the erasure to ``erasures-applied``.  That record is the signal for
whatever is made from the ledger: what an entity did up to that number is gone, and what is computed again begins there, as the stream did.

Kafka's topics cannot be edited.  Transactions, decisions and labels leave them with retention, and hold tokens of cards and users and
keyed hashes of addresses, never a card number or an address.  Two things follow from forgetting: a transaction that is sent again after
its card was erased is decided again, and a job that starts from nothing, not from its state, reads what retention has left of the past.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import KafkaException, Producer

from fraud.errors import InvalidEvent, Unavailable
from fraud.events import Kind, entity_ids, entity_key
from serving import ledger
from serving.codec import Codec
from serving.decision_index import index_key
from serving.online_store import OnlineStore
from serving.records import Erasure
from serving.redis_link import RedisLink

__all__ = ["Erased", "Eraser", "ErasureRequests", "subject_token"]

_SCAN_COUNT = 1_000
_TIMEOUT_S = 5.0  # a person waits for it


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed: rows of the online store, and decisions kept by id."""

    online_rows: int
    decisions: int


def subject_token(key: bytes, erasure: Erasure) -> str:
    """What the audit log says of a subject: enough to see that two requests were for the same one, and no way back."""
    return hmac.digest(key, f"erasure\0{erasure.kind}\0{entity_key(erasure.tenant_id, erasure.subject_id)}".encode(), "sha256").hex()


class ErasureRequests:
    """Asks the stream to erase; safe to share between threads.

    Args:
        bootstrap: of the brokers.
        codec: of this stack.
    """

    def __init__(self, bootstrap: str, codec: Codec) -> None:
        self._codec = codec
        settings = {"acks": "all", "enable.idempotence": True, "linger.ms": 0, "log_level": 0, "message.timeout.ms": int(_TIMEOUT_S * 1e3)}
        self._producer = Producer({"bootstrap.servers": bootstrap, **settings})

    def send(self, erasure: Erasure) -> None:
        """Hand a request over and wait until the broker has it; raises Unavailable."""
        value = self._codec.encode_erasure(erasure)
        errors: list[object] = []
        try:
            # the subject's id as the key: a card's erasure then stands among its transactions' shard
            self._producer.produce(
                ledger.ERASURES, value, erasure.subject_id.encode(), on_delivery=lambda error, _message: errors.append(error)
            )
        except (BufferError, KafkaException) as error:
            raise Unavailable("kafka", str(error)) from error
        self._producer.flush(_TIMEOUT_S + 1)
        if errors != [None]:
            raise Unavailable("kafka", str(errors[0]) if errors else "no answer")


class Eraser:
    """Removes; safe to share between threads.

    Args:
        store: the online store.
        link: to the Redis that keeps decisions by id.
        codec: of this stack.
        requests: to the stream.
    """

    def __init__(self, store: OnlineStore, link: RedisLink, codec: Codec, requests: ErasureRequests) -> None:
        self._store = store
        self._link = link
        self._codec = codec
        self._requests = requests

    def erase(self, erasure: Erasure) -> Erased:
        """Remove a subject; doing it again finds nothing and does no harm.  Raises Unavailable; what is left, the next try removes.

        The stream is asked last: its empty row is then what stays, and keeps older writers out of the store.
        """
        kind = Kind[erasure.kind.upper()]
        rows = self._store.delete([(kind, entity_key(erasure.tenant_id, erasure.subject_id))])
        keys = list(self._decisions_of(erasure.tenant_id, kind, erasure.subject_id))
        removed = sum(self._link.call([("UNLINK", key) for key in keys])) if keys else 0
        self._requests.send(erasure)
        return Erased(rows, removed)

    def _decisions_of(self, tenant_id: str, kind: Kind, subject_id: str) -> Iterator[bytes]:
        """Keys of the kept decisions of a subject: all of the tenant's are looked at, as a request to erase is rare."""
        pattern = index_key(_literal(tenant_id), "*")
        cursor: bytes | int = 0
        while True:
            ((cursor, keys),) = self._link.call([("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)])
            values = self._link.call([("GET", key) for key in keys]) if keys else []
            for key, value in zip(keys, values, strict=True):
                if value is not None and self._is_of(value, kind, subject_id):
                    yield key
            if int(cursor) == 0:
                return

    def _is_of(self, value: bytes, kind: Kind, subject_id: str) -> bool:
        if subject_id.encode() not in value:
            return False
        try:
            return entity_ids(self._codec.decode_decision(value).transaction)[kind] == subject_id
        except InvalidEvent:
            return True  # nobody can read it, and it names the subject


def _literal(text: str) -> str:
    """Text as a Redis pattern that matches nothing else."""
    return "".join(f"\\{character}" if character in "*?[]\\" else character for character in text)
