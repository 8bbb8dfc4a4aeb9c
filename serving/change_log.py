"""The audit log: every change that a person makes, in one order, each bound to the one before it by its hash.

The log is the topic ``audit`` (one partition, kept for ever), and it is also what decides between two people who change the same thing
at the same moment.  A writer numbers its change after the newest that it knows and appends it; the first record of a number counts, by
every reader's reckoning, and the writer of a second one reads that it has lost and looks again.  No lock, and no other store.

A record that was altered, removed or put in shows: it does not fit its neighbours.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

from confluent_kafka import KafkaException, Message, Producer, TopicPartition

from fraud.errors import InvalidEvent, Unavailable
from serving import ledger
from serving.codec import Codec
from serving.records import Change

__all__ = ["Actor", "ChangeLog", "change_of", "hash_of"]

_FIRST = "0" * 64
_TIMEOUT_S = 5.0  # a person waits for it
_POLL_S = 0.05
_BATCH = 500
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, and within which request."""

    tenant_id: str
    name: str
    role: str
    trace_id: str | None = None


def change_of(action: str, target: str, *, before: str | None = None, after: str | None = None, body: str | None = None) -> Change:
    """A change as its maker knows it; the log adds number, hashes, time and person."""
    return Change(0, "", "", 0, "", "", "", action, target, before=before, after=after, body=body)


def hash_of(change: Change) -> str:
    """The hash that a change must carry."""
    plain = asdict(change)
    del plain["hash"]
    return sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


class ChangeLog:
    """Reads and appends; safe to share between threads.

    Args:
        bootstrap: of the brokers.
        codec: of this stack.
        now_ms: wall clock, ms UTC.

    Attributes:
        entries: the changes that count, as of the last :meth:`refresh`; entry ``i`` has number ``i + 1``.
        faults: what does not fit: empty unless somebody has tampered with the topic.
    """

    def __init__(self, bootstrap: str, codec: Codec, now_ms: Callable[[], int]) -> None:
        self.entries: list[Change] = []
        self.faults: list[str] = []
        self._codec = codec
        self._now_ms = now_ms
        self._lock = threading.RLock()
        self._reader = ledger.consumer(bootstrap)
        self._looker = ledger.consumer(bootstrap)  # on the reader's connection a question waits behind its half-second fetch
        self._place: TopicPartition | None = None
        self._next_offset = 0
        settings = {"acks": "all", "enable.idempotence": True, "linger.ms": 0, "log_level": 0, "message.timeout.ms": int(_TIMEOUT_S * 1e3)}
        self._producer = Producer({"bootstrap.servers": bootstrap, **settings})

    def refresh(self) -> None:
        """Read what has been appended since the last time; raises Unavailable."""
        with self._lock:
            try:
                self._read_to(self._end())
            except KafkaException as error:
                raise Unavailable("kafka", str(error)) from error

    def append(self, actor: Actor, make: Callable[[], Change]) -> Change:
        """Append a change and return it as it stands in the log.

        Args:
            actor: who makes it.
            make: called with :attr:`entries` up to date, again after a lost race; gives the action, the target and what they carry,
                and raises what its caller wants to know when the change may not be made.

        Raises:
            Unavailable: the log cannot be read or written; whether the change was made, :meth:`refresh` will tell.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                self.refresh()
                if self.faults:
                    raise Unavailable("audit", "the log has been tampered with")
                wanted = self._next(actor, make())
                self._send(wanted)
                if self.entries[wanted.seq - 1].hash == wanted.hash:
                    return wanted
        raise Unavailable("audit", f"others were faster {_ATTEMPTS} times")

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._reader.close()
            self._looker.close()

    def _next(self, actor: Actor, change: Change) -> Change:
        numbered = replace(
            change,
            seq=len(self.entries) + 1,
            previous_hash=self.entries[-1].hash if self.entries else _FIRST,
            time_ms=self._now_ms(),
            tenant_id=actor.tenant_id,
            actor=actor.name,
            role=actor.role,
            trace_id=actor.trace_id,
        )
        return replace(numbered, hash=hash_of(numbered))

    def _send(self, change: Change) -> None:
        value = self._codec.encode_change(change)
        if len(value) > self._codec.max_value_bytes:
            raise InvalidEvent("too_large", f"the change has more than {self._codec.max_value_bytes} bytes")
        done: list[tuple[object, Message]] = []
        self._producer.produce(ledger.AUDIT, value, on_delivery=lambda error, message: done.append((error, message)))
        self._producer.flush(_TIMEOUT_S + 1)
        if not done or done[0][0] is not None:
            raise Unavailable("kafka", str(done[0][0]) if done else "no answer")
        self._read_to(done[0][1].offset() + 1)

    def _end(self) -> int:
        if self._place is None:
            (self._place,) = ledger.partitions_of(self._looker, (ledger.AUDIT,))
            self._reader.assign([self._place])
        end: int = self._looker.get_watermark_offsets(self._place, timeout=_TIMEOUT_S, cached=False)[1]
        return end

    def _read_to(self, end: int) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while self._next_offset < end:
            for message in self._reader.consume(_BATCH, timeout=_POLL_S):
                if message.error() is not None:
                    raise Unavailable("kafka", message.error().str())
                self._take(message)
                deadline_s = time.monotonic() + _TIMEOUT_S
            if time.monotonic() > deadline_s:
                raise Unavailable("kafka", f"no answer within {_TIMEOUT_S:g} s")

    def _take(self, message: Message) -> None:
        self._next_offset = message.offset() + 1
        try:
            change = self._codec.decode_change(message.value())
        except InvalidEvent as error:
            self.faults.append(f"offset {message.offset()}: {error.code}")
            return
        head = self.entries[-1] if self.entries else None
        if hash_of(change) != change.hash:
            self.faults.append(f"offset {message.offset()}: number {change.seq} is not what its hash says")
        elif change.seq == len(self.entries) + 1 and change.previous_hash == (head.hash if head else _FIRST):
            self.entries.append(change)
        elif change.seq > len(self.entries):
            self.faults.append(f"offset {message.offset()}: number {change.seq} does not follow number {len(self.entries)}")
        # else it has lost a race: a number that was given already
