"""The lake: rows and offsets in one commit, older versions, compaction, expiry, and forgetting somebody for good."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analytics.lag import Place
from analytics.lake import Lake, Subject
from analytics.lake_rows import SCHEMAS
from fraud.errors import Denied, Unavailable

TODAY = date(2026, 11, 21)
DECISIONS, LABELS = Place("fraud-events", "id-1", 0), Place("labels-applied", "id-2", 0)


def rows(table: str, first: int, count: int, *, day: date = TODAY, card: str = "card", partition: int = 0) -> pa.Table:
    """Rows as a sink brings them; row ``i`` stands at offset ``i``."""
    moment = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    known = {
        "tenant_id": lambda _: "acme",
        "decision_id": lambda i: f"dec-{partition}-{i}",
        "transaction_id": lambda i: f"tx-{partition}-{i}",
        "day": lambda _: day,
        "recorded_at": lambda _: moment,
        "partition": lambda _: partition,
        "offset": lambda i: i,
        "card_id": lambda i: f"{card}-{i}",
        "features": lambda i: [float(i), float("nan")],
        "record": lambda i: f"record of {card}-{i}".encode(),
    }
    numbers = range(first, first + count)
    columns = {field.name: [known[field.name](i) if field.name in known else None for i in numbers] for field in SCHEMAS[table]}
    return pa.table(columns, schema=SCHEMAS[table])


def batch(first: int, count: int, **options: object) -> dict[str, pa.Table]:
    return {name: rows(name, first, count, **options) for name in ("transactions", "ml_features")}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    lake.prepare()
    return lake


def put(lake: Lake, first: int, count: int, **options: object) -> None:
    lake.append(batch(first, count, **options), {DECISIONS: first + count})


def transactions(lake: Lake) -> list[str]:
    return sorted(lake.table("transactions").to_pyarrow_table(columns=["transaction_id"])["transaction_id"].to_pylist())


def who_holds(folder: Path, text: str) -> list[Path]:
    """The files below a folder that say a text anywhere: in a column of Parquet, in its statistics, or in plain sight."""

    def says(path: Path) -> bool:
        content = str(pq.read_table(path).to_pylist()) + str(pq.read_metadata(path).to_dict()) if path.suffix == ".parquet" else ""
        return text.encode() in path.read_bytes() or text in content

    return [path for path in folder.rglob("*") if path.is_file() and says(path)]


def test_rows_and_offsets_arrive_together(lake: Lake) -> None:
    assert lake.offsets([DECISIONS, LABELS]) == {DECISIONS: 0, LABELS: 0}
    put(lake, 0, 5)
    assert lake.offsets([DECISIONS, LABELS]) == {DECISIONS: 5, LABELS: 0}
    assert len(transactions(lake)) == 5


def test_an_interruption_between_two_tables_loses_and_doubles_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put(lake, 0, 5)
    commit, calls = lake._commit, []

    def fails_at_the_second(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise Unavailable("lake", "the disk is gone")
        commit(*arguments)

    monkeypatch.setattr(lake, "_commit", fails_at_the_second)
    with pytest.raises(Unavailable):
        lake.append(batch(5, 5), {DECISIONS: 10})
    monkeypatch.undo()
    assert lake.offsets([DECISIONS]) == {DECISIONS: 5}, "one table is behind, so both are read from there"
    put(lake, 5, 8)  # other bounds than before
    for name in ("transactions", "ml_features"):
        offsets = sorted(lake.table(name).to_pyarrow_table(columns=["offset"])["offset"].to_pylist())
        assert offsets == list(range(13)), name


def test_an_older_version_can_be_read(lake: Lake) -> None:
    put(lake, 0, 5)
    before = lake.table("transactions").version()
    put(lake, 5, 5)
    assert lake.table("transactions", before).count() == 5
    assert lake.table("transactions").count() == 10
    with pytest.raises(Denied, match="as of 99"):
        lake.table("transactions", 99)


def test_compaction_changes_files_and_not_rows(lake: Lake) -> None:
    for i in range(6):
        put(lake, 10 * i, 10)
    before = transactions(lake)
    assert lake.compact(least_files=7) == {"transactions": 0, "ml_features": 0, "labels": 0}
    assert lake.compact(least_files=6) == {"transactions": 6, "ml_features": 6, "labels": 0}
    assert transactions(lake) == before
    assert [one.files for one in lake.state() if one.name == "transactions"] == [1]
    assert lake.offsets([DECISIONS]) == {DECISIONS: 60}, "what the commits carried outlives their files"


def test_old_days_expire_and_vacuum_frees_their_files(lake: Lake, tmp_path: Path) -> None:
    put(lake, 0, 3, day=date(2026, 8, 1))
    put(lake, 3, 3)
    assert lake.expire(TODAY, kept_days=90) == 6
    files = sorted((tmp_path / "lake").glob("*/day=2026-08-01/*.parquet"))
    assert len(files) == 2, "older versions still need them"
    assert lake.vacuum(travel_hours=0) == 2
    assert not any(path.exists() for path in files)
    assert len(transactions(lake)) == 3


def test_who_is_forgotten_is_in_no_file_and_no_version(lake: Lake, tmp_path: Path) -> None:
    put(lake, 0, 5, card="it's-mine")
    lake.append({"labels": rows("labels", 0, 5)}, {LABELS: 5})

    assert who_holds(tmp_path, "it's-mine-4")
    (mine,) = lake.values_of(Subject("acme", "card", "it's-mine-4"))
    assert (mine.partition, mine.offset, mine.value) == (0, 4, b"record of it's-mine-4")
    assert mine.recorded_ms == datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1_000
    assert lake.values_of(Subject("other", "card", "it's-mine-4")) == [], "another tenant's card of the same name"
    assert lake.delete("acme", ["dec-0-4"]) == 1  # the greatest of its file, which statistics would name
    assert not who_holds(tmp_path, "it's-mine-4")
    assert not who_holds(tmp_path, "tx-0-4")
    assert transactions(lake) == ["tx-0-0", "tx-0-1", "tx-0-2", "tx-0-3"]
    for name in ("ml_features", "labels"):
        assert lake.table(name).count() == 4
    assert lake.values_of(Subject("acme", "card", "it's-mine-4")) == []
    assert lake.delete("acme", ["dec-0-4"]) == 0
    assert lake.delete("other", ["dec-0-2"]) == 0
    assert lake.delete("acme", []) == 0


def test_an_erasure_that_ended_before_its_files_went_is_finished_by_the_next_run(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, 0, 5)

    def fails(**_: object) -> int:
        raise Unavailable("lake", "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(lake, "vacuum", fails)
        with pytest.raises(Unavailable):
            lake.delete("acme", ["dec-0-4"])
    assert lake.values_of(Subject("acme", "card", "card-4")) == [], "nothing is left that would tell of it"
    assert who_holds(tmp_path, "card-4")
    next_run = Lake(str(tmp_path / "lake"))
    next_run.finish_erasure()
    assert not who_holds(tmp_path, "card-4")
    before = next_run.table("transactions").version()
    put(next_run, 5, 5)
    next_run.finish_erasure()
    assert next_run.table("transactions", before).count() == 4, "with nothing to finish older versions stay"


def test_a_file_that_no_commit_has_named_goes_with_an_erasure(lake: Lake, tmp_path: Path) -> None:
    """As a run leaves it that was killed between a file and its commit; somebody who is erased may be in it."""
    put(lake, 0, 5)
    (file,) = (tmp_path / "lake" / "transactions").rglob("*.parquet")
    file.with_name(f"part-00000-killed-{file.name}").write_bytes(file.read_bytes())
    lake.delete("acme", ["dec-0-4"])
    assert not who_holds(tmp_path, "card-4")


def test_the_records_come_back_as_they_were(lake: Lake) -> None:
    put(lake, 0, 2, day=date(2026, 11, 20))
    put(lake, 2, 2)
    assert {record for _, record in lake.records()} == {f"record of card-{i}".encode() for i in range(4)}
    assert {record for _, record in lake.records(first_day=TODAY)} == {b"record of card-2", b"record of card-3"}
    assert {topic for topic, _ in lake.records(last_day=date(2026, 11, 20))} == {"fraud-events"}


def test_polars_reads_it_without_us(lake: Lake, tmp_path: Path) -> None:
    put(lake, 0, 4)
    frame = pl.read_delta(str(tmp_path / "lake" / "ml_features"))
    assert sorted(frame["features"].list.first().to_list()) == [0.0, 1.0, 2.0, 3.0]
