"""The online store: the newest state of every entity, written by the stream and read by the request path, in Feast's layout.

Everything written here is what ``FeatureStore.get_online_features`` reads, and what a Feast push source writes is read here; in
bulk, one round trip for a whole micro-batch and one for the five entities of a request.

**Which write wins.**  A row carries a version ``(epoch, seq)`` and replaces the stored one unless that one is greater; Redis
decides, in one script, so no order of arrival and no second writer can put an older row over a newer one.

* ``seq`` numbers an entity's log.  Within one attempt of the stream it orders the writes of an entity.  Event time does not:
  two events may share a millisecond, and a late event changes the state without moving the newest event time.
* ``epoch`` numbers the attempts, by the order in which they started (:meth:`OnlineStore.claim_epoch`).  A restored stream goes
  back to its checkpoint and numbers the replayed events again; since the order across partitions is not fixed, number 105 may
  now hold another event.  The stream is the truth, so its new attempt always wins, also with a lower ``seq``; what is left
  of the old attempt can no longer write over it.  Every event after the checkpoint is replayed, so every row that the lost
  attempt wrote is written again, and the store equals the stream's state as soon as it has caught up.
* Equal versions overwrite: the same attempt, the same number, the same state.

The version stands in a field of the same hash that Feast does not look at.  A row that a Feast push wrote leaves it as it was.

This module must not decide when to write (``serving.online_writer``) and must not look into a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha1
from typing import NamedTuple

from fraud.errors import Unavailable
from fraud.events import KINDS, Entity
from serving.feast_layout import FEATURE_FIELDS, TIME_FIELDS, VERSION_FIELDS, RowCodec
from serving.online_health import HealthKeys, Mark, PartMarks, parse_run_id
from serving.redis_link import Command, RedisLink, ScriptMissing
from serving.state_reads import Reading, StateReads, StoredState

__all__ = ["EntityRow", "OnlineStore"]

# A script holds Redis up for 6 us a row: readers wait for at most 0.8 ms.
ROWS_PER_SCRIPT = 128
# As long as the kernel remembers a silent entity. A key with a time to live can also be evicted under volatile-lru, which
# spares the block lists; without one, a full Redis would refuse every write.
TTL_S = 90 * 86_400


class EntityRow(NamedTuple):
    """One write: ``kind`` as in ``fraud.events.Kind``, ``key`` "tenant|id"; a plain tuple of the five will do."""

    kind: int
    key: str
    state: bytes
    seq: int
    event_time_ms: int


def _lua_string(data: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'


def _lua_names() -> str:
    rows = ((*FEATURE_FIELDS[kind], TIME_FIELDS[kind], VERSION_FIELDS[kind]) for kind in range(len(KINDS)))
    return ",".join("{" + ",".join(map(_lua_string, row)) + "}" for row in rows)


# KEYS: the entities. ARGV: seconds to live (0: for ever), then one packed row each (see ``_pack``): an argument costs as much as a row.
# Versions are decimal digits of one width: comparing them as text is right in every locale, and exact beyond 2^53.
WRITE_SCRIPT = f"""
local names = {{{_lua_names()}}}
local ttl_s = tonumber(ARGV[1])
local written = 0
for i = 1, #KEYS do
  local row = ARGV[i + 1]
  local kind, seq_bytes, event_time_bytes, time_bytes = string.byte(row, 1, 4)
  local name, version = names[kind], string.sub(row, 5, 36)
  local stored = redis.call("HGET", KEYS[i], name[5])
  if not stored or stored <= version then
    local event_time = 37 + seq_bytes
    local time = event_time + event_time_bytes
    local state = time + time_bytes
    redis.call("HSET", KEYS[i], name[1], string.sub(row, state), name[2], string.sub(row, 37, event_time - 1),
      name[3], string.sub(row, event_time, time - 1), name[4], string.sub(row, time, state - 1), name[5], version)
    if ttl_s > 0 then redis.call("EXPIRE", KEYS[i], ttl_s) end
    written = written + 1
  end
