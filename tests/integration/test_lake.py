"""The lake follows the ledger: every record to the bit, none twice, and nobody in it whom the stream has erased."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from analytics.history import LakeRecords
from analytics.lake import Lake
from analytics.lake_sync import Synced, sync
from fraud.errors import Unavailable
from tests.contract.backtest_world import SHIPPED, VELOCITY, codec, play, traffic, with_rules
from tests.integration.test_sink_erasure import GONE, erased, labelled, paid
from tests.kafka_server import KafkaServer
from tests.unit.test_lake import who_holds
from training.parity import bits_differ


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    server = KafkaServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def send(kafka: KafkaServer, *records: tuple[str, bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for topic, value in records:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def synced(kafka: KafkaServer, folder: Path) -> Synced:
    return sync(kafka.bootstrap, codec(), Lake(str(folder)), lambda _: None)


def test_the_lake_gives_the_ledger_back_to_the_bit(kafka: KafkaServer, folder: Path, tmp_path: Path) -> None:
    world = play(traffic(31, 250), [with_rules(SHIPPED, VELOCITY)], tmp_path)
    send(kafka, *world.records[:200])
    first = synced(kafka, folder)
    send(kafka, *world.records[200:])
    second = synced(kafka, folder)
    assert first.rows["transactions"] + second.rows["transactions"] == 250
    assert (second.erased, second.rejected) == (0, 0)
    assert synced(kafka, folder).rows == {}

    source = LakeRecords(Lake(str(folder)), codec())
    history = source.read(lambda _: None)
    recorded = world.history()
    assert source.count() == recorded.frame.height + len(recorded.label_seqs)
    assert sorted(history.frame["transaction_id"]) == sorted(recorded.frame["transaction_id"])
    history.check_complete()
    assert not bits_differ(history.recompute().features, history.recorded).any()


def test_what_says_nothing_is_counted_and_left_out(kafka: KafkaServer, folder: Path) -> None:
    send(kafka, paid("good-1", "card-1", 1), ("fraud-events", b"\x00 no record"), paid("good-2", "card-1", 2))
    found = synced(kafka, folder)
    assert (found.rows["transactions"], found.rejected) == (2, 1)


@pytest.mark.parametrize(("interrupted", "to_delete"), [("delete", 1), ("vacuum", 0)])
def test_what_is_older_than_an_erasure_is_in_no_file(
    kafka: KafkaServer, folder: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str, to_delete: int
) -> None:
    """Interrupted before it began, or when the rows are gone from the table and their files are not."""
    send(kafka, paid("pay-older", GONE, 1), labelled("pay-older", GONE, 2), paid("pay-other", "card-2", 1))
    synced(kafka, folder)
    assert who_holds(folder, "pay-older")
    send(kafka, erased(GONE, 3), paid("pay-newer", GONE, 4))

    def fails(*_: object, **__: object) -> int:
        raise Unavailable("lake", "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Lake, interrupted, fails)
        with pytest.raises(Unavailable):
            synced(kafka, folder)
    assert who_holds(folder, "pay-older")
    assert synced(kafka, folder).erased == to_delete
    assert not who_holds(folder, "pay-older")
    assert {name: Lake(str(folder)).table(name).count() for name in ("transactions", "ml_features", "labels")} == {
        "transactions": 2,
        "ml_features": 2,
        "labels": 0,
    }
    assert who_holds(folder, "pay-newer")
    assert synced(kafka, folder).erased == 0
