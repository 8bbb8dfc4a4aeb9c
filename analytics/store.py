"""ClickHouse as the sink sees it: batches that may be sent again, and the offsets up to which everything is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO

import polars as pl
import pyarrow as pa
from clickhouse_connect.driver.httpclient import HttpClient

from analytics.connection import FAILURES, connect
from analytics.erasure import ERASED, GONE, ROW
from analytics.lag import Place, read_offsets
from analytics.ledger_rows import IDENTITIES, Reject
from analytics.schema import DATABASE, is_current, migrate
from analytics.settings import HouseSettings
from fraud.errors import Unavailable

__all__ = ["Store", "batch_token", "prepare"]

# What a challenger said has a topic of its own, so its version is not the decision's: the ledger may take it a moment after the erasure
# that it is older than.  The number is longer than a transaction of the ledger.
_AFTER_MS = 10_000
_HOLD_A_SUBJECT = {**dict.fromkeys(("transactions", "decisions", "rule_hits", "reasons", "labels"), 0), "shadow_decisions": _AFTER_MS}
_ASKED_AT_ONCE = 500  # parameters travel in the URL, which ends at 64 KB in the embedded engine's server

# What was written of decisions up to the version at which they were erased; `table` and `after_ms` stand above.  Erased before yesterday:
# long gone, and no writer is on its way that could bring it back.  The condition with IN is for the primary key, which a join does not use.
_STALE = """
SELECT t.tenant_id, t.decision_id, t.version FROM {table} AS t
INNER JOIN
(
    SELECT tenant_id, decision_id, max(until) AS until FROM erased_decisions
    WHERE erased_at > now() - INTERVAL 1 DAY GROUP BY tenant_id, decision_id
) AS e ON e.tenant_id = t.tenant_id AND e.decision_id = t.decision_id
WHERE (t.tenant_id, t.decision_id) IN (SELECT tenant_id, decision_id FROM erased_decisions WHERE erased_at > now() - INTERVAL 1 DAY)
    AND t.version <= e.until + {after_ms}
