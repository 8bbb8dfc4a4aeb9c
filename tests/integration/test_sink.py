"""F19: the ledger into ClickHouse through kills of the sink, a stopped and a killed engine: nothing lost, nothing doubled, to the cent.

Real Kafka, the real engine, records of the codec.  The control writes the same rows twice into a plain MergeTree.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from analytics.connection import connect
from analytics.deletions import DeletionWatch
from analytics.lag import TOPICS, topic_ids
from analytics.ledger_reader import LedgerReader
from analytics.sink import Sink
from analytics.sink_metrics import SinkCollector
from analytics.store import Store
from serving import ledger
from serving.metrics import CATALOGUE as METRICS
from serving.metrics import Emitter
from tests import sink_process
from tests import wire_samples as wire
from tests.sink_world import PATIENCE_S, SinkWorld, Sums, sink_world, wait_until


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinkWorld]:
    with sink_world(tmp_path_factory.mktemp("f19")) as world:
        yield world


@pytest.fixture
def empty(world: SinkWorld) -> SinkWorld:
    return world.cleared()


def kill_between_insert_and_offsets(world: SinkWorld, kills: int, *, seed: int) -> None:
    """Each of the sinks dies with a batch written and not remembered, and each has other bounds."""
    chance = random.Random(seed)
    for _ in range(kills):
        settings = world.settings(batch_records=chance.randrange(150, 700))
        process = sink_process.start(world.engine.settings, settings, dies_after_batches=chance.randrange(1, 4))
        process.join(PATIENCE_S)
        assert process.exitcode == -9


def check_against(world: SinkWorld, truth: Sums) -> None:
    assert world.sums() == truth
    assert world.rows("SELECT count(), uniqExact(tenant_id, decision_id) FROM decisions FINAL") == [(world.sent, world.sent)]
    assert world.rows("SELECT sum(decisions) FROM v_decisions_hourly") == [(world.sent,)]
    assert world.rows("SELECT count(), uniqExact(decision_id) FROM labels FINAL") == [(world.sent // 10, world.sent // 10)]
    assert world.rows("SELECT code, count() FROM sink_rejects FINAL GROUP BY code") == [("unknown_schema_id", 1)]


def test_kills_a_stopped_engine_and_a_dead_one_lose_nothing_and_double_nothing(empty: SinkWorld) -> None:
    with connect(empty.engine.settings) as client:
        client.command("SYSTEM STOP MERGES")
    truth = empty.send(4_000, seed=1)
    kill_between_insert_and_offsets(empty, 3, seed=1)
    assert empty.rows("SELECT count() > uniqExact(decision_id) FROM transactions") == [(1,)]  # what the kills were for
    running = sink_process.start(empty.engine.settings.model_copy(update={"answer_timeout_s": 2}), empty.settings(batch_records=500))
    try:
        empty.engine.pause()
        time.sleep(5)  # longer than the sink waits for an answer: it gives up and sends again what the engine may still take
        empty.engine.resume()
        time.sleep(0.5)
        empty.engine.kill()
        time.sleep(1)
        empty.engine.start()
        empty.wait_for(4_000)
    finally:
        running.kill()
        running.join()
    empty.run_until(4_000)
    check_against(empty, truth)


@pytest.mark.slow
def test_thirty_kills(empty: SinkWorld) -> None:
    truth = empty.send(30_000, seed=2)
    kill_between_insert_and_offsets(empty, 30, seed=2)
    empty.run_until(30_000)
    check_against(empty, truth)


def test_a_plain_table_doubles_what_is_written_twice(empty: SinkWorld) -> None:
    """The control: with a plain MergeTree in the place of one table, the same kills are an excess in the sums."""
    truth = empty.send(1_000, seed=3)
    with connect(empty.engine.settings) as client:
        described = client.command("SHOW CREATE TABLE transactions")
        client.command("DROP TABLE transactions SYNC")
        client.command(str(described).replace("\\n", "\n").replace("\\'", "'").replace("ReplacingMergeTree(version)", "MergeTree"))
    kill_between_insert_and_offsets(empty, 2, seed=3)
    stopping = threading.Event()
    sink = Sink(empty.settings(), wire.codec(), Store(empty.engine.settings), stopping)
    thread = threading.Thread(target=sink.run, daemon=True)
    thread.start()
    wait_until(lambda: sum(found for found, _ in empty.sums("transactions").values()) >= 1_000 and sink.report.batches > 0, "all rows")
    stopping.set()
    thread.join(30)
    found = empty.sums("transactions")
    assert found.keys() == truth.keys()
    assert all(found[key][1] >= truth[key][1] for key in truth)
    assert sum(total for _, total in found.values()) > sum(total for _, total in truth.values())


def test_topics_made_anew_are_read_from_their_beginning(empty: SinkWorld) -> None:
    """Offsets of topics that are gone say nothing of those that bear their names now, and their tokens drop nothing."""
    empty.run_until(len(empty.send(300, seed=4)) and 300)
    empty.make_topics_anew()
    empty.send(300, seed=5)
    empty.run_until(600)
    assert empty.rows("SELECT count() FROM decisions FINAL") == [(600,)]


def test_what_a_reader_has_not_heard_of_is_not_zero(empty: SinkWorld) -> None:
    """Before the first answer of the broker, too: a sink that has just begun does not say that nothing is left to do."""
    empty.send(300, seed=7)
    reader = LedgerReader(empty.kafka.bootstrap, topic_ids(empty.kafka.bootstrap, TOPICS), {})
    try:
        assert reader.behind()[ledger.DECISIONS] > 300
    finally:
        reader.close()


def test_the_sink_tells_what_the_catalogue_says(empty: SinkWorld) -> None:
    empty.send(200, seed=6)
    sink = empty.run_until(200)
    sink.report.failures["clickhouse"] = 1
    sink.report.failing_s["clickhouse"] = 0.0
    sink.report.erased["labels"] = 1
    deletions = DeletionWatch(Store(empty.engine.settings))
    deletions.look()
    families = list(SinkCollector(sink.report, deletions).collect())
    exposed = {sample.name: (family.type, set(sample.labels)) for family in families for sample in family.samples}
    assert exposed == {entry.name: (entry.type, set(entry.labels)) for entry in METRICS if entry.emitter is Emitter.SINK}
    assert sink.report.rows["decisions"] == 202
    assert sink.report.rejected == {"unknown_schema_id": 1}
    assert set(sink.report.lag_records.values()) == {0}


def test_a_sink_tells_how_long_it_has_failed_until_a_batch_is_written(empty: SinkWorld) -> None:
    empty.run_until(len(empty.send(20, seed=8)) and 20)
    stopping = threading.Event()
    sink = Sink(empty.settings(), wire.codec(), Store(empty.engine.settings), stopping)
    thread = threading.Thread(target=sink.run, daemon=True)
    thread.start()
    empty.send(20, seed=9)
    empty.wait_for(40)
    empty.engine.kill()
    empty.send(20, seed=10)
    wait_until(lambda: sink.report.failing_s.get("clickhouse", 0.0) > 2.0, "it has failed for two seconds")
    empty.engine.start()
    wait_until(lambda: sink.report.failing_s["clickhouse"] == 0.0, "a batch was written")
    empty.wait_for(60)
    stopping.set()
    thread.join(30)
