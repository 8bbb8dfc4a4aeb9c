"""F19: the ledger into ClickHouse through kills of the sink, a stopped and a killed engine: nothing lost, nothing doubled, to the cent.

Real Kafka, the real engine, records of the codec.  The control writes the same rows twice into a plain MergeTree.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from analytics.schema import DATABASE
from analytics.sink import Sink, SinkSettings
from analytics.sink_metrics import SinkCollector
from analytics.store import Store, connect
from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from infra.topics import create_topics
from serving import ledger
from serving.metrics import CATALOGUE as METRICS
from serving.metrics import Emitter
from serving.records import LabelApplied
from tests import sink_process
from tests import wire_samples as wire
from tests.clickhouse_engine import ClickHouseEngine
from tests.kafka_server import KafkaServer

Sums = dict[tuple[str, str], tuple[int, int]]  # by tenant and currency: decisions, minor units
PATIENCE_S = 150.0


@dataclass
class World:
    """A broker with the ledger's topics, an engine with its schema, and what was put into the ledger."""

    kafka: KafkaServer
    engine: ClickHouseEngine
    sent: int = 0

    def settings(self, **changes: Any) -> SinkSettings:
        return replace(SinkSettings(self.kafka.bootstrap, linger_s=0.2, longest_pause_s=1.0), **changes)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with connect(self.engine.settings) as client:
            return [tuple(row) for row in client.query(sql).result_rows]

    def sums(self, table: str = "transactions FINAL") -> Sums:
        found = self.rows(f"SELECT tenant_id, currency, count(), sum(amount_minor) FROM {table} GROUP BY 1, 2")
        return {(tenant, currency): (count, total) for tenant, currency, count, total in found}

    def send(self, count: int, *, seed: int) -> Sums:
        """Put decisions into the ledger, some of them twice, one that is no record, and an aborted transaction; return the truth."""
        chance, codec, truth = random.Random(seed), wire.codec(), dict[tuple[str, str], tuple[int, int]]()
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 20, "transactional.id": f"ledger-{seed}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        for number in range(count):
            tenant, currency = chance.choice(("acme", "bank", "default")), chance.choice(("EUR", "JPY", "KWD"))
            value = codec.encode_decision(made(f"{seed}-{number}", tenant, currency, amount := chance.randrange(1, 10**7), chance))
            for _ in range(2 if number % 100 == 0 else 1):
                producer.produce(ledger.DECISIONS, value, str(number))
            if number % 10 == 0:
                identity = f"{seed}-{number}"
                producer.produce(
                    ledger.LABELS_APPLIED, codec.encode_label_applied(LabelApplied(identity, tenant, True, 5, 4, "chargeback", []))
                )
            events, total = truth.get((tenant, currency), (0, 0))
            truth[tenant, currency] = events + 1, total + amount
            producer.poll(0)
        producer.produce(ledger.DECISIONS, b"\x00 no record", "x")
        producer.commit_transaction(60)
        producer.begin_transaction()
        producer.produce(ledger.DECISIONS, codec.encode_decision(made(f"{seed}-aborted", "acme", "EUR", 1, chance)), "x")
        producer.abort_transaction(60)
        self.sent += count
        return truth

    def run_until(self, count: int, **settings: Any) -> Sink:
        """A sink on a thread until the table has so many decisions."""
        stopping = threading.Event()
        sink = Sink(self.settings(**settings), wire.codec(), Store(self.engine.settings), stopping)
        thread = threading.Thread(target=sink.run, daemon=True)
        thread.start()
        self.wait_for(count)
        wait_until(lambda: sum(sink.report.lag_records.values()) == 0 and sink.report.lag_records != {}, "no lag")
        stopping.set()
        thread.join(30)
        return sink

    def wait_for(self, count: int) -> None:
        wait_until(lambda: sum(found for found, _ in self.sums().values()) >= count, f"{count} decisions")


def wait_until(holds: Any, what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.2)


