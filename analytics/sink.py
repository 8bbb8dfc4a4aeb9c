"""The committed ledger into ClickHouse: read a batch, write its rows, then its offsets; whatever is interrupted is done again.

Offsets live in ClickHouse itself, behind the rows that they speak of.  A batch that was written and not recorded is read again,
perhaps with other bounds, and ReplacingMergeTree makes one row of two; the same bounds carry the same token and are not even written.
Nothing here decides anything: a record that cannot be read is set aside with its place, and what the stream has erased goes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog

from analytics.eraser import Eraser
from analytics.erasure import without
from analytics.lag import TOPICS, topic_ids
from analytics.ledger_reader import Batch, LedgerReader
from analytics.ledger_rows import Extracted, LedgerRows, Value
from analytics.store import Store, batch_token
from fraud.errors import Unavailable
from serving import ledger
from serving.codec import Codec

__all__ = ["Report", "Sink", "SinkSettings"]

T = TypeVar("T")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """How much at once, and how long a failure waits.  A batch is 20,000 decisions: 50 MB on the way, at most two of them at a time."""

    bootstrap_servers: str
    batch_records: int = 20_000
    linger_s: float = 1.0  # a batch that is not full waits this long: at 1,000 events/s an insert a second, which merges keep up with
    first_pause_s: float = 0.25
    longest_pause_s: float = 10.0


@dataclass(slots=True)
class Report:
    """What the sink has done since its start; read by its metrics."""

    rows: dict[str, int] = field(default_factory=dict)
    erased: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    failing_s: dict[str, float] = field(default_factory=dict)  # from the first to the newest of the attempts that fail; 0 when one succeeds
    batches: int = 0
    delay_s: float = 0.0  # of the oldest record of the newest batch: from the broker's append to ClickHouse's answer, or until now
    lag_records: dict[str, int] = field(default_factory=dict)


class Sink:
    """Runs until ``stopping`` is set; ``clock`` gives seconds of the epoch."""

    def __init__(
        self, settings: SinkSettings, codec: Codec, store: Store, stopping: threading.Event, clock: Callable[[], float] = time.time
    ) -> None:
        self._eraser = Eraser(store)
        self.report = Report(erased=self._eraser.deleted)
        self._settings = settings
        self._store = store
        self._stopping = stopping
        self._clock = clock
        self._failing_since_s: dict[str, float] = {}
        rows = LedgerRows(codec)
        self._extract: dict[str, Callable[[Sequence[Value]], Extracted]] = {
            ledger.DECISIONS: rows.decisions,
            ledger.SHADOWS: rows.shadows,
            ledger.LABELS_APPLIED: rows.labels,
            ledger.ERASURES_APPLIED: rows.erasures,
        }

    def run(self) -> None:
        """Follow the ledger.  A dependency that is away is waited for, with pauses that grow."""
        while not self._stopping.is_set():
            reader = self._patiently(self._begin)
            if reader is None:
                return
            try:
                self._follow(reader)
            except Unavailable as error:
                self._note(error)
                self._stopping.wait(self._settings.first_pause_s)
            finally:
                reader.close()

    def _begin(self) -> LedgerReader:
        self._store.require_schema()
        self._eraser.begin()
        ids = topic_ids(self._settings.bootstrap_servers, TOPICS)
        return LedgerReader(self._settings.bootstrap_servers, ids, self._store.offsets())

    def _follow(self, reader: LedgerReader) -> None:
        """Read and decode a batch while the one before it is on its way: ClickHouse works in another process."""
        with ThreadPoolExecutor(1, "deliver") as beside:
            sent = None
            while not self._stopping.is_set():
                batch = reader.read(self._settings.batch_records, self._settings.linger_s)
                extracted = {topic: self._extract[topic](values) for topic, values in batch.values.items()}
                if sent is not None and not self._has_arrived(*sent, reader):
                    return
                deliver = partial(self._deliver, batch, extracted, reader)
                sent = (batch, beside.submit(self._patiently, deliver)) if batch.moved else None
                self.report.lag_records = reader.behind()

    def _has_arrived(self, batch: Batch, delivery: Future[float | None], reader: LedgerReader) -> bool:
        """Wait for a delivery, false when told to stop meanwhile; while it takes long, the report tells that we fall behind."""
        while not wait([delivery], self._settings.linger_s).done:
            self._tell_delay(batch, self._clock())
            self.report.lag_records = reader.behind(asked=True)
        arrived_s = delivery.result()
        if arrived_s is not None:
            self._tell_delay(batch, arrived_s)
            self._failing_since_s.clear()
            self.report.failing_s = dict.fromkeys(self.report.failing_s, 0.0)
        return arrived_s is not None

    def _deliver(self, batch: Batch, extracted: dict[str, Extracted], reader: LedgerReader) -> float:
        """Erase, write the rows, set the bad ones aside, remember the offsets: in this order, and harmless to repeat.

        Returns when that was done, seconds of the epoch.
        """
        tokens = {topic: batch_token((topic, reader.ids[topic], _bounds(values))) for topic, values in batch.values.items()}
        erasures = extracted.get(ledger.ERASURES_APPLIED)
        if erasures is not None:  # first: a sink that dies behind this line knows of them when it begins again
            self._store.write(erasures.tables, tokens[ledger.ERASURES_APPLIED])
        for topic, gone in self._eraser.erase(extracted).items():
            self._store.write(without(extracted[topic].tables, gone), tokens[topic])
        for topic, found in extracted.items():
            if found.rejects:
                self._store.reject(topic, reader.ids[topic], found.rejects)
                _log.warning("records_set_aside", topic=topic, records=len(found.rejects), code=found.rejects[0].code)
        self._store.save(batch.moved)
        reader.delivered(batch)
        self._count(extracted)
        return self._clock()

    def _count(self, extracted: dict[str, Extracted]) -> None:
        for found in extracted.values():
            for name, table in found.tables.items():
                _add(self.report.rows, name, table.num_rows)
            for one in found.rejects:
                _add(self.report.rejected, one.code, 1)
        self.report.batches += bool(extracted)

    def _tell_delay(self, batch: Batch, now_s: float) -> None:
        if (oldest_ms := batch.oldest_ms) is not None:
            self.report.delay_s = max(0.0, now_s - oldest_ms / 1000)

    def _patiently(self, step: Callable[[], T]) -> T | None:
        """Repeat a step until it succeeds; None when told to stop before."""
        pause_s = self._settings.first_pause_s
        while not self._stopping.is_set():
            try:
                return step()
            except Unavailable as error:
                self._note(error)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, self._settings.longest_pause_s)
        return None

    def _note(self, error: Unavailable) -> None:
        now_s = self._clock()
        _add(self.report.failures, error.dependency, 1)
        self.report.failing_s[error.dependency] = now_s - self._failing_since_s.setdefault(error.dependency, now_s)
        _log.warning("sink_waits", dependency=error.dependency, detail=error.detail)


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


def _bounds(values: Sequence[Value]) -> list[tuple[int, int, int]]:
    """Of each partition its first and last offset."""
    bounds: dict[int, tuple[int, int]] = {}
    for one in values:
        first, _ = bounds.get(one.partition, (one.offset, one.offset))
        bounds[one.partition] = (first, one.offset)
    return sorted((partition, first, last) for partition, (first, last) in bounds.items())
