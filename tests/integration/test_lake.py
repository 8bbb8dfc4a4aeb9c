"""The lake follows the ledger: every record to the bit, none twice, and nobody in it whom the stream has erased."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from deltalake import write_deltalake

from analytics.history import EventHistory, LakeRecords, LedgerTopics
from analytics.lake import Lake
from analytics.lake_sync import Synced, sync
from fraud.errors import Unavailable
from fraud.events import Label, Transaction
from infra.features import backfill_recorded
from infra.retraining import train_on_record
from tests.contract.backtest_world import SHIPPED, VELOCITY, play, traffic, with_rules
from tests.contract.pipeline import codec
from tests.integration.test_sink_erasure import GONE, erased, labelled, paid
from tests.kafka_server import KafkaServer
from tests.unit.test_lake import who_holds
from training.ledger_history import IncompleteLedger


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


def taught_by_amount(events: list[Transaction | Label]) -> list[Transaction | Label]:
    """Every payment is labelled a minute later, as fraud when it is large: something that a model can learn."""
    labelled: list[Transaction | Label] = []
    for event in events:
        if isinstance(event, Transaction):
            ids = (event.transaction_id, event.tenant_id, event.card_id, event.merchant_id)
            is_fraud = event.amount_minor > 20_000
            labelled += [event, Label(*ids, event.event_time_ms, event.event_time_ms + 60_000, is_fraud, event.user_id)]
    return labelled


def quiet(_: object) -> None:
    """Nobody watches the progress."""


def test_the_lake_gives_the_ledger_back_to_the_bit(kafka: KafkaServer, folder: Path, tmp_path: Path) -> None:
    """Read through one interface: the same decisions, the same features computed again, and the same model trained."""
    world = play(taught_by_amount(traffic(31, 250)), [with_rules(SHIPPED, VELOCITY)], tmp_path)
    send(kafka, *world.records[:200])
    first = synced(kafka, folder)
    send(kafka, *world.records[200:])
    second = synced(kafka, folder)
    assert first.rows["transactions"] + second.rows["transactions"] == 250
    assert (second.erased, second.rejected) == (0, 0)
    assert synced(kafka, folder).rows == {}

    lake, ledger = LakeRecords(Lake(str(folder)), codec()), LedgerTopics(kafka.bootstrap, codec())
    recorded = world.history()
    assert lake.count() == recorded.frame.height + len(recorded.label_seqs)
    sources: dict[str, EventHistory] = {"lake": lake, "ledger": ledger}
    for name, source in sources.items():
        found = backfill_recorded(source, out=tmp_path / f"{name}.parquet", check=None, say=quiet)
        assert (found["events"], found["labels"], found["differing_from_record"]) == (250, len(recorded.label_seqs), 0), name
    found = backfill_recorded(lake, out=None, check=tmp_path / "ledger.parquet", say=quiet)
    assert (found["compared_rows"], found["missing_rows"], found["differing_rows"]) == (250, 0, 0)
    models = {train_on_record(tmp_path, one, maturity_ms=0, seed=1, say=quiet, on_read=quiet).sha256 for one in sources.values()}
    assert len(models) == 1

    change_one_amount(folder)
    found = backfill_recorded(lake, out=None, check=tmp_path / "ledger.parquet", say=quiet)
    assert found["differing_from_record"] >= 1
    assert found["differing_rows"] == found["differing_from_record"]


def change_one_amount(folder: Path) -> None:
    """The record of one row of the lake says another amount; its features stay as they were."""
    table = Lake(str(folder)).table("transactions")
    rows = table.to_pyarrow_table()
    records = rows["record"].to_pylist()
    # rows have no order, and of a currency without a rate no feature sees the amount
    decisions = map(codec().decode_decision, records)
    at, decision = next((at, one) for at, one in enumerate(decisions) if one.transaction.currency == "EUR")
    decision.transaction.amount_minor += 1
    records[at] = codec().encode_decision(decision)
    place = rows.column_names.index("record")
    write_deltalake(table, rows.set_column(place, "record", pa.array(records, pa.binary())), mode="overwrite")


def test_where_the_lake_has_deleted_somebody_nothing_is_computed_again(kafka: KafkaServer, folder: Path, tmp_path: Path) -> None:
    """It says so, where a backfill is asked for; what was served to the others is there, and teaches."""
    world = play(taught_by_amount(traffic(31, 250)), [with_rules(SHIPPED, VELOCITY)], tmp_path)
    send(kafka, *world.records)
    synced(kafka, folder)
    lake, gone = LakeRecords(Lake(str(folder)), codec()), world.decisions()[20]
    assert Lake(str(folder)).delete(gone.transaction.tenant_id, [gone.decision_id]) == 1
    with pytest.raises(IncompleteLedger, match="erased"):
        backfill_recorded(lake, out=None, check=None, say=quiet)
    taught = train_on_record(tmp_path, lake, maturity_ms=0, seed=1, say=quiet, on_read=quiet).manifest.training
    assert 0 < sum(taught["rows"].values()) < 250


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
