"""The topics of the system and their settings; creating them is idempotent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, ResourceType

from fraud.errors import Unavailable
from serving import ledger

__all__ = ["TOPICS", "Topic", "create_topics"]

_MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # a 1 MiB value must arrive, so that the job can send it to the dead letters
_TIMEOUT_S = 30.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Topic:
    """One topic; a ``compacted`` one keeps the last value of each key for ever, a ``permanent`` one everything, the others a week.

    A permanent topic has one partition: its records have one order.
    """

    name: str
    compacted: bool = False
    permanent: bool = False

    def partitions(self, wanted: int) -> int:
        """How many partitions it gets where ``wanted`` is asked for."""
        return 1 if self.permanent else wanted

    def settings(self, retention_ms: int) -> dict[str, str]:
        """Its broker-side settings.

        Retention counts from arrival: with the producer's time, a replay of last year's events would be deleted as it comes in.
        """
        kept_ms = -1 if self.permanent else retention_ms
        keep = {"cleanup.policy": "compact"} if self.compacted else {"cleanup.policy": "delete", "retention.ms": str(kept_ms)}
        return {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(_MAX_MESSAGE_BYTES), **keep}


TOPICS = (
    Topic("transactions"),
    Topic("labels"),
    Topic("erasures"),
    Topic("rules", compacted=True),
    Topic("models", compacted=True),
    Topic("decisions"),
    Topic("fraud-events"),
    Topic("shadow-decisions"),
    Topic("fraud_alerts"),
    Topic("transactions.dlq"),
    Topic("labels-applied"),
    Topic("erasures-applied"),
    Topic("audit", permanent=True),
)


def create_topics(bootstrap_servers: str, *, partitions: int, retention_ms: int, topics: Sequence[Topic] = TOPICS) -> list[str]:
    """Create what is missing, correct settings and partition counts of what is there (never fewer); returns the names created.

    What is new answers when this returns: the controller says that a topic is made before the broker knows it and leads its partitions.

    Raises:
        Unavailable: Kafka does not answer, or refuses.
    """
    client = ledger.admin(bootstrap_servers)
    try:
        existing = client.list_topics(timeout=_TIMEOUT_S).topics
        new = [topic for topic in topics if topic.name not in existing]
        old = [topic for topic in topics if topic.name in existing]
        if new:
            wanted = [
                NewTopic(topic.name, topic.partitions(partitions), replication_factor=1, config=topic.settings(retention_ms))
                for topic in new
            ]
            _await_all(client.create_topics(wanted), accept=KafkaError.TOPIC_ALREADY_EXISTS)
            _await_leaders(client, [topic.name for topic in new])
        if old:
            _await_all(client.incremental_alter_configs([_alteration(topic, retention_ms) for topic in old]))
        short = [
            NewPartitions(topic.name, topic.partitions(partitions))
            for topic in old
            if len(existing[topic.name].partitions) < topic.partitions(partitions)
        ]
        if short:
            _await_all(client.create_partitions(short))
    except KafkaException as error:
        raise Unavailable("kafka", f"topics could not be created: {error.args[0].str()}") from error
    return [topic.name for topic in new]


def _await_leaders(client: AdminClient, topics: Sequence[str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            ledger.ends_of(client, ledger.partitions_of(client, topics, timeout_s=_TIMEOUT_S), timeout_s=_TIMEOUT_S)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


def _alteration(topic: Topic, retention_ms: int) -> ConfigResource:
    entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in topic.settings(retention_ms).items()]
    return ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)


def _await_all(futures: dict[object, object], *, accept: int | None = None) -> None:
    for future in futures.values():
        try:
            future.result(timeout=_TIMEOUT_S)  # type: ignore[attr-defined]
        except KafkaException as error:
            if error.args[0].code() != accept:
                raise