"""
# `column` is one of IDENTITIES
_POSITIONS_OF = """
WITH theirs AS
(
    SELECT tenant_id, decision_id, version, assumeNotNull({column}) AS identity FROM transactions
    WHERE tenant_id = {{tenant:String}} AND {column} IN {{identities:Array(String)}}
)
SELECT DISTINCT t.tenant_id, t.decision_id, t.version, {{kind:String}}, concat(t.tenant_id, '|', t.identity), nullIf(d.seq, 0)
FROM theirs AS t
LEFT JOIN
(
    SELECT tenant_id, decision_id, version, entity_seqs[indexOf(entity_kinds, {{kind:String}})] AS seq FROM decisions
    WHERE (tenant_id, decision_id) IN (SELECT tenant_id, decision_id FROM theirs)
) AS d ON d.tenant_id = t.tenant_id AND d.decision_id = t.decision_id AND d.version = t.version
"""
_FAILING = """
SELECT table, count() FROM system.mutations
WHERE database = currentDatabase() AND NOT is_done AND latest_fail_reason != '' GROUP BY table
"""
_POSITION = {**ROW, "kind": pl.String, "key": pl.String, "seq": pl.Int64}


def prepare(settings: HouseSettings) -> list[str]:
    """Create the database and apply the migrations that are missing; returns their names.

    Raises:
        Unavailable: ClickHouse does not answer, or refuses.
        SchemaChanged: the database was made by other files.
    """
    try:
        with connect(settings, database="default") as client:
            client.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        with connect(settings) as client:
            return migrate(client)
    except FAILURES as error:
        raise Unavailable("clickhouse", str(error)) from error


class Store:
    """Writes for one sink; a lost connection is opened again by the next call.

    Every method raises Unavailable when ClickHouse does not answer or refuses: the sink keeps its batch and tries again.
    """

    def __init__(self, settings: HouseSettings) -> None:
        self._settings = settings
        self._client: HttpClient | None = None

    def require_schema(self) -> None:
        """Raise Unavailable until the tables are there."""
        try:
            current = is_current(self._open())
        except FAILURES as error:
            raise self._lost(error) from error
        if not current:
            raise Unavailable("clickhouse", "its schema is not the current one yet; ./fraudguard up applies the migrations")

    def offsets(self) -> dict[Place, int]:
        """Where each partition goes on."""
        try:
            return read_offsets(self._open())
        except FAILURES as error:
            raise self._lost(error) from error

    def write(self, tables: Mapping[str, pa.Table], token: str) -> None:
        """Insert each table's rows; the same rows under the same token once more change nothing."""
        try:
            for name in sorted(tables):
                self._open().raw_insert(
                    name,
                    column_names=tables[name].column_names,
                    insert_block=_ipc(tables[name]),
                    fmt="ArrowStream",
                    settings={"insert_deduplication_token": f"{name}-{token}", "async_insert": 0},
                )
        except FAILURES as error:
            raise self._lost(error) from error

    def reject(self, topic: str, topic_id: str, rejects: Sequence[Reject]) -> None:
        """Set aside what could not be read, by its place."""
        rows = [[topic, topic_id, r.partition, r.offset, r.code, r.detail, r.bytes, r.recorded_ms] for r in rejects]
        names = ("topic", "topic_id", "partition", "offset", "code", "detail", "bytes", "recorded_at")
        table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
        moments = table["recorded_at"].cast(pa.timestamp("ms", "UTC"))
        self.write({"sink_rejects": table.set_column(len(names) - 1, "recorded_at", moments)}, batch_token(rows))

    def save(self, offsets: Mapping[Place, int]) -> None:
        """Remember that everything before these offsets is there; called after :meth:`write`."""
        rows = [(place.topic, place.topic_id, place.partition, offset) for place, offset in sorted(offsets.items())]
        names = ("topic", "topic_id", "partition", "next_offset")
        self.write({"sink_offsets": pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})}, batch_token(rows))

    def erased(self) -> pl.DataFrame:
        """Every subject that was erased, as :data:`analytics.erasure.ERASED`."""
        sql = "SELECT kind, subject, max(seq), max(erasures.version) FROM erasures GROUP BY kind, subject"
        return self._frame(sql, {}, ERASED)

    def positions_of(self, erasures: pl.DataFrame) -> pl.DataFrame:
        """Where the decisions that name these subjects (tenant_id, kind, key) stand in their logs (see ``Extracted.positions``)."""
        found = [pl.DataFrame(schema=_POSITION)]
        for (tenant, kind), theirs in erasures.group_by("tenant_id", "kind"):
            sql = _POSITIONS_OF.format(column=IDENTITIES[str(kind)])
            identities = theirs["key"].unique().str.strip_prefix(f"{tenant}|")
            for some in identities.to_frame().iter_slices(_ASKED_AT_ONCE):
                asked = {"tenant": tenant, "kind": kind, "identities": some["key"].to_list()}
                found.append(self._frame(sql, asked, _POSITION))
        return pl.concat(found)

    def gone_among(self, decisions: pl.DataFrame) -> pl.DataFrame:
        """Those of the decisions (tenant_id, decision_id) that were erased, as :data:`analytics.erasure.GONE`."""
        sql = "SELECT tenant_id, decision_id, max(until) FROM erased_decisions WHERE decision_id IN {ids:Array(String)} GROUP BY 1, 2"
        slices = decisions.select(pl.col("decision_id").unique()).iter_slices(_ASKED_AT_ONCE)
        return pl.concat([pl.DataFrame(schema=GONE), *(self._frame(sql, {"ids": some["decision_id"].to_list()}, GONE) for some in slices)])

    def forget(self, gone: pl.DataFrame) -> dict[str, int]:
        """Delete what is there of these decisions (:data:`analytics.erasure.GONE`), and of those of the last day; returns rows by table.

        The engine rewrites their parts in the background: the rows are to be read for some seconds more.
        """
        try:
            if not gone.is_empty():
                rows = gone.select(GONE.keys()).sort("tenant_id", "decision_id")
                self.write({"erased_decisions": rows.to_arrow(compat_level=pl.CompatLevel.oldest())}, batch_token(rows.rows()))
            stale = {name: _STALE.format(table=name, after_ms=after_ms) for name, after_ms in _HOLD_A_SUBJECT.items()}
            return {name: count for name, sql in stale.items() if (count := self._delete(name, sql))}
        except FAILURES as error:
            raise self._lost(error) from error

    def failing_deletions(self) -> dict[str, int]:
        """How many deletions the engine has tried and could not do, by table."""
        return dict.fromkeys(_HOLD_A_SUBJECT, 0) | dict(self._frame(_FAILING, {}, {"table": pl.String, "count": pl.Int64}).iter_rows())

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _delete(self, table: str, stale: str) -> int:
        """Most often there is nothing, and a mutation would be one for every part all the same."""
        count = int(self._open().query(f"SELECT count() FROM ({stale})").result_rows[0][0])
        if count:
            # not waited for, whatever the engine's version does by itself: one that fails must not hold up what everybody else decides
            self._open().command(
                f"ALTER TABLE {table} DELETE WHERE (tenant_id, decision_id, version) IN ({stale}) SETTINGS mutations_sync = 0"
            )
        return count

    def _frame(self, sql: str, parameters: Mapping[str, object], schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
        try:
            rows = self._open().query(sql, parameters=dict(parameters)).result_rows
        except FAILURES as error:
            raise self._lost(error) from error
        return pl.DataFrame(list(rows), schema=dict(schema), orient="row")

    def _open(self) -> HttpClient:
        if self._client is None:
            self._client = connect(self._settings)
        return self._client

    def _lost(self, error: Exception) -> Unavailable:
        self.close()
        return Unavailable("clickhouse", str(error)[:500])


def batch_token(content: object) -> str:
    """A short name of what a batch consists of, the same for the same content."""
    return sha256(repr(content).encode()).hexdigest()[:32]


def _ipc(table: pa.Table) -> bytes:
    out = BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()
