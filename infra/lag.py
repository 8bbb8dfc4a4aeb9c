"""How many records a consumer group has still to read, by topic; asks the broker, reads no record."""

from __future__ import annotations

from functools import cache

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

from fraud.errors import Unavailable
from serving import ledger

__all__ = ["read_lag"]

_TIMEOUT_S = 3.0


@cache
def _client(bootstrap_servers: str) -> AdminClient:
    """One connection a process: a new one every few seconds would cost more than the answer."""
    return ledger.admin(bootstrap_servers)


def read_lag(bootstrap_servers: str, group: str) -> dict[str, int]:
    """Records between what the group committed and the ends of its partitions; nothing when it has committed nothing.

    Raises:
        Unavailable: the broker does not answer.
    """
    client = _client(bootstrap_servers)
    try:
        (asked,) = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=_TIMEOUT_S).values()
        places = [part for part in asked.result(timeout=_TIMEOUT_S).topic_partitions if part.offset >= 0]
    except (KafkaException, TimeoutError) as error:
        raise Unavailable("kafka", f"offsets of {group}: {error}") from error
    ends = ledger.ends_of(client, places, committed=False, timeout_s=_TIMEOUT_S)
    newest = {(end.topic, end.partition): end.offset for end in ends}
    lag: dict[str, int] = {}
    for part in places:
        behind = max(0, newest[part.topic, part.partition] - part.offset)
        lag[part.topic] = lag.get(part.topic, 0) + behind
    return lag
