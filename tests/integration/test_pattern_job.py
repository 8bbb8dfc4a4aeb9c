"""The pattern job on real servers: what was planted in the ledger is alerted exactly once, whatever is killed meanwhile.

The ledger is written by the test, as the scoring job writes it (committed transactions), so that event time and truth are known.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from confluent_kafka import Producer

from flink_jobs.pattern_settings import PATTERN_JOB_NAME
from infra import pattern_job, scoring_job
from infra.application import codec_of
from infra.probes import read_json_url
from infra.records import load_records
from infra.stack import Stack
from serving import ledger
from serving.pattern_events import Row
from serving.records import Alert
from tests.pattern_traffic import NOON_MS, WINDOW_MS, decision_of, honest_rows, plant, shift
from tests.private_stack import private_stack

PATIENCE_S = 120.0
PLANTED = ("farm", "spot", "machine", "testing")  # in the second window; one of each family
CHUNK = 400


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with private_stack(tmp_path_factory.mktemp("patterns"), taskmanagers=1) as private:
        yield private


class Ledger:
    """Appends decisions as the scoring job does: in transactions."""

    def __init__(self, stack: Stack) -> None:
        self._codec = codec_of(stack.plan)
        self._producer = Producer({"bootstrap.servers": stack.addresses.bootstrap_servers, "transactional.id": "test"})
        self._producer.init_transactions(30)

    def write(self, rows: Sequence[Row], *, commit: bool = True) -> None:
        """Append decisions in one transaction."""
        producer = self._producer
        producer.begin_transaction()
        for row in rows:
            producer.produce(ledger.DECISIONS, self._codec.encode_decision(decision_of(row)), row[4].encode())
            producer.poll(0)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)


def alerts(stack: Stack) -> list[Alert]:
    codec = codec_of(stack.plan)
    return [codec.decode_alert(m.value()) for m in ledger.read_to_end(stack.addresses.bootstrap_servers, [ledger.ALERTS])]


def wait_for(stack: Stack, count: int) -> list[Alert]:
    """The committed alerts once there are so many, and a while later, when repeats would show."""
    deadline = time.monotonic() + PATIENCE_S
    while len(alerts(stack)) < count:
        assert time.monotonic() < deadline, f"{len(alerts(stack))} of {count} alerts after {PATIENCE_S:g} s"
        time.sleep(1.0)
    time.sleep(5.0)
    return alerts(stack)


def kill_its_taskmanager(stack: Stack) -> tuple[str, int]:
    """SIGKILL to the process that runs the job; returns its name and pid."""
    state = scoring_job.state_of(stack.plan, PATTERN_JOB_NAME)
    job = read_json_url(f"{stack.addresses.flink_rest_url}/jobs/{state.job_id}")
    vertices = [read_json_url(f"{stack.addresses.flink_rest_url}/jobs/{state.job_id}/vertices/{v['id']}") for v in job["vertices"]]
    names = {subtask["taskmanager-id"] for vertex in vertices for subtask in vertex["subtasks"]}
    assert len(names) == 1, names
    name = names.pop()
    pid = load_records(stack.layout)[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return name, pid


def test_what_was_planted_is_alerted_once_over_a_kill_and_a_restart(stack: Stack) -> None:
    clean = [shift(honest_rows(seed, 3_000, users=10_000, merchants=800), seed * WINDOW_MS) for seed in range(3)]
    planted = [plant(name, 1, start_ms=NOON_MS + WINDOW_MS) for name in PLANTED]
    rows = sorted([row for part in [*clean, *(rows for rows, _, _ in planted)] for row in part], key=lambda row: row[1])
    expected = Counter(f"PATTERN_{kind.upper().replace('.', '_')}" for _, kind, _ in planted)

    state = pattern_job.ensure_running(stack, checkpoint_interval_ms=1_000, idle_ms=15_000)
    assert {c.name for c in stack.status().components if c.name.startswith("taskmanager")} == {"taskmanager-1", "taskmanager-2"}
    decisions = Ledger(stack)
    decisions.write(plant("proxy", 5)[0], commit=False)  # an aborted attack never was
    victim: tuple[str, int] | None = None
    for at in range(0, len(rows), CHUNK):
        decisions.write(rows[at : at + CHUNK])
        if victim is None and rows[at][1] > NOON_MS + WINDOW_MS * 3 // 2:
            time.sleep(2.5)  # a checkpoint holds the first half of the attacks
            victim = kill_its_taskmanager(stack)
    assert victim is not None
    found = wait_for(stack, sum(expected.values()))
    assert Counter(alert.reason for alert in found) == expected
    assert {alert.source for alert in found} == {"cold"}
    truth = {row[0] for rows_of, _, _ in planted for row in rows_of}
    assert {alert.transaction_id for alert in found} <= truth
    assert scoring_job.state_of(stack.plan, PATTERN_JOB_NAME).job_id == state.job_id, "the job recovered by itself"
    assert load_records(stack.layout)[victim[0]].pid != victim[1]

    # an attack that nothing follows is found when the ledger falls silent, over a stop with savepoint in its middle
    last, _, _ = plant("one_card", 2, start_ms=NOON_MS + 3 * WINDOW_MS)
    decisions.write(sorted([*shift(honest_rows(7, 3_000, users=10_000, merchants=800), 3 * WINDOW_MS), *last[:8]], key=lambda row: row[1]))
    time.sleep(3.0)
    scoring_job.stop(stack.plan, with_savepoint=True, name=PATTERN_JOB_NAME)
    decisions.write(last[8:])
    pattern_job.ensure_running(stack)
    found = wait_for(stack, sum(expected.values()) + 1)
    assert Counter(alert.reason for alert in found) == expected + Counter(PATTERN_FREQUENCY_CARD=1)
    assert len({alert.alert_id for alert in found}) == len(found)

    # the batch door sees the same ledger and says the same
    scanned = pattern_job.scan(stack.plan, window_s=300)
    assert {alert.alert_id for alert in scanned.alerts} == {alert.alert_id for alert in found}
    assert scanned.events == len(rows) + 3_000 + len(last)
