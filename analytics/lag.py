"""How far the sink has come: the places of the ledger that it follows, and how many records ClickHouse still lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.httpclient import HttpClient
from confluent_kafka import KafkaException, TopicCollection, TopicPartition

from fraud.errors import Unavailable
from serving import ledger

__all__ = ["TOPICS", "Place", "behind", "read_offsets", "topic_ids"]

TOPICS = (ledger.DECISIONS, ledger.SHADOWS, ledger.LABELS_APPLIED, ledger.ERASURES_APPLIED)
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A partition of a topic that exists now; one that was deleted and made again has another ``topic_id``."""

    topic: str
    topic_id: str
    partition: int


def topic_ids(bootstrap_servers: str, topics: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> dict[str, str]:
    """The identity of each topic, which a topic of the same name that is made later does not have; raises Unavailable."""
    client = ledger.admin(bootstrap_servers)
    try:
        answers = client.describe_topics(TopicCollection(list(topics)), request_timeout=timeout_s)
        return {topic: str(answer.result(timeout=timeout_s).topic_id) for topic, answer in answers.items()}
    except (KafkaException, TimeoutError) as error:
        raise Unavailable("kafka", f"topics: {error}") from error


def read_offsets(client: HttpClient) -> dict[Place, int]:
    """Where the sink goes on in each partition, as ClickHouse remembers it; raises one of :data:`analytics.connection.FAILURES`."""
    rows = client.query("SELECT topic, topic_id, partition, max(next_offset) FROM sink_offsets GROUP BY 1, 2, 3").result_rows
    return {Place(topic, topic_id, partition): offset for topic, topic_id, partition, offset in rows}


def behind(ids: Mapping[str, str], ends: Sequence[TopicPartition], done: Mapping[Place, int]) -> dict[str, int]:
    """Records of each topic between where the sink goes on and where the partitions end."""
    lag = dict.fromkeys(ids, 0)
    for end in ends:
        lag[end.topic] += max(0, end.offset - done.get(Place(end.topic, ids[end.topic], end.partition), 0))
    return lag
