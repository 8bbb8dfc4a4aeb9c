"""F20: a disk is full.  Whoever writes to it waits or refuses and says so; when there is room again, everything is there.

Each server has a disk of its own, so small that a file of ballast fills it.  That the disk was full is itself asserted: the control.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from analytics.sink import Sink
from analytics.store import Store
from infra.layout import Layout
from serving import ledger
from tests import wire_samples as wire
from tests.api_stack import ApiStack, question
from tests.faults.small_disk import small_disk
from tests.faults.world import CHECKPOINT_S, CLEAN, Load, figures, private_world
from tests.kafka_server import KafkaServer
from tests.sink_world import Feed, SinkWorld, sink_world, wait_until

pytestmark = pytest.mark.slow

TOLD_S = 30.0  # the metric of an alert says so that soon
FAILING_S = 5.0  # of the sink: what SinkFailing waits for
BACK_S = 120.0
FULL_S = 15.0
RATE = 500.0  # decisions/s
REFUSED = 100  # releases: lines of some 15 KB, several pages of a file


@contextmanager
def following(house: SinkWorld) -> Iterator[Sink]:
    """A sink on a thread, while the block runs."""
    stopping = threading.Event()
    sink = Sink(house.settings(), wire.codec(), Store(house.engine.settings), stopping)
    thread = threading.Thread(target=sink.run)
    thread.start()
    try:
        yield sink
    finally:
        stopping.set()
        thread.join(60)


def test_f20_clickhouse(tmp_path: Path, measured: list[dict[str, object]]) -> None:
    with small_disk(tmp_path / "clickhouse", 192) as disk, sink_world(tmp_path) as house:
        with Feed(house, RATE, seed=20) as feed, following(house) as sink:
            house.wait_for(1_000)
            with disk.full():
                full_s = time.monotonic()
                wait_until(lambda: sink.report.failing_s.get("clickhouse", 0.0) > FAILING_S, "the sink says that ClickHouse refuses")
                told_s = time.monotonic() - full_s
                time.sleep(FULL_S)
                behind, failures = sum(sink.report.lag_records.values()), dict(sink.report.failures)
            room_s = time.monotonic()
            wait_until(lambda: sum(sink.report.lag_records.values()) < 3 * RATE and sink.report.delay_s < 5, "the lag is gone")
            back_s = time.monotonic() - room_s
            decisions = feed.stop()
            house.wait_for(decisions)
        house.engine.kill()
        house.engine.start()
        found = house.sums()
        parts = house.rows("SELECT count() FROM system.detached_parts WHERE reason != ''")
    measured.append(
        {
            "scenario": "F20 ClickHouse",
            "injected": f"its disk full for {FULL_S:g} s",
            "decisions": decisions,
            "told_s": round(told_s, 1),
            "most_records_behind": behind,
            "failures": failures,
            "back_s": round(back_s, 1),
        }
    )
    assert told_s <= TOLD_S
    assert behind > 0.5 * RATE * FULL_S
    assert back_s <= BACK_S
    assert found == feed.truth
    assert parts == [(0,)], "no part that could not be read was put aside"


def test_f20_kafka(tmp_path: Path, measured: list[dict[str, object]]) -> None:
    """The broker stops when it cannot write its log; the supervisor starts it again, here the test does."""
    disk_of = tmp_path / "run" / "kafka"
    with small_disk(disk_of, 96) as disk:
        kafka = KafkaServer(tmp_path)
        try:
            kafka.start()
            before = _send(kafka, 2_000, 0)
            assert len(before) == 2_000
            with disk.full():
                during = _send(kafka, 2_000, 2_000)
                kafka.kill()
            room_s = time.monotonic()
            kafka.start()
            after = _send(kafka, 500, 4_000)
            back_s = time.monotonic() - room_s
            read = [message.value() for message in ledger.read_to_end(kafka.bootstrap, (ledger.TRANSACTIONS,))]
        finally:
            kafka.kill()
    measured.append(
        {
            "scenario": "F20 Kafka",
            "injected": "its disk full",
            "acknowledged": [len(before), len(during), len(after)],
            "read": len(read),
            "back_s": round(back_s, 1),
        }
    )
    assert len(during) < 2_000, "control: the disk was full"
    assert len(after) == 500
    assert back_s <= BACK_S
    assert (before | during | after) <= set(read), "nothing that was acknowledged is lost"
    assert len(read) == len(set(read)), "and nothing is there twice"


def _send(kafka: KafkaServer, count: int, first: int) -> set[bytes]:
    """Records of 1 KB as our producers send them; returns those that the broker has acknowledged."""
    acknowledged: set[bytes] = set()
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": 10_000,
            "request.timeout.ms": 3_000,
            "log_level": 0,
        }
    )
    for number in range(first, first + count):
        producer.produce(
            ledger.TRANSACTIONS,
            f"{number}:".encode().ljust(1_000, b"."),
            on_delivery=lambda error, message: None if error else acknowledged.add(message.value()),
        )
    producer.flush(30)
    return acknowledged


def test_f20_checkpoints(tmp_path: Path, load: Load, measured: list[dict[str, object]]) -> None:
    """Without a checkpoint nothing is committed; the job starts again from the last one until there is room for the next."""
    recoveries, restarts, late = [], [], []
    checkpoints = Layout(tmp_path / "home").checkpoints
    with (
        small_disk(checkpoints, 256) as disk,
        private_world(tmp_path, load, measured) as world,
        world.campaign("f20") as campaign,
    ):

        def fault() -> None:
            world.wait_until_recovered(campaign, time.time() * 1000.0)
            world.wait_for_a_checkpoint()
            with disk.full():
                time.sleep(2 * CHECKPOINT_S)  # one may have had its room already
                moment_ms = time.time() * 1000.0
                time.sleep(FULL_S)
                late.append(campaign.tail.visible_after_s(moment_ms))
                restarts.append(world.restarts())
            recoveries.append(world.wait_until_recovered(campaign, time.time() * 1000.0))

        verdict = world.under_fault(campaign, fault)
        world.note("F20 checkpoints", injected=f"disk full for {FULL_S:g} s", restarts=restarts, recovery_s=recoveries, **figures(verdict))
    assert late == [None], "control: nothing was committed without a checkpoint"
    assert verdict.anomalies == CLEAN, verdict.examples
    assert max(recoveries) <= BACK_S


def test_f20_log_of_the_api(tmp_path: Path, measured: list[dict[str, object]]) -> None:
    """A release that is refused is worth a line; without room for it the API answers all the same."""
    stack = ApiStack(tmp_path)
    with small_disk(stack.plan.layout.logs, 16) as disk:
        try:
            stack.train()
            stack.up()
            log = stack.log("api")

            def lines() -> int:
                return log.read_bytes().count(b"release_refused")

            _refused_releases(stack, REFUSED)
            wait_until(lambda: lines() == REFUSED, "control: each is worth a line")
            answered = _answered(stack)
            with disk.full():
                _refused_releases(stack, REFUSED)
                answered_in_vain = sum(_answered(stack) for _ in range(3))
                written = lines() - REFUSED
            _refused_releases(stack, 1)
            wait_until(lambda: lines() > REFUSED + written, "lines are written again")
            answered_after = _answered(stack)
        finally:
            stack.down()
    measured.append(
        {
            "scenario": "F20 log of the API",
            "injected": "the disk of its log full",
            "answers": [answered, answered_in_vain, answered_after],
            "lines_written": f"{written} of {REFUSED}",
        }
    )
    assert (answered, answered_in_vain, answered_after) == (100, 300, 100)
    assert written < REFUSED, "control: when the last page of the file was full, nothing could be written"


def _answered(stack: ApiStack) -> int:
    """How many of a hundred requests are answered with a decision of model and rules."""
    answers = [stack.ask("/v1/score", question()) for _ in range(100)]
    return sum(one.status == 200 and not one.json["degraded"] for one in answers)


def _refused_releases(stack: ApiStack, count: int) -> None:
    producer = Producer({"bootstrap.servers": stack.plan.addresses.bootstrap_servers})
    for _ in range(count):
        producer.produce(ledger.RULES, b"\x00 no rules", "default")
    assert producer.flush(30) == 0
