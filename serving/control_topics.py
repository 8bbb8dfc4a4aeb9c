"""Writing to the control topics, from which stream and API take over rules and models: one record, acknowledged."""

from __future__ import annotations

from confluent_kafka import KafkaException, Producer

from fraud.errors import Unavailable

__all__ = ["ControlTopics"]

_KEY = b"default"
_FLUSH_S = 15.0


class ControlTopics:
    """Sends to the control topics of one installation; safe to share between threads."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 0})

    def send(self, topic: str, value: bytes) -> None:
        """Send a record and wait until the brokers have it; raises Unavailable."""
        failures: list[str] = []
        try:
            self._producer.produce(topic, value, _KEY, on_delivery=lambda error, _message: failures.append(str(error)) if error else None)
        except (KafkaException, BufferError) as error:
            raise Unavailable("kafka", str(error)) from error
        if self._producer.flush(_FLUSH_S) or failures:
            raise Unavailable("kafka", failures[0] if failures else "no answer")
