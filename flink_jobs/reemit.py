"""Hands a shard's states to the online store's feed again, a few at a time, when the store has lost them.

Flink's state is the truth and the store a copy of it, so healing is reading the map through and putting every entity again.  That
takes seconds to a minute, in turns of a few milliseconds between the batches; the map's iterator is kept from turn to turn.
RocksDB's reads 128 entries ahead and then seeks from the last key, so it pins nothing and sees what was written meanwhile, except
among those 128: an entry that is older than what the feed has is put off there and by the store (``serving.online_writer``).

Every attempt of the job reads each of its shards through in this way at least once, and so learns which entities there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from flink_jobs.cores import ByteMap
from flink_jobs.known_entities import KnownEntities
from fraud.events import KINDS
from fraud.state import state_position
from serving.online_feed import OnlineFeed
from serving.online_store import EntityRow

__all__ = ["IDLE_MS", "Reemission", "entity_of", "map_key"]

_KIND_OF = {name: kind for kind, name in enumerate(KINDS)}

# The stream has three quarters of the time also while a store heals; and nobody looks at the clock oftener than once in 64 rows.
BUSY_MS, TURN_S, SLICE_ROWS = 100, 0.025, 64
IDLE_MS = 1_000  # as often as the feed looks after its marks


def map_key(kind: int, key: str) -> str:
    """Key of an entity in a shard's map."""
    return f"{KINDS[kind]}|{key}"


def entity_of(key: str) -> tuple[int, str] | None:
    """Kind and key of an entry, None for one that is no entity."""
    name, separator, entity = key.partition("|")
    kind = _KIND_OF.get(name)
    return None if kind is None or not separator else (kind, entity)


@dataclass(slots=True)
class _Pass:
    """One reading of a shard's map, for the attempt ``number``; ``entries`` is None when it is through."""

    number: int
    entries: Iterator[tuple[str, bytes]] | None


class Reemission:
    """Re-emits the shards of one operator instance.

    Args:
        feed: says what it wants and has room for.
        known: is told of every entity that is read.
        clock: monotonic seconds.
    """

    def __init__(self, feed: OnlineFeed, known: KnownEntities, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._feed = feed
        self._known = known
        self._clock = clock
        self._passes: dict[int, _Pass] = {}

    def turn(self, shard: int, states: ByteMap) -> int:
        """Put some of the shard's states again if the store wants them; returns in how many ms the next turn is due."""
        number = self._feed.wanted(shard)
        if not number:
            self._passes.pop(shard, None)
            return IDLE_MS
        current = self._passes.get(shard)
        if current is None or current.number != number:
            current = self._passes[shard] = _Pass(number, states.scan())
        if current.entries is None:
            return IDLE_MS
        until_s = self._clock() + TURN_S
        while self._feed.room() >= SLICE_ROWS:
            entries = list(islice(current.entries, SLICE_ROWS))
            rows = [row for row in map(_row, entries) if row is not None]
            for row in rows:
                self._known.add(row.kind, row.key)
            self._feed.put_again(rows)
            if len(entries) < SLICE_ROWS:
                current.entries = None
                self._known.read_through(shard)
                self._feed.end_again(shard, number)
                return IDLE_MS
            if self._clock() >= until_s:
                break
        return BUSY_MS


def _row(entry: tuple[str, bytes]) -> EntityRow | None:
    key, state = entry
    entity = entity_of(key)
    return None if entity is None else EntityRow(*entity, state, *state_position(state))
