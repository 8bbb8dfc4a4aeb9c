"""The committed ledger into ClickHouse: read a batch, write its rows, then its offsets; whatever is interrupted is done again.

Offsets live in ClickHouse itself, behind the rows that they speak of.  A batch that was written and not recorded is read again,
perhaps with other bounds, and ReplacingMergeTree makes one row of two; the same bounds carry the same token and are not even written.
Nothing here decides anything: a record that cannot be read is set aside with its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from analytics.ledger_rows import Extracted, LedgerRows, Value
from analytics.store import Place, Store, batch_token
from fraud.errors import Unavailable
from serving import ledger
from serving.codec import Codec

__all__ = ["Report", "Sink", "SinkSettings", "topic_ids"]

T = TypeVar("T")

_log = structlog.get_logger()
_TIMEOUT_S = 10.0
TOPICS = (ledger.DECISIONS, ledger.LABELS_APPLIED)


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
    """What the sink has done since its start; read by its metrics, written by its own thread only."""

    rows: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    delay_s: float = 0.0  # of the oldest record of the newest batch: from the broker's append to ClickHouse's answer
    lag_records: dict[str, int] = field(default_factory=dict)


class Sink:
    """Runs until ``stopping`` is set; ``clock`` gives seconds of the epoch."""

    def __init__(
        self, settings: SinkSettings, codec: Codec, store: Store, stopping: threading.Event, clock: Callable[[], float] = time.time
    ) -> None:
        self.report = Report()
        self._settings = settings
        self._store = store
        self._stopping = stopping
        self._clock = clock
        rows = LedgerRows(codec)
        self._extract: dict[str, Callable[[Sequence[Value]], Extracted]] = {
            ledger.DECISIONS: rows.decisions,
            ledger.LABELS_APPLIED: rows.labels,
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
                reader.consumer.close()

    def _begin(self) -> _Reader:
        self._store.require_schema()
        ids = topic_ids(self._settings.bootstrap_servers, TOPICS)
        return _Reader(self._settings.bootstrap_servers, ids, self._store.offsets())

    def _follow(self, reader: _Reader) -> None:
        while not self._stopping.is_set():
            batch = reader.read(self._settings.batch_records, self._settings.linger_s)
            if reader.moved and self._patiently(partial(self._deliver, batch, reader)) is None:
                return
            self.report.lag_records = reader.behind()

    def _deliver(self, batch: dict[str, list[Value]], reader: _Reader) -> bool:
        """Write the rows, set the bad ones aside, remember the offsets: in this order, and harmless to repeat."""
        extracted = {topic: self._extract[topic](values) for topic, values in batch.items()}
        for topic, found in extracted.items():
            self._store.write(found.tables, batch_token((topic, reader.ids[topic], _bounds(batch[topic]))))
            if found.rejects:
                self._store.reject(topic, reader.ids[topic], found.rejects)
                _log.warning("records_set_aside", topic=topic, records=len(found.rejects), code=found.rejects[0].code)
        self._store.save(reader.moved)
        reader.settle()
        self._count(batch, list(extracted.values()))
        return True

    def _count(self, batch: dict[str, list[Value]], extracted: Sequence[Extracted]) -> None:
        if not batch:
            return
        for found in extracted:
            for name, table in found.tables.items():
                _add(self.report.rows, name, table.num_rows)
            for one in found.rejects:
                _add(self.report.rejected, one.code, 1)
        oldest_ms = min(one.recorded_ms for values in batch.values() for one in values)
        self.report.delay_s = max(0.0, self._clock() - oldest_ms / 1000)
        self.report.batches += 1

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
        _add(self.report.failures, error.dependency, 1)
        _log.warning("sink_waits", dependency=error.dependency, detail=error.detail)


class _Reader:
    """The topics' committed records from given offsets on; belongs to no group and commits nothing to Kafka."""

    def __init__(self, bootstrap_servers: str, ids: dict[str, str], offsets: dict[Place, int]) -> None:
        self.ids = ids
        self.moved: dict[Place, int] = {}  # what is read and not yet remembered
        self.consumer: Consumer = ledger.consumer(bootstrap_servers, eof=True)
        try:
            places = ledger.partitions_of(self.consumer, list(ids))
        except Unavailable:
            self.consumer.close()
            raise
        self._places = [Place(place.topic, ids[place.topic], place.partition) for place in places]
        self._next = {place: offsets.get(place, 0) for place in self._places}
        self.consumer.assign([TopicPartition(place.topic, place.partition, self._next[place]) for place in self._places])

    def read(self, records: int, linger_s: float) -> dict[str, list[Value]]:
        """The next records by topic: as many as asked for, or what has come after ``linger_s``."""
        batch: dict[str, list[Value]] = {}
        deadline_s, wanted = time.monotonic() + linger_s, records
        while wanted and (left_s := deadline_s - time.monotonic()) > 0:
            for message in self.consumer.consume(wanted, timeout=left_s):
                wanted -= self._take(message, batch)
        return batch

    def settle(self) -> None:
        """What was read is remembered now."""
        self.moved = {}

    def behind(self) -> dict[str, int]:
        """Records between here and the ends of the partitions as the consumer has last heard of them."""
        lag = dict.fromkeys(self.ids, 0)
        for place in self._places:
            _, end = self.consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), cached=True)
            lag[place.topic] += max(0, end - self._next[place])
        return lag

    def _take(self, message: Message, batch: dict[str, list[Value]]) -> int:
        error, topic, partition, offset = message.error(), message.topic(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own constant
            raise Unavailable("kafka", error.str())
        if topic is None or partition is None or offset is None:
            return 0
        place = Place(topic, self.ids[topic], partition)
        # the end of a partition lies behind the markers of its transactions, which are no records
        after = offset if error is not None else offset + 1
        if after > self._next[place]:
            self._next[place] = self.moved[place] = after
        if error is not None:
            return 0
        batch.setdefault(topic, []).append(Value(partition, offset, message.timestamp()[1], message.value()))
        return 1


def topic_ids(bootstrap_servers: str, topics: Sequence[str]) -> dict[str, str]:
    """The identity of each topic, which a topic of the same name that is made later does not have; raises Unavailable."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        answers = client.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT_S)
        return {topic: str(answer.result(timeout=_TIMEOUT_S).topic_id) for topic, answer in answers.items()}
    except (KafkaException, TimeoutError) as error:
        raise Unavailable("kafka", f"topics: {error}") from error


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


def _bounds(values: Sequence[Value]) -> list[tuple[int, int, int]]:
    """Of each partition its first and last offset."""
    bounds: dict[int, tuple[int, int]] = {}
    for one in values:
        first, _ = bounds.get(one.partition, (one.offset, one.offset))
        bounds[one.partition] = (first, one.offset)
    return sorted((partition, first, last) for partition, (first, last) in bounds.items())
