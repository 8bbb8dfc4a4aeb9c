"""ClickHouse as the sink sees it: batches that may be sent again, and the offsets up to which everything is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httpclient import HttpClient
from urllib3.exceptions import HTTPError

from analytics.ledger_rows import Reject
from analytics.schema import DATABASE, is_current, migrate
from analytics.settings import HouseSettings
from fraud.errors import Unavailable

__all__ = ["FAILURES", "Place", "Store", "connect", "prepare"]

FAILURES = (ClickHouseError, HTTPError, OSError)  # the last two: it went away while it answered


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A partition of a topic that exists now; one that was deleted and made again has another ``topic_id``."""

    topic: str
    topic_id: str
    partition: int


def connect(settings: HouseSettings, *, reads_only: bool = False, database: str = DATABASE) -> HttpClient:
    """A client of a database; raises Unavailable."""
    user, password = settings.reader if reads_only else settings.writer
    try:
        client = clickhouse_connect.get_client(
            dsn=settings.url,
            username=user,
            password=password.get_secret_value(),
            database=database,
            connect_timeout=settings.connect_timeout_s,
            send_receive_timeout=settings.answer_timeout_s,
            autogenerate_session_id=False,
            query_retries=0,
            compress=False,  # both ends are on one machine or in one room
        )
    except FAILURES as error:
        raise Unavailable("clickhouse", str(error)) from error
    assert isinstance(client, HttpClient)  # what an http URL gives
    return client


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
            rows = self._open().query("SELECT topic, topic_id, partition, max(next_offset) FROM sink_offsets GROUP BY 1, 2, 3").result_rows
        except FAILURES as error:
            raise self._lost(error) from error
        return {Place(topic, topic_id, partition): offset for topic, topic_id, partition, offset in rows}

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

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

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
