"""Drives transactions and labels through Kafka and the running job, and watches them come out.

Load is open-loop when a rate is given: an event is due at its place on the schedule whatever the system does, and latency
counts from there.  Without a rate it goes as fast as ``window`` events in flight allow, which also bounds how far the
partitions can run apart in event time.

With ``hold``, a label finds its card's log in the state in which the file has it.  Kafka keeps no order between two topics, so a
card with a label due is held: its label leaves when its earlier transactions are decided, its later transactions when the label
is applied.  Other cards go on meanwhile.  Live traffic does not wait for labels, and neither does a driver without ``hold``.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import polars as pl
from confluent_kafka import Consumer, KafkaException, Message, Producer

from fraud.errors import Unavailable
from fraud.events import Label, Transaction, decision_id
from generator.acks import Ack, AckLog, identity_of
from serving import ledger
from serving.codec import Codec
from serving.history import to_transactions

__all__ = ["Driver", "Outgoing", "Run", "interleave"]

_CHUNK = 5_000
_STALLED_S = 3.0  # duplicates and dead letters have no decision to wait for: after this long they are taken as answered


@dataclass(slots=True)
class Outgoing:
    """A transaction or a label on its way; ``due_s`` is its place on the schedule, seconds from the start."""

    card: tuple[str, str]
    record: Transaction | Label
    due_s: float = 0.0


@dataclass(slots=True)
class Run:
    """What a run saw: latencies are from schedule to receipt on the fast lane, milliseconds."""

    sent: int = 0
    labels_sent: int = 0
    answered: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    sent_ids: dict[str, str] = field(default_factory=dict)  # decision id -> transaction id
    sent_labels: set[str] = field(default_factory=set)  # identities, see generator.acks
    answered_ms: dict[str, float] = field(default_factory=dict)  # decision id -> wall clock of its first answer
    fast_lane_repeats: int = 0

    @property
    def rate(self) -> float:
        """Answered transactions a second."""
        return self.answered / self.seconds if self.seconds else 0.0


def interleave(frame: pl.DataFrame, labels: pl.DataFrame | None, rate: float | None) -> Iterator[Outgoing]:
    """Transactions in file order, each label before the first transaction whose event time reaches the label's time."""
    waiting = deque(_labels(labels))
    clock = 0
    sent = 0
    for start in range(0, frame.height, _CHUNK):
        for tx in to_transactions(frame, start, min(start + _CHUNK, frame.height)):
            clock = max(clock, tx.event_time_ms)
            due_s = sent / rate if rate else 0.0
            while waiting and waiting[0].label_time_ms <= clock:
                label = waiting.popleft()
                yield Outgoing((label.tenant_id, label.card_id), label, due_s)
            yield Outgoing((tx.tenant_id, tx.card_id), tx, due_s)
            sent += 1


def _labels(frame: pl.DataFrame | None) -> list[Label]:
    return [] if frame is None else [Label(**row) for row in frame.iter_rows(named=True)]