end
return written
"""
WRITE_SHA = sha1(WRITE_SCRIPT.encode(), usedforsecurity=False).hexdigest()

CLAIM_SCRIPT = """
local epoch = math.max(tonumber(ARGV[1]), tonumber(redis.call("GET", KEYS[1]) or "0") + 1)
redis.call("SET", KEYS[1], string.format("%.0f", epoch))
return epoch
"""


class OnlineStore:
    """Bulk reads and writes of entity states; safe to share between threads.

    Args:
        redis_url: ``redis[s]://[user[:password]@]host[:port][/db]``.
        project: the Feast project.
        timeout_s: longest wait for Redis; the request path can spare 20 ms, the stream's writer more.
        ttl_s: seconds that a row outlives its last write; 0 keeps it for ever.
    """

    def __init__(self, redis_url: str, project: str = "fraudguard", *, timeout_s: float = 0.02, ttl_s: int = TTL_S) -> None:
        self._link = RedisLink(redis_url, timeout_s)
        self._reads = StateReads(project)
        self._keys = self._reads.keys
        self._ttl_s = ttl_s
        self._epoch_key = f"{project}:epoch"
        self._health = HealthKeys(project)

    def read(self, entities: Sequence[Entity | None]) -> list[StoredState | None]:
        """Read the states of ``(kind, key)`` pairs in one round trip; ``None`` for ``None`` and for what is not there.

        Raises:
            Unavailable: Redis cannot answer, or holds something that is not a row.
        """
        commands = self._reads.state_commands(entities)
        return self._reads.states(entities, self._link.call(commands)) if commands else [None] * len(entities)

    def look_up(self, entities: Sequence[Entity | None]) -> Reading:
        """Like :meth:`read`, and whether the store is whole, in the same round trip.  Raises Unavailable."""
        return self._reads.reading(entities, self._link.call(self._reads.commands(entities)))

    def write(self, rows: Iterable[EntityRow | tuple[int, str, bytes, int, int]], epoch: int) -> int:
        """Write the rows in one round trip, each unless the store holds a newer version; later rows count as later.

        Returns:
            How many rows were written; the rest were older than what is stored.

        Raises:
            Unavailable: Redis cannot answer; any part of the rows may have been written, and writing them again is safe.
        """
        scripts = self._scripts(list(rows), epoch)
        if not scripts:
            return 0
        try:
            return sum(self._link.call(scripts))
        except ScriptMissing:
            return int(sum(self._link.call([("SCRIPT", "LOAD", WRITE_SCRIPT), *scripts])[1:]))

    def delete(self, entities: Sequence[Entity]) -> int:
        """Remove the rows of ``(kind, key)`` pairs; returns how many there were.  A stream that still holds a state writes it again.

        Raises:
            Unavailable: Redis cannot answer.
        """
        return int(sum(self._link.call([("UNLINK", self._keys.encode(*entity)) for entity in entities]))) if entities else 0

    def claim_epoch(self, started_ms: int) -> int:
        """Number an attempt of a writer: greater than every earlier claim, and at least ``started_ms`` (wall clock, ms UTC).

        The clock makes the numbers grow also over a Redis that lost its memory.  Raises Unavailable.
        """
        return int(self._link.call([("EVAL", CLAIM_SCRIPT, 1, self._epoch_key, started_ms)])[0])

    def read_parts(self, names: Sequence[str], parts: int) -> PartMarks:
        """Read the marks of some of a job's ``parts`` parts, see ``serving.online_health``.  Raises Unavailable."""
        info, marks = self._link.call(self._health.read_parts(names, parts))
        try:
            return PartMarks(parse_run_id(info), [None if mark is None else mark.decode() for mark in marks])
        except ValueError as error:
            raise Unavailable("redis", str(error)) from error

    def begin_healing(self, names: Sequence[str], mark: Mark, now_ms: int, parts: int) -> list[bool]:
        """Say that the states of these parts are being written again; False for a part of a later attempt.  Raises Unavailable."""
        (taken,) = self._link.call([self._health.begin(names, mark, now_ms, parts)])
        return [bool(one) for one in taken]

    def finish_healing(self, name: str, mark: Mark, parts: int) -> bool:
        """Say that a part is whole; False when its mark is not the one that it began with.  Raises Unavailable."""
        return bool(self._link.call([self._health.finish(name, mark, parts)])[0])

    def close(self) -> None:
        """Close the idle connections."""
        self._link.close()

    def _scripts(self, rows: Sequence[EntityRow | tuple[int, str, bytes, int, int]], epoch: int) -> list[Command]:
        encode_key, version = self._keys.encode, b"%016d" % epoch
        commands: list[Command] = []
        for start in range(0, len(rows), ROWS_PER_SCRIPT):
            some = rows[start : start + ROWS_PER_SCRIPT]
            keys = [encode_key(row[0], row[1]) for row in some]
            commands.append(("EVALSHA", WRITE_SHA, len(keys), *keys, self._ttl_s, *[_pack(row, version) for row in some]))
        return commands


def _pack(row: EntityRow | tuple[int, str, bytes, int, int], epoch: bytes) -> bytes:
    """Kind counted from 1 and three lengths (a byte each), the version, then seq, event time, Feast's time and state."""
    kind, _, state, seq, event_time_ms = row
    number = RowCodec.integer(seq)
    event_time, time = _times(event_time_ms)
    lengths = bytes((kind + 1, len(number), len(event_time), len(time)))
    return b"".join((lengths, epoch, b"%016d" % seq, number, event_time, time, RowCodec.state(state)))


@lru_cache(maxsize=1024)  # the entities of one event are written with its one time
def _times(event_time_ms: int) -> tuple[bytes, bytes]:
    return RowCodec.integer(event_time_ms), RowCodec.time(event_time_ms)
