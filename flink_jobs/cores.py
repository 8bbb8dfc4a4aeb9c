"""What the scoring job's Python operators hand to each other, and what their cores need of Flink."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

__all__ = ["ByteMap", "OutRow", "Part", "Record"]


class ByteMap(Protocol):
    """Keyed state of one shard: a map of strings to bytes."""

    def get(self, key: str) -> bytes | None: ...
    def put(self, key: str, value: bytes) -> None: ...
    def put_all(self, entries: Mapping[str, bytes]) -> None: ...
    def remove(self, key: str) -> None: ...
    def items(self) -> Iterable[tuple[str, bytes]]: ...
    def scan(self) -> Iterator[tuple[str, bytes]]:
        """Like ``items``, read as it goes: the iterator stays with its shard, and may see or miss what is written meanwhile."""
        ...


class Record(NamedTuple):
    """A Kafka record as read: ``source`` is its topic."""

    source: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Part(NamedTuple):
    """A payload for the next operator of a shard."""

    shard: int
    payload: bytes


class OutRow(NamedTuple):
    """A record for a topic of the ledger; a decision goes out on the fast lane as well."""

    topic: str
    key: bytes | None
    value: bytes
