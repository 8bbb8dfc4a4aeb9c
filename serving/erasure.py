"""Erasing a person's data from what can be changed: the online store and the decisions kept by id.

Kafka's topics cannot be edited.  Transactions, decisions and labels leave them with retention, and hold tokens of cards and users and
keyed hashes of addresses, never a card number or an address.  The stream's own state of an entity is erased by the stream.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from fraud.errors import InvalidEvent
from fraud.events import KINDS, Kind, entity_ids, entity_key
from serving.codec import Codec
from serving.decision_index import index_key
from serving.online_store import OnlineStore
from serving.redis_link import RedisLink

__all__ = ["ERASABLE", "Erased", "Eraser", "subject_token"]

# A merchant is no natural person. An address is named by its hash, which is all that is stored of it.
ERASABLE = tuple(kind for kind in KINDS if kind != "merchant")
_SCAN_COUNT = 1_000


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed: rows of the online store, and decisions kept by id."""

    online_rows: int
    decisions: int


def subject_token(key: bytes, tenant_id: str, kind: str, subject_id: str) -> str:
    """What the audit log says of a subject: enough to see that two requests were for the same one, and no way back."""
    return hmac.digest(key, f"erasure\0{kind}\0{entity_key(tenant_id, subject_id)}".encode(), "sha256").hex()


class Eraser:
    """Removes; safe to share between threads.

    Args:
        store: the online store.
        link: to the Redis that keeps decisions by id.
        codec: of this stack.
    """

    def __init__(self, store: OnlineStore, link: RedisLink, codec: Codec) -> None:
        self._store = store
        self._link = link
        self._codec = codec

    def erase(self, tenant_id: str, kind: str, subject_id: str) -> Erased:
        """Remove a subject; doing it again finds nothing and does no harm.  Raises Unavailable; what is left, the next try removes."""
        number = Kind[kind.upper()]
        rows = self._store.delete([(number, entity_key(tenant_id, subject_id))])
        keys = list(self._decisions_of(tenant_id, number, subject_id))
        removed = sum(self._link.call([("UNLINK", key) for key in keys])) if keys else 0
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
