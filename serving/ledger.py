"""Reading what the stream has committed: the ledger's topics from the start, or from a point, up to the last stable offset.

Only committed records are seen (``read_committed``); what the fast lane says meanwhile is not the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from fraud.errors import Unavailable

__all__ = [
    "ALERTS",
    "AUDIT",
    "DEAD_LETTERS",
    "DECISIONS",
    "END_WAIT_MS",
    "ERASURES",
    "ERASURES_APPLIED",
    "FAST_LANE",
    "LABELS",
    "LABELS_APPLIED",
    "RULES",
    "SHADOWS",
    "TRANSACTIONS",
    "admin",
    "consumer",
    "end_offsets",
    "ends_of",
    "partitions_of",
    "read_to_end",
]

TRANSACTIONS, LABELS, ERASURES = "transactions", "labels", "erasures"
FAST_LANE = "decisions"
DECISIONS, ALERTS, DEAD_LETTERS, LABELS_APPLIED = "fraud-events", "fraud_alerts", "transactions.dlq", "labels-applied"
ERASURES_APPLIED, SHADOWS = "erasures-applied", "shadow-decisions"
AUDIT, RULES = "audit", "rules"

_BATCH = 2_000
_TIMEOUT_S = 10.0
END_WAIT_MS = 10  # for who reads to the end, see ``consumer``
_POLL_S = 0.1  # a batch that is not full waits this long


def consumer(bootstrap: str, *, committed: bool = True, eof: bool = False, wait_ms: int = 500) -> Consumer:
    """A consumer that commits nothing and belongs to no group that anybody else uses.

    ``eof`` tells the end of a partition, which the broker does with an empty answer after ``wait_ms``: a short wait is for who reads to
    the end and goes, since who stays asks so often for as long as it lives.
    """
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "fraudguard-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.partition.eof": eof,
            "auto.offset.reset": "earliest",  # a place that retention has removed: go on with the next record that is there, not at the end
            "queued.max.messages.kbytes": 65_536,
            "fetch.queue.backoff.ms": 5,  # the default stops fetching for a second whenever the queue was full
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            "fetch.wait.max.ms": wait_ms,
            "log_level": 0,  # a broker that is away is an error of the call, not a line on somebody's terminal twenty times a second
        }
    )


def partitions_of(client: Consumer | AdminClient, topics: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> list[TopicPartition]:
    """Every partition of the topics, at its beginning; raises Unavailable when the broker or a topic is not there."""
    try:
        metadata = client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise Unavailable("kafka", str(error)) from error
    missing = [topic for topic in topics if topic not in metadata.topics]
    if missing:
        raise Unavailable("kafka", f"no topic {', '.join(missing)}")
    return [TopicPartition(topic, partition, OFFSET_BEGINNING) for topic in topics for partition in metadata.topics[topic].partitions]


def end_offsets(bootstrap: str, topics: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> list[TopicPartition]:
    """Where each partition ends now: the place to start reading what comes next.  Raises Unavailable."""
    client = admin(bootstrap)
    return ends_of(client, partitions_of(client, topics, timeout_s=timeout_s), timeout_s=timeout_s)


def admin(bootstrap: str) -> AdminClient:
    """A client that asks about the log and reads nothing of it."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def ends_of(
    client: AdminClient, places: Sequence[TopicPartition], *, committed: bool = True, timeout_s: float = _TIMEOUT_S
) -> list[TopicPartition]:
    """Where these partitions end now, behind what is committed or behind everything; one question to each broker.

    Not by a consumer: its connection answers in turn, so that each question waits until a fetch before it is over.

    Raises:
        Unavailable: the broker does not answer.
    """
    newest = {TopicPartition(place.topic, place.partition): OffsetSpec.latest() for place in places}
    if not newest:
        return []
    isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    try:
        answers = client.list_offsets(newest, isolation_level=isolation, request_timeout=timeout_s)
        return [TopicPartition(one.topic, one.partition, answer.result(timeout=timeout_s).offset) for one, answer in answers.items()]
    except (KafkaException, TimeoutError) as error:
        raise Unavailable("kafka", f"offsets: {error}") from error


def read_to_end(
    bootstrap: str, topics: Sequence[str], start: Sequence[TopicPartition] | None = None, *, committed: bool = True
) -> Iterator[Message]:
    """Yield the committed records of the topics, each partition in order, up to what is stable now.

    With ``committed`` false the records of open and aborted transactions come too, up to the last one.

    Raises:
        Unavailable: the broker does not answer, or a topic is not there.
    """
    reader = consumer(bootstrap, committed=committed, eof=True, wait_ms=END_WAIT_MS)
    try:
        places = list(start) if start is not None else partitions_of(reader, topics)
        reader.assign(places)
        open_places = {(place.topic, place.partition) for place in places}
        last_answer_s = time.monotonic()
        while open_places:
            batch = reader.consume(_BATCH, timeout=_POLL_S)
            if batch:
                last_answer_s = time.monotonic()
            elif time.monotonic() - last_answer_s > _TIMEOUT_S:
                raise Unavailable("kafka", f"no answer within {_TIMEOUT_S:g} s")
            for message in batch:
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own constant
                    open_places.discard((message.topic(), message.partition()))
                else:
                    raise Unavailable("kafka", error.str())
    finally:
        reader.close()
