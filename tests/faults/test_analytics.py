"""F19: the sink and ClickHouse killed under load.  What the ledger has committed is in ClickHouse once, to the cent of each tenant.

Real Kafka, the real engine, the real sink in a process of its own; no Flink, since the sink sees the ledger and nothing else.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from analytics.connection import connect
from analytics.sink import Sink
from analytics.store import Store
from tests import sink_process
from tests import wire_samples as wire
from tests.faults.world import Load
from tests.sink_world import Feed, SinkWorld, Sums, sink_world, wait_until

RATE = 1_000.0  # decisions/s
DRAINED_S = 60.0  # the lag is gone so long after ClickHouse is back
LEAST_KILLS = 3
LARGEST_BATCH = 700
SMALL_BATCH = 20

# A table without keys that takes whatever is inserted: what a sink without ReplacingMergeTree would have
_PLAIN = (
    "CREATE TABLE plain_transactions ENGINE = MergeTree ORDER BY () AS SELECT * FROM transactions LIMIT 0",
    "CREATE MATERIALIZED VIEW plain_feed TO plain_transactions AS SELECT * FROM transactions",
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinkWorld]:
    with sink_world(tmp_path_factory.mktemp("f19")) as world:
        yield world


@pytest.fixture
def house(servers: SinkWorld) -> SinkWorld:
    return servers.cleared()


def excess(found: Sums, truth: Sums) -> int:
    return sum(count for count, _ in found.values()) - sum(count for count, _ in truth.values())


def test_f19_a_killed_sink(house: SinkWorld, load: Load, measured: list[dict[str, object]]) -> None:
    """Killed whenever chance wants it, and each third time where it hurts most: rows written, offsets not.

    Control: a plain table beside the real one takes the same inserts, and must have more than there is.
    """
    chance, kills, at_worst = random.Random(19), max(LEAST_KILLS, load.kills), 0
    with connect(house.engine.settings) as client:
        for statement in _PLAIN:
            client.command(statement)
        client.command("SYSTEM STOP MERGES")
    with Feed(house, RATE, seed=19) as feed:
        for number in range(kills):
            worst = number % 3 == 2
            at_worst += worst
            settings = house.settings(batch_records=chance.randrange(150, LARGEST_BATCH), linger_s=0.1)
            process = sink_process.start(house.engine.settings, settings, chance.randrange(1, 5) if worst else None)
            if worst:
                process.join(30)
            else:
                time.sleep(chance.uniform(0.1, 2.0))
                process.kill()
                process.join()
            assert process.exitcode == -9
        decisions = feed.stop()
    # other bounds than any batch had before: one with the same bounds has the same token, and the table does not take it twice
    house.run_until(decisions, batch_records=SMALL_BATCH)
    raw, plain = house.sums("transactions"), house.sums("plain_transactions")
    measured.append(
        {
            "scenario": "F19 sink",
            "injected": f"kill -9 sink x{kills}, {at_worst} of them between rows and offsets",
            "decisions": decisions,
            "raw_excess_rows": excess(raw, feed.truth),
            "control_excess_rows": excess(plain, feed.truth),
        }
    )
    assert house.sums() == feed.truth
    assert house.rows("SELECT count(), uniqExact(tenant_id, decision_id) FROM decisions FINAL") == [(decisions, decisions)]
    assert house.rows("SELECT sum(decisions) FROM v_decisions_hourly") == [(decisions,)]
    assert 0 < excess(raw, feed.truth) <= kills * LARGEST_BATCH
    assert excess(plain, feed.truth) > 0, "control: a table without keys has doubles"
    assert plain != feed.truth


def test_f19_control_offsets_before_rows_lose(house: SinkWorld) -> None:
    """A sink that remembers first and writes then, killed between the two."""
    truth = house.send(2_000, seed=20)
    settings = house.settings(batch_records=500)
    process = sink_process.start(house.engine.settings, settings, 2, sink_process.HastyStore)
    process.join(30)
    assert process.exitcode == -9
    house.run_until(1_000)
    assert sum(count for count, _ in truth.values()) - sum(count for count, _ in house.sums().values()) >= 400


@pytest.mark.parametrize("down_s", [15.0, pytest.param(300.0, marks=pytest.mark.slow)])
def test_f19_clickhouse_that_stays_away(house: SinkWorld, measured: list[dict[str, object]], down_s: float) -> None:
    """Killed and left dead; the sink says how far it falls behind, and catches up when it is back."""
    stopping = threading.Event()
    sink = Sink(house.settings(), wire.codec(), Store(house.engine.settings), stopping)
    thread = threading.Thread(target=sink.run)
    thread.start()
    try:
        with Feed(house, RATE, seed=21) as feed:
            house.wait_for(2_000)
            house.engine.kill()
            told = set()
            until_s = time.monotonic() + down_s
            while time.monotonic() < until_s:
                time.sleep(0.1)
                told.add(sink.report.delay_s)
            behind, delay_s = sum(sink.report.lag_records.values()), sink.report.delay_s
            house.engine.start()
            back_s = time.monotonic()
            wait_until(lambda: sum(sink.report.lag_records.values()) < 3 * RATE and sink.report.delay_s < 5, "the lag is gone")
            drained_s = time.monotonic() - back_s
            decisions = feed.stop()
        house.wait_for(decisions)
    finally:
        stopping.set()
        thread.join(60)
    measured.append(
        {
            "scenario": "F19 ClickHouse",
            "injected": f"kill -9 engine, away {down_s:g} s",
            "decisions": decisions,
            "most_records_behind": behind,
            "drained_s": round(drained_s, 1),
            "failures": dict(sink.report.failures),
        }
    )
    assert behind > 0.5 * RATE * down_s
    assert delay_s > 0.8 * down_s
    assert len(told) > down_s, "what it tells is not older than a second"
    assert sink.report.failures["clickhouse"] > 0
    assert drained_s <= DRAINED_S
    assert house.sums() == feed.truth
