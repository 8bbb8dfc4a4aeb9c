"""What the topology itself promises, whatever its operators compute: order, completeness, and exactly-once over faults.

The tests share one stack and one job, and the numbers that the counting operators give out must never repeat and never skip, from
the first record of the first test to the last record of the last, in whichever order the tests run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from confluent_kafka import Message, Producer

from flink_jobs.settings import JOB_NAME
from infra import scoring_job
from infra.jobs import JobTicket, load_tickets, save_ticket, submit_if_missing
from infra.stack import Stack
from serving import ledger
from tests.integration.counting_job import SHARDS, digest
from tests.private_stack import private_stack

pytestmark = pytest.mark.slow

LEDGER = (ledger.DECISIONS, ledger.DEAD_LETTERS, ledger.LABELS_APPLIED)
PATIENCE_S = 120.0
CARDS = 97
PER_SECOND = 1_000

Place = tuple[str, int, int]  # topic, partition, offset


@dataclass
class Bench:
    """The running job and everything that the broker acknowledged, by where it lies."""

    stack: Stack
    sent: dict[Place, tuple[bytes | None, bytes | None]] = field(default_factory=dict)

    def send(self, topic: str, records: list[tuple[bytes | None, bytes | None]], *, per_second: int | None = None) -> None:
        producer = Producer({"bootstrap.servers": self.stack.addresses.bootstrap_servers, "message.max.bytes": 2 * 1024 * 1024})
        began = time.monotonic()
        for index, (key, value) in enumerate(records):
            producer.produce(topic, key=key, value=value, on_delivery=self._acknowledged(key, value))
            producer.poll(0)
            if per_second:
                time.sleep(max(0.0, began + index / per_second - time.monotonic()))
        assert producer.flush(PATIENCE_S) == 0

    def _acknowledged(self, key: bytes | None, value: bytes | None) -> Callable[[Any, Message], None]:
        def note(error: object, message: Message) -> None:
            assert error is None
            self.sent[str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)] = (key, value)

        return note

    def send_control(self, topic: str, value: bytes) -> None:
        producer = Producer({"bootstrap.servers": self.stack.addresses.bootstrap_servers})
        producer.produce(topic, key=b"one key", value=value)
        assert producer.flush(PATIENCE_S) == 0

    def committed(self) -> list[dict[str, Any]]:
        return [json.loads(message.value() or b"") for message in ledger.read_to_end(self.stack.addresses.bootstrap_servers, LEDGER)]

    def repeats_on_the_fast_lane(self) -> int:
        """What at-least-once costs: the control that shows a kill really struck."""
        messages = ledger.read_to_end(self.stack.addresses.bootstrap_servers, [ledger.FAST_LANE])
        rows = [json.loads(message.value() or b"") for message in messages]
        return len(rows) - len({(row["topic"], row["partition"], row["offset"]) for row in rows})

    def settled(self) -> list[dict[str, Any]]:
        """The ledger once it holds as many rows as were sent, and two checkpoints later, when repeats would show."""
        deadline = time.monotonic() + PATIENCE_S
        while len(rows := self.committed()) < len(self.sent):
            assert time.monotonic() < deadline, f"{len(rows)} of {len(self.sent)} rows committed after {PATIENCE_S} s"
            time.sleep(0.5)
        time.sleep(2 * self.stack.plan.settings.checkpoint_interval_ms / 1000)
        return self.committed()

    def start(self, *, parallelism: int) -> None:
        found = [ticket for ticket in load_tickets(self.stack.layout) if ticket.name == JOB_NAME]
        ticket = found[0] if found else JobTicket(JOB_NAME, "tests.integration.counting_job:resume")
        save_ticket(self.stack.layout, replace(ticket, arguments=(str(parallelism),)))
        submit_if_missing(self.stack.plan, ticket)
        scoring_job.wait_until_running(self.stack.plan)

    def kill(self, name: str) -> None:
        pid = next(part.pid for part in self.stack.status().components if part.name == name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with private_stack(tmp_path_factory.mktemp("topology")) as stack:
        running = Bench(stack)
        running.start(parallelism=2)
        yield running


def some_records(count: int) -> list[tuple[bytes | None, bytes | None]]:
    rng = random.Random(count)
    return [(b"card-%d" % rng.randrange(CARDS), rng.randbytes(200)) for _ in range(count)]


def assert_clean(bench: Bench) -> list[dict[str, Any]]:
    """Every acknowledged record is in the ledger once, unaltered; each card's and each shard's numbers are gapless and in order."""
    rows = bench.settled()
    times = Counter((row["topic"], row["partition"], row["offset"]) for row in rows)
    assert [place for place in bench.sent if place not in times] == [], "lost"
    assert [place for place, count in times.items() if count > 1] == [], "duplicates"
    assert times.keys() == bench.sent.keys(), "phantoms"
    cards: dict[tuple[int, str | None], list[dict[str, Any]]] = defaultdict(list)
    shards: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        key, value = bench.sent[row["topic"], row["partition"], row["offset"]]
        assert row["value"] == digest(value)
        assert row["card"] == (None if key is None else key.decode("latin-1"))
        cards[row["home"], row["card"] or ""].append(row)
        shards[row["shard"]].append(row["shard_number"])
    for of_card in cards.values():
        of_card.sort(key=lambda row: row["card_number"])
        assert [row["card_number"] for row in of_card] == list(range(1, len(of_card) + 1))
        for topic in (ledger.TRANSACTIONS, ledger.LABELS):
            in_order = [(row["partition"], row["offset"]) for row in of_card if row["topic"] == topic]
            assert all(earlier[1] < later[1] for earlier, later in pairwise(in_order) if earlier[0] == later[0])
    for numbers in shards.values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
    return rows


def test_records_arrive_whole_and_in_order_whatever_is_in_them(bench: Bench) -> None:
    odd = [(None, b"no key"), (b"", b"empty key"), (b"card-1", None), (b"card-1", b""), (b"\xff\xfe", b"no text"), (None, None)]
    large = [(b"card-2", os.urandom(1024 * 1024)) for _ in range(3)]
    bench.send(ledger.TRANSACTIONS, [*odd, *some_records(3_000), *odd, *large])
    bench.send(ledger.LABELS, some_records(500))
    rows = assert_clean(bench)
    assert {row["shard"] for row in rows} == {row["home"] for row in rows} == set(range(SHARDS))
    assert all(abs(row["timestamp_ms"] - time.time() * 1000) < 600_000 for row in rows)


def test_a_control_record_reaches_every_shard_in_order(bench: Bench) -> None:
    for version in (b"one", b"two", b"three"):
        bench.send_control("rules", version)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        bench.send(ledger.TRANSACTIONS, some_records(400))
        newest = {row["home"]: row["rules"] for row in bench.settled()[-400:]}
        if newest == {shard: f"{shard}:three" for shard in range(SHARDS)}:
            return
        assert time.monotonic() < deadline, newest


@pytest.mark.parametrize("victim", ["taskmanager-1", "jobmanager"])
def test_a_kill_in_mid_stream_loses_and_repeats_nothing_in_the_ledger(bench: Bench, victim: str) -> None:
    repeats_before = bench.repeats_on_the_fast_lane()
    feeder = threading.Thread(target=bench.send, args=(ledger.TRANSACTIONS, some_records(8_000)), kwargs={"per_second": PER_SECOND})
    feeder.start()
    time.sleep(4.3)
    bench.kill(victim)
    feeder.join()
    assert_clean(bench)
    assert bench.repeats_on_the_fast_lane() > repeats_before, "nothing was in flight when the kill came, so nothing was tested"
    bench.stack.up()
    scoring_job.wait_until_running(bench.stack.plan)


def test_a_savepoint_carries_every_number_to_another_parallelism(bench: Bench) -> None:
    for parallelism in (1, 2):
        bench.send(ledger.TRANSACTIONS, some_records(2_000))
        scoring_job.savepoint(bench.stack.plan, stop=True)
        bench.send(ledger.TRANSACTIONS, some_records(2_000))
        bench.start(parallelism=parallelism)
        assert_clean(bench)
