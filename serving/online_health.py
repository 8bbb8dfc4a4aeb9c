"""What the online store knows about itself: whether it holds everything that the stream has ever given it.

A Redis that lost its data answers like one that never had any, and the features of an old card would be those of a new one.  So
the stream leaves marks beside the rows, and whoever reads rows reads the marks in the same round trip.

* The stream's states are kept in *parts* (a map of a shard).  A part's mark says that its states are being written again
  (``healing``), or that all of them have been (``whole``), each with the epoch of the writer and the **run id** of the Redis to which
  they were written.  Redis takes a new run id whenever it starts, also after a ``kill -9`` that cost it the last second; and a
  ``FLUSHALL`` takes the marks away with the rows.  A mark that is not what its writer left is how the writer learns of a loss.
* The store's own mark says ``whole`` and the run id once every part is whole.  A reader compares it with the run id of the Redis
  that it talks to: it learns of a loss with its very next read, before any writer has.
* A mark of a greater epoch stays: what is left of an earlier attempt of the stream cannot take its parts back.

Marks of parts are text: 16 digits of epoch, run id, what.  This module must not decide when to heal (``serving.online_healing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.redis_link import Command

__all__ = ["HealthKeys", "Mark", "PartMarks", "StoreHealth", "parse_health", "parse_run_id"]

_WHOLE, _HEALING = "whole", "healing"
_RUN_ID = b"run_id:"

# KEYS: marks of the parts, mark of the store. ARGV: epoch, mark, wall clock in ms, parts. Returns 1 for each part taken.
_BEGIN_SCRIPT = f"""
local taken, any = {{}}, false
for i = 4, #ARGV do
  local stored = redis.call("HGET", KEYS[1], ARGV[i])
  if stored and string.sub(stored, 1, 16) > ARGV[1] then
    taken[i - 3] = 0
  else
    redis.call("HSET", KEYS[1], ARGV[i], ARGV[2])
    taken[i - 3], any = 1, true
  end
end
if any and string.sub(redis.call("GET", KEYS[2]) or "", 1, {len(_HEALING)}) ~= "{_HEALING}" then
  redis.call("SET", KEYS[2], "{_HEALING} " .. ARGV[3])
end
return taken
"""

# KEYS: as above. ARGV: part, its mark so far, its new mark, run id, number of parts of the job.
_FINISH_SCRIPT = f"""
if redis.call("HGET", KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call("HSET", KEYS[1], ARGV[1], ARGV[3])
local marks, whole = redis.call("HVALS", KEYS[1]), ARGV[4] .. " {_WHOLE}"
if #marks < tonumber(ARGV[5]) then return 1 end
for _, mark in ipairs(marks) do
  if string.sub(mark, 18) ~= whole then return 1 end
end
redis.call("SET", KEYS[2], "{_WHOLE} " .. ARGV[4])
return 1
"""


class StoreHealth(NamedTuple):
    """Whether an absent row was never there (``is_whole``), or may have been lost; since when (ms UTC), where that is known."""

    is_whole: bool
    healing_since_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A writer's mark for its parts: ``number`` tells its attempts to heal apart."""

    epoch: int
    run_id: str
    number: int

    @property
    def healing(self) -> str:
        """While the states are written again."""
        return f"{self._head} {_HEALING} {self.number}"

    @property
    def whole(self) -> str:
        """When all of them have been."""
        return f"{self._head} {_WHOLE}"

    @property
    def _head(self) -> str:
        return f"{self.epoch:016d} {self.run_id}"


class PartMarks(NamedTuple):
    """The run id of the Redis that answered, and the marks of the parts that were asked for."""

    run_id: str
    marks: list[str | None]


class HealthKeys:
    """The commands about the marks of one Feast project's store; ``parts`` is how many parts the job has."""

    def __init__(self, project: str) -> None:
        self._store = f"{project}:health"

    def read(self) -> list[Command]:
        """Two commands, whose replies :func:`parse_health` takes."""
        return [("GET", self._store), ("INFO", "server")]

    def read_parts(self, names: Sequence[str], parts: int) -> list[Command]:
        """Two commands: run id (see :func:`parse_run_id`) and the marks of these parts."""
        return [("INFO", "server"), ("HMGET", self._marks(parts), *names)]

    def begin(self, names: Sequence[str], mark: Mark, now_ms: int, parts: int) -> Command:
        """Replies 1 for each part that is this writer's now, 0 for one that a later attempt has."""
        return ("EVAL", _BEGIN_SCRIPT, 2, self._marks(parts), self._store, f"{mark.epoch:016d}", mark.healing, now_ms, *names)

    def finish(self, name: str, mark: Mark, parts: int) -> Command:
        """Replies 1, or 0 when the part's mark is no longer the one that it began with."""
        return ("EVAL", _FINISH_SCRIPT, 2, self._marks(parts), self._store, name, mark.healing, mark.whole, mark.run_id, parts)

    def _marks(self, parts: int) -> str:
        # a job with another number of parts has another state, and nothing to do with the marks of this one
        return f"{self._store}:{parts}"


def parse_run_id(info: bytes) -> str:
    """The run id in the answer to ``INFO server``; ValueError when there is none."""
    _, found, rest = info.partition(_RUN_ID)
    if not found:
        raise ValueError("no run id")
    return rest.split(maxsplit=1)[0].decode()


def parse_health(mark: bytes | None, info: bytes) -> StoreHealth:
    """What the mark of the store says to a reader of the Redis that ``info`` describes; ValueError when that has no run id."""
    what, _, detail = (mark or b"").decode().partition(" ")
    if what == _WHOLE:
        return StoreHealth(is_whole=detail == parse_run_id(info))
    return StoreHealth(is_whole=False, healing_since_ms=int(detail) if detail.isdecimal() else None)
