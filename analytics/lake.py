"""The lake: the sanitised event log as Delta tables by day, kept longer than Kafka and readable without us.

::

    transactions   a decision a row: the transaction, what was decided, and the ledger's own record of it, byte for byte
    ml_features    the features of each decision as served, under their names' version: what a training set is cut from
    labels         a label a row, and the ledger's record of it

A commit carries rows and the offsets behind them (Delta's application transactions), so what is interrupted is neither lost nor
doubled.  Backtests read the records, everybody else the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError

from analytics.lag import Place
from analytics.lake_rows import SCHEMAS, TOPIC_OF
from analytics.ledger_rows import IDENTITIES, Tables, Value
from fraud.errors import Denied, Unavailable

__all__ = ["Lake", "Subject", "TableState"]

DAY = "day"
KEPT_DAYS = 90
TRAVEL_HOURS = 7 * 24  # how far back older versions stay readable
_SMALL_FILES = 32  # of one day and table, before they are made one
_FAILURES = (DeltaError, OSError)
# An application transaction of the table of transactions: whether files still hold rows that an erasure has deleted from the tables.
_ERASURE, _FILES_GONE, _FILES_LEFT = "erasure", 0, 1
_CONFIGURATION: dict[str, str | None] = {
    "delta.deletedFileRetentionDuration": f"interval {TRAVEL_HOURS} hours",
    # least and greatest values stand in the log, which no erasure rewrites: never those of an identity
    "delta.dataSkippingStatsColumns": "recorded_at,event_time",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Somebody to be forgotten: a tenant's card, user, device or address (its keyed hash)."""

    tenant_id: str
    kind: Literal["card", "user", "device", "ip"]
    identity: str


@dataclass(frozen=True, slots=True)
class TableState:
    """What one table holds now; days are those of arrival, UTC."""

    name: str
    version: int
    rows: int
    files: int
    bytes: int
    first_day: str | None
    last_day: str | None

    @property
    def holds_records(self) -> bool:
        """Whether a row has the ledger's record of it."""
        return "record" in SCHEMAS[self.name].names


