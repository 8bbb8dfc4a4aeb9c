"""A broker with the ledger's topics and an engine with its schema, for tests of the sink: what goes in, and what has arrived."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from analytics.connection import connect
from analytics.lag import TOPICS
from analytics.schema import DATABASE
from analytics.sink import Sink, SinkSettings
from analytics.store import Store
from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from infra.topics import create_topics
from serving import ledger
from serving.records import LabelApplied
from tests import wire_samples as wire
from tests.clickhouse_engine import ClickHouseEngine
from tests.kafka_server import KafkaServer

Sums = dict[tuple[str, str], tuple[int, int]]  # by tenant and currency: decisions, minor units
PATIENCE_S = 60.0


@dataclass
class SinkWorld:
    """A broker with the ledger's topics, an engine with its schema, and what was put into the ledger."""

    kafka: KafkaServer
    engine: ClickHouseEngine
    sent: int = 0

    def cleared(self) -> Self:
        """The same servers with new topics and new tables."""
        self.make_topics_anew()
        with connect(self.engine.settings, database="default") as client:
            client.command(f"DROP DATABASE IF EXISTS {DATABASE} SYNC")
        self.engine.migrate()
        self.sent = 0
        return self

    def make_topics_anew(self) -> None:
        """Delete and create the topics, under the same names."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        for future in admin.delete_topics(list(TOPICS)).values():
            future.result(timeout=30)
        wait_until(lambda: create_topics(self.kafka.bootstrap, partitions=2, retention_ms=10**9) or True, "topics")

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
        assert producer.flush(30) == 0  # an abort gives up what is not sent yet, and the broker then knows of no transaction
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
    bare: dict[str, Any] = {"contributions": None, "contribution_base": None, "rules": [], "outcome": "ALLOW"}
    return wire.decision(
        decision_id=decision_id(tenant, identity),
        tenant_id=tenant,
        transaction_id=identity,
        transaction=transaction,
        features=np.full(CATALOGUE.size, chance.random()),
        catalogue_version=CATALOGUE.version,
        **(bare if chance.random() >= 0.05 else {}),
    )


class Feed:
    """Decisions into the ledger at a steady rate, a transaction every half second, until it is stopped; ``truth`` is what was committed.

    One transaction in ten is aborted, as a job that is killed leaves them.
    """

    def __init__(self, world: SinkWorld, rate: float, *, seed: int) -> None:
        self.truth: Sums = {}
        self._bootstrap, self._rate, self._seed = world.kafka.bootstrap, rate, seed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for_more(self) -> None:
        """Until something has been committed that was not there before."""
        before = self._count()
        wait_until(lambda: self._count() > before, "another transaction")

    def stop(self) -> int:
        """Returns how many decisions there are."""
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._count()

    def _count(self) -> int:
        return sum(count for count, _ in list(self.truth.values()))

    def _run(self) -> None:
        chance, codec, numbers = random.Random(self._seed), wire.codec(), itertools.count()
        producer = Producer({"bootstrap.servers": self._bootstrap, "linger.ms": 5, "transactional.id": f"feed-{self._seed}"})
        producer.init_transactions(30)
        due_s = time.monotonic()
        while not self._stopping.is_set():
            due_s += 0.5
            producer.begin_transaction()
            sent: list[tuple[str, str, int]] = []
            for number in itertools.islice(numbers, round(self._rate / 2)):
                tenant, currency = chance.choice(("acme", "bank", "default")), chance.choice(("EUR", "JPY", "KWD"))
                sent.append((tenant, currency, chance.randrange(1, 10**7)))
                value = codec.encode_decision(made(f"{self._seed}-{number}", *sent[-1], chance))
                producer.produce(ledger.DECISIONS, value, str(number))
                producer.poll(0)
            if chance.random() < 0.1:
                assert producer.flush(30) == 0  # see ``SinkWorld.send``
                producer.abort_transaction(60)
            else:
                producer.commit_transaction(60)
                for tenant, currency, amount in sent:
                    events, total = self.truth.get((tenant, currency), (0, 0))
                    self.truth[tenant, currency] = events + 1, total + amount
            self._stopping.wait(max(0.0, due_s - time.monotonic()))


@contextmanager
def sink_world(folder: Path) -> Iterator[SinkWorld]:
    """Both servers, until the block ends."""
    kafka, engine = KafkaServer(folder / "kafka"), ClickHouseEngine(folder)
    try:
        kafka.start()
        engine.start()
        engine.migrate()
        yield SinkWorld(kafka, engine)
    finally:
        engine.kill()
        kafka.kill()