def made(identity: str, tenant: str, currency: str, amount_minor: int, chance: random.Random) -> Any:
    transaction = wire.transaction(transaction_id=identity, tenant_id=tenant, currency=currency, amount_minor=amount_minor)
    explained = {} if chance.random() < 0.05 else {"contributions": None, "contribution_base": None, "rules": [], "outcome": "ALLOW"}
    return wire.decision(
        decision_id=decision_id(tenant, identity),
        tenant_id=tenant,
        transaction_id=identity,
        transaction=transaction,
        features=np.full(CATALOGUE.size, chance.random()),
        catalogue_version=CATALOGUE.version,
        **explained,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("f19")
    kafka, engine = KafkaServer(folder / "kafka"), ClickHouseEngine(folder)
    try:
        kafka.start()
        engine.start()
        engine.migrate()
        yield World(kafka, engine)
    finally:
        engine.kill()
        kafka.kill()


@pytest.fixture
def empty(world: World) -> World:
    """New topics and new tables, as every test begins."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": world.kafka.bootstrap})
    for future in admin.delete_topics([ledger.DECISIONS, ledger.LABELS_APPLIED]).values():
        future.result(timeout=30)
    wait_until(lambda: create_topics(world.kafka.bootstrap, partitions=2, retention_ms=10**9) or True, "topics")
    with connect(world.engine.settings, database="default") as client:
        client.command(f"DROP DATABASE IF EXISTS {DATABASE} SYNC")
    world.engine.migrate()
    world.sent = 0
    return world


def kill_between_insert_and_offsets(world: World, kills: int, *, seed: int) -> None:
    """Each of the sinks dies with a batch written and not remembered, and each has other bounds."""
    chance = random.Random(seed)
    for _ in range(kills):
        settings = world.settings(batch_records=chance.randrange(150, 700))
        process = sink_process.start(world.engine.settings, settings, dies_after_batches=chance.randrange(1, 4))
        process.join(PATIENCE_S)
        assert process.exitcode == -9


def check_against(world: World, truth: Sums) -> None:
    assert world.sums() == truth
    assert world.rows("SELECT count(), uniqExact(tenant_id, decision_id) FROM decisions FINAL") == [(world.sent, world.sent)]
    assert world.rows("SELECT sum(decisions) FROM v_decisions_hourly") == [(world.sent,)]
    assert world.rows("SELECT count(), uniqExact(decision_id) FROM labels FINAL") == [(world.sent // 10, world.sent // 10)]
    assert world.rows("SELECT code, count() FROM sink_rejects FINAL GROUP BY code") == [("unknown_schema_id", 1)]


def test_kills_a_stopped_engine_and_a_dead_one_lose_nothing_and_double_nothing(empty: World) -> None:
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
def test_thirty_kills(empty: World) -> None:
    truth = empty.send(30_000, seed=2)
    kill_between_insert_and_offsets(empty, 30, seed=2)
    empty.run_until(30_000)
    check_against(empty, truth)


def test_a_plain_table_doubles_what_is_written_twice(empty: World) -> None:
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


def test_topics_made_anew_are_read_from_their_beginning(empty: World) -> None:
    """Offsets of topics that are gone say nothing of those that bear their names now, and their tokens drop nothing."""
    empty.run_until(len(empty.send(300, seed=4)) and 300)
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": empty.kafka.bootstrap})
    for future in admin.delete_topics([ledger.DECISIONS, ledger.LABELS_APPLIED]).values():
        future.result(timeout=30)
    wait_until(lambda: create_topics(empty.kafka.bootstrap, partitions=2, retention_ms=10**9) or True, "topics")
    empty.send(300, seed=5)
    empty.run_until(600)
    assert empty.rows("SELECT count() FROM decisions FINAL") == [(600,)]


def test_the_sink_tells_what_the_catalogue_says(empty: World) -> None:
    empty.send(200, seed=6)
    sink = empty.run_until(200)
    sink.report.failures["clickhouse"] = 1
    families = list(SinkCollector(sink.report).collect())
    exposed = {sample.name: (family.type, set(sample.labels)) for family in families for sample in family.samples}
    assert exposed == {entry.name: (entry.type, set(entry.labels)) for entry in METRICS if entry.emitter is Emitter.SINK}
    assert sink.report.rows["decisions"] == 202
    assert sink.report.rejected == {"unknown_schema_id": 1}
    assert set(sink.report.lag_records.values()) == {0}
