"""The stream's side of the online store: rows wait here until Redis has them, and Redis being away never stops the stream.

The operator puts the entities that a micro-batch touched and flushes once.  Of an entity only the newest state counts, so
what waits is bounded by the number of entities touched, not by the number of events or by how long Redis was away.

This module must not raise into the stream and must not know Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from fraud.errors import Unavailable
from serving.online_store import EntityRow

__all__ = ["BufferedWriter", "StateWriter"]

# Rows a round trip: 0.8 MB at 1.5 KB a state, 10 ms of work for Redis.
CHUNK_ROWS = 512
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
# About 200 MB at 1.5 KB a state.
MAX_WAITING_ROWS = 100_000


class StateWriter(Protocol):
    """What the writer needs of ``serving.online_store.OnlineStore``."""

    def write(self, rows: Sequence[EntityRow], epoch: int) -> int:
        """Write rows and return how many were new; raises Unavailable."""

    def claim_epoch(self, started_ms: int) -> int:
        """Number this attempt; raises Unavailable."""


class BufferedWriter:
    """Collects the newest row of each entity and writes them at :meth:`flush`; one per operator instance, not thread-safe.

    Attributes:
        written: rows that Redis took.
        refused: rows that were older than the stored ones: more than a few mean that a later attempt of this job is running.
        failed_flushes: attempts to reach Redis that failed.
        dropped: rows given up because too many entities were waiting; the states must be put again (``serving.online_healing``).
        put_again_rows: rows put again because the store may have lost them.
        recoveries: times that Redis came back after a failure.

    Args:
        store: where to write.
        started_ms: when this attempt of the job started, wall clock in ms UTC; a later attempt must say a later time.
        clock: monotonic seconds, for pauses and the budget of a flush.
        budget_s: a flush starts no further round trip after this time; the one under way is bounded by the store's timeout.
    """

    def __init__(
        self,
        store: StateWriter,
        started_ms: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        budget_s: float = 0.05,
        max_waiting_rows: int = MAX_WAITING_ROWS,
    ) -> None:
        self.written = self.refused = self.failed_flushes = self.dropped = self.recoveries = self.put_again_rows = 0
        self._store = store
        self._started_ms = started_ms
        self._clock = clock
        self._budget_s = budget_s
        self._max_waiting_rows = max_waiting_rows
        self._epoch: int | None = None
        self._rows: dict[tuple[int, str], EntityRow] = {}
        self._pause_s = 0.0
        self._retry_at_s = 0.0

    @property
    def waiting(self) -> int:
        """Number of entities whose newest state Redis does not have yet."""
        return len(self._rows)

    def epoch(self) -> int:
        """This attempt's number, claimed when it is needed first; raises Unavailable."""
        if self._epoch is None:
            self._epoch = self._store.claim_epoch(self._started_ms)
        return self._epoch

    def put_again(self, row: EntityRow) -> None:
        """Take a state that may be older than the one that waits, and then keep that one."""
        self.put_again_rows += 1
        waiting = self._rows.get((row.kind, row.key))
        if waiting is None or waiting.seq < row.seq:
            self.put(*row)

    def put(self, kind: int, key: str, state: bytes, seq: int, event_time_ms: int) -> None:
        """Take the newest state of an entity; it replaces the one that waits."""
        self._rows[kind, key] = EntityRow(kind, key, state, seq, event_time_ms)
        if len(self._rows) > self._max_waiting_rows:
            del self._rows[next(iter(self._rows))]
            self.dropped += 1

    def flush(self) -> bool:
        """Write what waits, oldest first, within the budget; True when nothing waits any more.

        While Redis is away this tries once a pause (50 ms, doubling to 1 s) and returns at once in between.
        """
        now_s = self._clock()
        if self._pause_s and now_s < self._retry_at_s:
            return False
        while self._rows:
            try:
                self._write_chunk()
            except Unavailable:
                self._fail()
                return False
            if self._clock() - now_s >= self._budget_s:
                break
        return not self._rows

    def _write_chunk(self) -> None:
        epoch = self.epoch()
        chunk = list(islice(self._rows.values(), CHUNK_ROWS))
        written = self._store.write(chunk, epoch)
        for row in chunk:
            del self._rows[row.kind, row.key]
        self.written += written
        self.refused += len(chunk) - written
        if self._pause_s:
            self._pause_s = 0.0
            self.recoveries += 1

    def _fail(self) -> None:
        self.failed_flushes += 1
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s or FIRST_PAUSE_S)
        self._retry_at_s = self._clock() + self._pause_s
