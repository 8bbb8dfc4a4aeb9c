"""Notices that the online store lost states, asks for all of them again, and says when it has them.

Redis may come back without its last second, or empty, and a killed worker takes with it what it had not written yet.  All of them
end the same way: the marks of this writer's parts (see ``serving.online_health``) are not there.  A part is then

    lost ──marked──► wanted ──every state of it handed over──► handed over ──nothing waits any more──► whole

and an attempt of the stream starts with all its parts lost.  This module must not read or write states: whoever keeps them asks
``wanted`` and hands them over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Protocol

from fraud.errors import Unavailable
from serving.clock import now_ms
from serving.online_health import Mark, PartMarks

__all__ = ["Healing", "HealthStore"]

CHECK_S = 1.0  # two short commands a second for each writer
# A shard that has state has a timer with it, which fires when the task starts. Opening the operators of a task before that takes up to
# ten seconds on a busy machine. A shard that is heard of later than this is healed all the same.
SILENCE_S = 20.0


class HealthStore(Protocol):
    """What is needed of ``serving.online_store.OnlineStore``; each raises Unavailable."""

    def read_parts(self, names: Sequence[str], parts: int) -> PartMarks: ...
    def begin_healing(self, names: Sequence[str], mark: Mark, now_ms: int, parts: int) -> list[bool]: ...
    def finish_healing(self, name: str, mark: Mark, parts: int) -> bool: ...


class _Stage(Enum):
    LOST = auto()
    WANTED = auto()
    HANDED_OVER = auto()
    WHOLE = auto()


class _Part:
    """One shard of the map: ``mark`` is the one under which it is being healed or was."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stage = _Stage.LOST
        self.mark: Mark | None = None
        self.is_heard_of = False

    def agrees_with(self, stored: str | None, run_id: str) -> bool:
        """Whether the store still has what this writer left there."""
        if self.mark is None or self.stage is _Stage.LOST:
            return False
        return self.mark.run_id == run_id and stored == (self.mark.whole if self.stage is _Stage.WHOLE else self.mark.healing)


class Healing:
    """The parts of one writer.  ``tend`` belongs to the writer's thread, the rest may be called from another.

    Args:
        store: where the marks are.
        name: of the map that the writer keeps.
        parts: of the whole job, over all maps and shards.
        clock: monotonic seconds.
        now_ms: wall clock, ms UTC: for people who ask since when.
    """

    def __init__(
        self,
        store: HealthStore,
        name: str,
        parts: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        self.begun = 0  # re-emissions, of one part each
        self._store = store
        self._name = name
        self._of_job = parts
        self._clock = clock
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._parts: dict[int, _Part] = {}
        self._number = 0
        self._dropped = 0
        self._since_s = 0.0
        self._check_at_s = 0.0

    @property
    def unhealed(self) -> int:
        """How many of the parts are not whole."""
        with self._lock:
            return sum(part.stage is not _Stage.WHOLE for part in self._parts.values())

    def own(self, shards: Sequence[int]) -> None:
        """From now on these shards of the map are this writer's."""
        with self._lock:
            self._parts = {shard: _Part(f"{self._name}|{shard}") for shard in shards}
            self._since_s = self._clock()

    def wanted(self, shard: int) -> int:
        """Number of the attempt for which all states of a shard are wanted; 0 when they are not.  The caller has the shard at hand."""
        with self._lock:
            part = self._parts.get(shard)
            if part is None:
                return 0
            if not part.is_heard_of and part.stage in (_Stage.HANDED_OVER, _Stage.WHOLE):
                part.stage = _Stage.LOST  # it was taken for empty
            part.is_heard_of = True
            return part.mark.number if part.stage is _Stage.WANTED and part.mark is not None else 0

    def handed_over(self, shard: int, number: int) -> None:
        """All states of a shard have been handed over to the writer, for the attempt of this number."""
        with self._lock:
            part = self._parts.get(shard)
            if part is not None and part.stage is _Stage.WANTED and part.mark is not None and part.mark.number == number:
                part.stage = _Stage.HANDED_OVER

    def tend(self, epoch: Callable[[], int], dropped: int, *, is_written: bool) -> None:
        """Look after the marks: once in a while whether they are there, and whenever a part has become whole.

        Args:
            epoch: of the writer; may raise Unavailable.
            dropped: rows that the writer has given up so far.
            is_written: whether nothing of what was handed over waits any more.
        """
        if dropped > self._dropped:
            self._dropped = dropped
            self._lose_all()
        try:
            if is_written:
                self._finish()
            if self._clock() >= self._check_at_s:
                self._check_at_s = self._clock() + CHECK_S
                self._check(epoch)
        except Unavailable:
            return  # nothing is known of a store that is away, and the next look comes in a second

    def _lose_all(self) -> None:
        with self._lock:
            for part in self._parts.values():
                part.stage = _Stage.LOST

    def _check(self, epoch: Callable[[], int]) -> None:
        with self._lock:
            parts = list(self._parts.values())
            self._give_up_on_silent_ones(parts)
        if not parts:
            return
        found = self._store.read_parts([part.name for part in parts], self._of_job)
        with self._lock:
            lost = [part for part, stored in zip(parts, found.marks, strict=True) if not part.agrees_with(stored, found.run_id)]
        if lost:
            self._begin(lost, epoch(), found.run_id)

    def _give_up_on_silent_ones(self, parts: Sequence[_Part]) -> None:
        if self._clock() - self._since_s >= SILENCE_S:
            for part in parts:
                if part.stage is _Stage.WANTED and not part.is_heard_of:
                    part.stage = _Stage.HANDED_OVER

    def _begin(self, lost: Sequence[_Part], epoch: int, run_id: str) -> None:
        self._number += 1
        mark = Mark(epoch, run_id, self._number)
        taken = self._store.begin_healing([part.name for part in lost], mark, self._now_ms(), self._of_job)
        with self._lock:
            for part, is_ours in zip(lost, taken, strict=True):
                part.stage, part.mark = (_Stage.WANTED, mark) if is_ours else (_Stage.LOST, None)
                self.begun += is_ours

    def _finish(self) -> None:
        with self._lock:
            ready = [(part, part.mark) for part in self._parts.values() if part.stage is _Stage.HANDED_OVER]
        for part, mark in ready:
            if mark is None:
                continue
            is_whole = self._store.finish_healing(part.name, mark, self._of_job)
            with self._lock:
                if part.stage is _Stage.HANDED_OVER:
                    part.stage = _Stage.WHOLE if is_whole else _Stage.LOST