class Driver:
    """One run of load against a stack.

    Args:
        bootstrap: Kafka.
        codec: encodes what goes in, decodes what comes out.
        window: transactions in flight at most when there is no rate.
        hold: keep labels and transactions of a card in the order of the file.
        on_progress: called about ten times a second with the run so far and the latest decisions.
        clock: wall clock in seconds.
        acks: where to write down what the broker acknowledged.  A record that it did not take is then no error of the run: it
            is not in the log.
        producer_options: of librdkafka, over our own.
    """

    def __init__(
        self,
        bootstrap: str,
        codec: Codec,
        *,
        window: int = 4_000,
        hold: bool = True,
        on_progress: Callable[[Run], None] = lambda _run: None,
        clock: Callable[[], float] = time.time,
        acks: AckLog | None = None,
        producer_options: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._codec = codec
        self._window = window
        self._hold = hold
        self._on_progress = on_progress
        self._clock = clock
        self.run_so_far = Run()
        self._acks = acks
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 1, "acks": "all", "enable.idempotence": True, **(producer_options or {})}
        )
        self._failed: list[str] = []
        self._outstanding: Counter[tuple[str, str]] = Counter()
        self._held: dict[tuple[str, str], deque[Outgoing]] = {}
        self._due: dict[str, float] = {}
        self._in_flight = 0
        self._started_s = 0.0
        self._last_answer_s = 0.0
        self._reported_s = 0.0

    def run(self, outgoing: Iterator[Outgoing], *, paced: bool, linger_s: float = 20.0) -> Run:
        """Send everything, then wait up to ``linger_s`` without an answer for what is still in flight.

        Raises:
            Unavailable: Kafka refuses or is away.
        """
        reader = ledger.consumer(self._bootstrap, committed=False)
        reader.assign(ledger.end_offsets(self._bootstrap, (ledger.FAST_LANE, ledger.LABELS_APPLIED)))
        try:
            self._started_s = self._last_answer_s = self._clock()
            for item in outgoing:
                self._wait_for_turn(reader, item, paced=paced)
                self._submit(item)
            self._producer.flush(30)
            while (self._in_flight > 0 or self._held) and self._clock() - self._last_answer_s < linger_s:
                self._receive(reader, 0.05)
                if self._held and self._clock() - self._last_answer_s > _STALLED_S:
                    self._assume_answered()
            self.run_so_far.seconds = max(self._last_answer_s - self._started_s, 1e-9)
            self._producer.flush(30)
        finally:
            reader.close()
            if self._acks is not None:
                self._acks.sync()
        if self._failed and self._acks is None:
            raise Unavailable("kafka", f"{len(self._failed)} records were not accepted, the first because of: {self._failed[0]}")
        return self.run_so_far

    def _wait_for_turn(self, reader: Consumer, item: Outgoing, *, paced: bool) -> None:
        """Receive answers until the item is due and there is room."""
        while True:
            now_s = self._clock()
            wait_s = self._started_s + item.due_s - now_s
            if paced:
                if wait_s <= 0:
                    # answers keep coming in between even when the sender is behind its schedule
                    if now_s - self._reported_s > 0.1:
                        self._receive(reader, 0.0)
                    return
                self._receive(reader, min(wait_s, 0.002))
                continue
            if self._in_flight < self._window:
                if self.run_so_far.sent % 500 == 0:
                    self._receive(reader, 0.0)
                return
            self._receive(reader, 0.01)
            if self._clock() - self._last_answer_s > _STALLED_S:
                self._assume_answered()

    def _assume_answered(self) -> None:
        """Stop waiting for what may never be decided: a duplicate, a dead letter, a label of either."""
        self._in_flight = 0
        self._outstanding.clear()
        self._last_answer_s = self._clock()
        for card in list(self._held):
            self._release(card)

    def _submit(self, item: Outgoing) -> None:
        if item.card in self._held:
            self._held[item.card].append(item)
        elif isinstance(item.record, Transaction):
            self._send_transaction(item)
        elif not self._hold:
            self._send_label(item.record)
        else:
            self._held[item.card] = deque([item])
            if self._outstanding[item.card] == 0:
                self._release(item.card)

    def _release(self, card: tuple[str, str]) -> None:
        """Send what a held card may send now: transactions up to the next label, or that label and nothing behind it."""
        queue = self._held[card]
        while queue:
            item = queue[0]
            if isinstance(item.record, Label):
                if self._outstanding[card] == 0:
                    queue.popleft()
                    self._send_label(item.record)
                return
            queue.popleft()
            self._send_transaction(item)
        del self._held[card]

    def _send_label(self, label: Label) -> None:
        self.run_so_far.labels_sent += 1
        self.run_so_far.sent_labels.add(identity_of(label))
        self._produce(ledger.LABELS, label.card_id, self._codec.encode_label(label), label)

    def _send_transaction(self, item: Outgoing) -> None:
        tx = item.record
        assert isinstance(tx, Transaction)
        identity = decision_id(tx.tenant_id, tx.transaction_id)
        self._outstanding[item.card] += 1
        self._in_flight += 1
        self.run_so_far.sent += 1
        self.run_so_far.sent_ids[identity] = tx.transaction_id
        self._due[identity] = self._started_s + item.due_s
        self._produce(ledger.TRANSACTIONS, tx.card_id, self._codec.encode_transaction(tx), tx)

    def _produce(self, topic: str, key: str, value: bytes, record: Transaction | Label) -> None:
        delivered = self._delivered
        if self._acks is not None:
            delivered = partial(self._acknowledged, self._acks.number(), identity_of(record))
        while True:
            try:
                self._producer.produce(topic, value, key.encode(), on_delivery=delivered)
                break
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise Unavailable("kafka", str(error)) from error
        self._producer.poll(0)

    def _delivered(self, error: object, _message: Message) -> None:
        if error is not None:
            self._failed.append(str(error))

    def _acknowledged(self, number: int, identity: str, error: object, message: Message) -> None:
        self._delivered(error, message)
        if error is None and self._acks is not None:
            offset = message.offset()
            place = str(message.topic()), int(message.partition() or 0), -1 if offset is None else max(-1, int(offset))
            self._acks.write(Ack(number, identity, *place, self._clock() * 1000.0))

    def _receive(self, reader: Consumer, timeout_s: float) -> None:
        now_s = self._clock()
        if now_s - self._reported_s > 0.1:
            self._reported_s = now_s
            self.run_so_far.seconds = now_s - self._started_s
            if self._acks is not None:
                self._acks.sync()
            self._on_progress(self.run_so_far)
        self._producer.poll(0)
        for message in reader.consume(1_000, timeout=timeout_s):
            if message.error() is not None:
                continue
            if message.topic() == ledger.FAST_LANE:
                self._answered(message)
            else:
                applied = self._codec.decode_label_applied(message.value())
                card = next((position.key for position in applied.entities if position.kind == "card"), "")
                self._last_answer_s = self._clock()
                owner = (applied.tenant_id, card.removeprefix(f"{applied.tenant_id}|"))
                if owner in self._held:
                    self._release(owner)

    def _answered(self, message: Message) -> None:
        run = self.run_so_far
        decision = self._codec.decode_decision(message.value())
        due_s = self._due.pop(decision.decision_id, None)
        if due_s is None:
            if decision.decision_id in run.sent_ids:
                run.fast_lane_repeats += 1
            return
        now_s = self._last_answer_s = self._clock()
        run.answered += 1
        run.latencies_ms.append((now_s - due_s) * 1000.0)
        run.answered_ms[decision.decision_id] = now_s * 1000.0
        run.outcomes[decision.outcome] += 1
        self._in_flight = max(0, self._in_flight - 1)
        card = (decision.tenant_id, decision.transaction.card_id)
        self._outstanding[card] -= 1
        if self._outstanding[card] <= 0:
            del self._outstanding[card]
            if card in self._held:
                self._release(card)