class Lake:
    """The tables under one folder, or under one URL of an object store (``storage_options`` as deltalake takes them).

    One process writes; any number read.  Every method raises Unavailable when the storage fails.
    """

    def __init__(self, root: str, storage_options: Mapping[str, str] | None = None) -> None:
        self._root = root.rstrip("/")
        self._options = dict(storage_options or {})

    # -- writing --------------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the tables that are not there yet."""
        for name, schema in SCHEMAS.items():
            if self._find(name) is None:
                self._try(
                    DeltaTable.create,
                    self._uri(name),
                    schema=schema,
                    mode="ignore",
                    partition_by=[DAY],
                    storage_options=self._options,
                    configuration=_CONFIGURATION,
                )

    def offsets(self, places: Sequence[Place]) -> dict[Place, int]:
        """Where each partition of the tables' topics goes on: the place that every table of its topic has reached."""
        reached = {name: _reached(self.table(name), places) for name in SCHEMAS}
        return {place: min(reached[name].get(place, 0) for name, topic in TOPIC_OF.items() if topic == place.topic) for place in places}

    def append(self, tables: Tables, offsets: Mapping[Place, int]) -> None:
        """Commit rows, a table at a time, each with the offsets behind its topic's rows."""
        for name, rows in tables.items():
            mine = {place: offset for place, offset in offsets.items() if place.topic == TOPIC_OF[name]}
            table = self.table(name)
            self._commit(table, _not_there_yet(rows, _reached(table, list(mine))), mine)

    # -- reading --------------------------------------------------------------------------------------------------------------

    def table(self, name: str, at: int | datetime | None = None) -> DeltaTable:
        """One table as it is, or as it was at a version or a moment.

        Raises:
            Denied: there is no such table, or the version is gone.
        """
        table = self._find(name) if name in SCHEMAS else None
        if table is None:
            raise Denied(f"the lake has no table {name}; ./fraudguard lake sync makes {', '.join(SCHEMAS)}")
        if at is not None:
            try:
                table.load_as_version(at)
            except _FAILURES as error:
                raise Denied(f"{name} cannot be read as of {at}: {error}") from error
        return table

    def records(self, first_day: date | None = None, last_day: date | None = None) -> Iterator[tuple[str, bytes]]:
        """Yield topic and value of the ledger's records that arrived within the days, both included; labels come last."""
        wanted = pc.field(DAY) >= (first_day or date.min)
        if last_day is not None:
            wanted &= pc.field(DAY) <= last_day
        for name in ("transactions", "labels"):
            for batch in self.table(name).to_pyarrow_dataset().to_batches(columns=["record"], filter=wanted):
                for record in batch.column("record").to_pylist():
                    yield TOPIC_OF[name], record

    def state(self) -> list[TableState]:
        """What the tables hold."""
        return [_state(name, self.table(name)) for name in SCHEMAS]

    # -- upkeep ---------------------------------------------------------------------------------------------------------------

    def compact(self, *, least_files: int = _SMALL_FILES) -> dict[str, int]:
        """Make one file of many where a day has gathered ``least_files``; returns how many files went, by table."""
        went = {}
        for name in SCHEMAS:
            table = self.table(name)
            days = [day for day, files in _files_by_day(table).items() if files >= least_files]
            went[name] = sum(self._try(table.optimize.compact, partition_filters=[(DAY, "=", day)])["numFilesRemoved"] for day in days)
        return went

    def expire(self, today: date, *, kept_days: int = KEPT_DAYS) -> int:
        """Delete the days before the kept ones; returns how many rows went."""
        first = today - timedelta(days=kept_days)
        return sum(self._try(self.table(name).delete, f"{DAY} < '{first.isoformat()}'")["num_deleted_rows"] for name in SCHEMAS)

    def vacuum(self, *, travel_hours: int = TRAVEL_HOURS) -> int:
        """Remove files that no version of the last ``travel_hours`` needs; returns how many. Older versions are gone with them.

        So is what a killed run has written and not committed (``full``).
        """
        return sum(
            len(self._try(self.table(name).vacuum, travel_hours, dry_run=False, enforce_retention_duration=False, full=True))
            for name in SCHEMAS
        )

    def values_of(self, subject: Subject) -> list[Value]:
        """The records of a subject's decisions."""
        mine = (pc.field("tenant_id") == subject.tenant_id) & (pc.field(IDENTITIES[subject.kind]) == subject.identity)
        columns = ["partition", "offset", "recorded_at", "record"]
        found = self.table("transactions").to_pyarrow_dataset().to_table(columns=columns, filter=mine)
        moments = pc.cast(found["recorded_at"], pa.int64()).to_pylist()
        rest = (found[name].to_pylist() for name in ("partition", "offset", "record"))
        return [Value(partition, offset, us // 1_000, record) for us, partition, offset, record in zip(moments, *rest, strict=True)]

    def delete(self, tenant_id: str, decision_ids: Sequence[str]) -> int:
        """Delete every row of some decisions, and the files that hold them: no older version can be read any more.

        Returns how many transactions went.
        """
        if not decision_ids:
            return 0
        theirs = f"tenant_id = {_quoted(tenant_id)} AND decision_id IN ({', '.join(map(_quoted, decision_ids))})"
        # transactions last: that is where an interrupted erasure finds the rest
        for name in ("ml_features", "labels"):
            self._try(self.table(name).delete, theirs)
        went = self._try(self.table("transactions").delete, theirs, commit_properties=_erasure(_FILES_LEFT))["num_deleted_rows"]
        self.finish_erasure()
        return int(went)

    def finish_erasure(self) -> None:
        """Remove the files of what was deleted from the tables, unless that is done; a run that was killed leaves it to the next."""
        if self.table("transactions").transaction_version(_ERASURE) != _FILES_LEFT:
            return
        self.vacuum(travel_hours=0)
        table = self.table("transactions")
        self._try(table.create_write_transaction, [], "append", table.schema(), [DAY], commit_properties=_erasure(_FILES_GONE))

    # -------------------------------------------------------------------------------------------------------------------------

    def _uri(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _find(self, name: str) -> DeltaTable | None:
        if "://" not in self._root and not (Path(self._root) / name).exists():
            return None
        is_table: bool = self._try(DeltaTable.is_deltatable, self._uri(name), storage_options=self._options)
        return self._try(DeltaTable, self._uri(name), storage_options=self._options) if is_table else None

    def _commit(self, table: DeltaTable, rows: pa.Table, offsets: Mapping[Place, int]) -> None:
        if not rows.num_rows:
            return
        behind = [Transaction(_application(place), offset) for place, offset in sorted(offsets.items())]
        self._try(write_deltalake, table, rows, mode="append", commit_properties=CommitProperties(app_transactions=behind))

    def _try(self, call: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except _FAILURES as error:
            raise Unavailable("lake", str(error)[:500]) from error


def _erasure(state: int) -> CommitProperties:
    return CommitProperties(app_transactions=[Transaction(_ERASURE, state)])


def _application(place: Place) -> str:
    return f"{place.topic}/{place.topic_id}/{place.partition}"


def _reached(table: DeltaTable, places: Sequence[Place]) -> dict[Place, int]:
    """The offsets that a table's commits carry; a place that no commit has named is left out."""
    found = {place: table.transaction_version(_application(place)) for place in places}
    return {place: offset for place, offset in found.items() if offset is not None}


def _not_there_yet(rows: pa.Table, reached: Mapping[Place, int]) -> pa.Table:
    """Leave out rows that the table has already: another table of the topic was interrupted, and the batch is read again."""
    for place, done in reached.items():
        again = pc.and_(pc.equal(rows["partition"], place.partition), pc.less(rows["offset"], done))
        rows = rows.filter(pc.invert(again))
    return rows


def _files_by_day(table: DeltaTable) -> dict[str, int]:
    files: dict[str, int] = {}
    for one in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        day = str(one[f"partition.{DAY}"])
        files[day] = files.get(day, 0) + 1
    return files


def _state(name: str, table: DeltaTable) -> TableState:
    actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    days = sorted(str(one[f"partition.{DAY}"]) for one in actions)
    return TableState(
        name=name,
        version=table.version(),
        rows=sum(one["num_records"] for one in actions),
        files=len(actions),
        bytes=sum(one["size_bytes"] for one in actions),
        first_day=days[0] if days else None,
        last_day=days[-1] if days else None,
    )


def _quoted(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"
