"""Decided transactions on their way to Kafka: handed over at once, sent in order, kept while Kafka is away, up to a bound.

The buffer is the client's own queue: it holds what is not acknowledged, retries for as long as the process lives, and its
idempotent producer keeps the order of each card.  What does not fit any more is counted and lost to the stream: its caller has an
answer that says ``kafka_down``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaException, Producer

from serving import ledger

__all__ = ["CAPACITY", "KafkaPublisher"]

CAPACITY = 1_000
BEHIND_AFTER_S = 1.0  # an acknowledgement takes milliseconds; a leader election about a second
_POLL_S = 0.05
_FLUSH_S = 5.0

Headers = Sequence[tuple[str, bytes]]


class KafkaPublisher:
    """Sends records to the topic ``transactions``; belongs to one event loop.

    Args:
        bootstrap: addresses of brokers; none of them need be there.
        capacity: events kept while they cannot be sent.
        clock: seconds, monotonic.

    Attributes:
        waiting: events that are not acknowledged.
        sent: events acknowledged.
        refused: events that the broker will never take (too large, no such topic).
        overflowed: events that did not fit into the buffer.
    """

    def __init__(self, bootstrap: str, *, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic) -> None:
        self.waiting = self.sent = self.refused = self.overflowed = 0
        self._clock = clock
        self._stuck_since_s: float | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 10,  # nobody waits for it, and a request for each record cost the broker as much as the answer cost us
                "queue.buffering.max.messages": capacity,
                "message.timeout.ms": 0,  # for ever: what is in the buffer leaves it by being sent
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,  # an absent broker shows in readiness and metrics, not twenty times a second on standard error
            }
        )

    @property
    def is_behind(self) -> bool:
        """Whether nothing has been acknowledged for longer than Kafka ever takes, though something waits."""
        return self._stuck_since_s is not None and self._clock() - self._stuck_since_s > BEHIND_AFTER_S

    def publish(self, key: bytes, value: bytes, headers: Headers) -> bool:
        """Hand over one event; False when the buffer is full."""
        try:
            self._producer.produce(ledger.TRANSACTIONS, value, key, headers=list(headers), on_delivery=self._delivered)
        except (BufferError, KafkaException):
            self.overflowed += 1
            return False
        self.waiting += 1
        if self._stuck_since_s is None:
            self._stuck_since_s = self._clock()
        return True

    async def serve(self) -> None:
        """Take acknowledgements for as long as the process lives."""
        while True:
            self._producer.poll(0)
            await asyncio.sleep(_POLL_S)

    async def close(self) -> int:
        """Send what is left, within seconds; returns how many events could not be sent."""
        return int(await asyncio.to_thread(self._producer.flush, _FLUSH_S))

    def _delivered(self, error: object, _message: object) -> None:
        self.waiting -= 1
        if error is None:
            self.sent += 1
        else:
            self.refused += 1
        self._stuck_since_s = self._clock() if self.waiting else None
