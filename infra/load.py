"""Open-loop load from outside the system, and the latency of each answer, counted from when its event was due.

A sender that waits for answers, or that falls behind and forgets it, hides the worst latencies (coordinated omission); here every
event has its place in a schedule, and being late to send it counts against the system.  Events are encoded before the clock
starts, and answers are told apart by the identity at the start of their bytes, so that the load costs the machine little.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from confluent_kafka import KafkaException, Producer
from numpy.typing import NDArray

from fraud.errors import Unavailable
from fraud.events import Transaction, decision_id
from serving import ledger
from serving.codec import Codec

__all__ = ["Load", "Measured", "prepare", "send"]

_LANES = {"fast": ledger.FAST_LANE, "ledger": ledger.DECISIONS}
_TICK_S = 0.001
_PATIENCE_S = 30.0
# header of a framed record, then the length of the identity in one byte: see avro/decision.avsc
_ID_AT = 6


@dataclass(frozen=True, slots=True)
class Load:
    """Encoded events in the order of sending; ``places`` finds an event by its decision's identity."""

    keys: list[bytes]
    values: list[bytes]
    places: dict[bytes, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a load did: ``due_s`` float64[N] is the schedule from its start, ``latency_s`` float64[N] by lane, NaN without answer."""

    due_s: NDArray[np.float64]
    latency_s: dict[str, NDArray[np.float64]]

    def unanswered(self, lane: str) -> int:
        return int(np.isnan(self.latency_s[lane]).sum())

    def answered_s(self) -> NDArray[np.float64]:
        """When each event was answered on the fast lane, seconds from the start, sorted; those without an answer are left out."""
        times = self.due_s + self.latency_s["fast"]
        return np.sort(times[~np.isnan(times)])


def prepare(transactions: Sequence[Transaction], codec: Codec) -> Load:
    """Encode events ahead of a load."""
    places = {decision_id(tx.tenant_id, tx.transaction_id).encode(): i for i, tx in enumerate(transactions)}
    if len(places) != len(transactions):
        raise ValueError("two events of a load have one identity")
    return Load([tx.card_id.encode() for tx in transactions], [codec.encode_transaction(tx) for tx in transactions], places)


def send(bootstrap: str, load: Load, *, rate: float | None) -> Measured:
    """Send a load, at ``rate`` events/s or as fast as the broker takes it, and wait for the answers.

    Waiting ends when every event has its answer on each lane, or none came for 30 s.

    Raises:
        Unavailable: Kafka does not answer, or refuses an event.
    """
    count = len(load.values)
    due_s = np.zeros(count) if rate is None else np.arange(count) / rate
    stop = threading.Event()
    readers = {lane: _Reader(bootstrap, topic, load, stop) for lane, topic in _LANES.items()}
    begin_s = time.perf_counter()
    try:
        _send_all(bootstrap, load, due_s, begin_s)
        while any(reader.answered < count for reader in readers.values()):
            newest_s = max(reader.newest_s for reader in readers.values())
            if time.perf_counter() - max(newest_s, begin_s + due_s[-1]) > _PATIENCE_S:
                break
            time.sleep(0.02)
    finally:
        stop.set()
        for reader in readers.values():
            reader.join()
    return Measured(due_s, {lane: reader.received_s - begin_s - due_s for lane, reader in readers.items()})


def _send_all(bootstrap: str, load: Load, due_s: NDArray[np.float64], begin_s: float) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 5,
            "acks": "all",
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    failed: list[str] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(str(error))

    at, count = 0, len(load.values)
    while at < count:
        now_s = time.perf_counter() - begin_s
        until = int(np.searchsorted(due_s, now_s, side="right"))
        if until == at:
            time.sleep(_TICK_S)
        until = min(until, at + 5_000)
        for i in range(at, until):
            _produce(producer, load.keys[i], load.values[i], delivered)
        at = until
        producer.poll(0)
    left = producer.flush(60)
    if failed:
        raise Unavailable("kafka", f"{len(failed)} records were not accepted, the first because of: {failed[0]}")
    if left:
        raise Unavailable("kafka", f"{left} records were not acknowledged")


def _produce(producer: Producer, key: bytes, value: bytes, delivered: Callable[[object, object], None]) -> None:
    while True:
        try:
            producer.produce(ledger.TRANSACTIONS, value, key, on_delivery=delivered)
        except BufferError:
            producer.poll(0.01)
        except KafkaException as error:
            raise Unavailable("kafka", str(error)) from error
        else:
            return


class _Reader(threading.Thread):
    """Notes when each event's answer arrives on a topic; ready to receive when the constructor returns."""

    def __init__(self, bootstrap: str, topic: str, load: Load, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.received_s = np.full(len(load.values), np.nan)
        self.answered = 0
        self.newest_s = 0.0
        self._places = load.places
        self._stop_asked = stop
        self._consumer = ledger.consumer(bootstrap, committed=topic != ledger.FAST_LANE)
        self._consumer.assign(ledger.end_offsets(bootstrap, (topic,)))
        self._consumer.poll(0.2)
        self._id_bytes = len(next(iter(load.places)))
        self.start()

    def run(self) -> None:
        end = _ID_AT + self._id_bytes
        received_s, places = self.received_s, self._places
        while not self._stop_asked.is_set():
            # wait for one, then take what is there: ``consume`` alone would wait for more
            first = self._consumer.poll(0.1)
            if first is None:
                continue
            messages = [first, *self._consumer.consume(1_000, timeout=0)]
            now_s = time.perf_counter()
            for message in messages:
                value = message.value()
                place = places.get(value[_ID_AT:end]) if message.error() is None else None
                if place is not None and math.isnan(received_s[place]):  # the fast lane may repeat an answer; the first one counts
                    received_s[place] = now_s
                    self.answered += 1
                    self.newest_s = now_s
        self._consumer.close()
