"""ClickHouse's own engine in this process, on a folder of its own: one connection a statement, so that none leaves state behind.

Owns ``chdb`` and knows nothing of HTTP.  The folder belongs to one process at a time; after ``kill -9`` the next one opens it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import chdb

from analytics.accounts import Account, ReaderLimits
from analytics.statements import ClickHouseError, Insert, format_of, needs_session, refusal_for_reader, returns_rows

__all__ = ["Engine", "EngineSettings", "InsertStream", "Question", "Rows"]

# Blocks of these can be put one after the other; other formats have a beginning and an end around all rows.
_STREAMED = frozenset({"Native", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "RowBinary", "JSONEachRow"})
_QUOTE, _BACKQUOTE = "'", "`"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``folder`` is created; memory and background threads are those of the whole engine."""

    folder: Path
    max_server_memory_bytes: int = 2_000_000_000
    mark_cache_bytes: int = 256_000_000
    background_threads: int = 2
    limits: ReaderLimits = field(default_factory=ReaderLimits)


@dataclass(frozen=True, slots=True)
class Question:
    """One statement: its text, values of ``{name:Type}`` parameters as the protocol escapes them, and how to run it."""

    sql: str
    account: Account
    format: str = "TabSeparated"  # where the text names none
    database: str = "default"
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False  # as a GET is, whoever asks


@dataclass(frozen=True, slots=True)
class Rows:
    """An answer: its format, the bytes as they come, and counts where they are known before the bytes."""

    format: str
    chunks: Iterator[bytes]
    counts: Mapping[str, int]


class Engine:
    """Open from the start until ``close``; every method may be called by several threads at once."""

    def __init__(self, settings: EngineSettings) -> None:
        settings.folder.mkdir(parents=True, exist_ok=True)
        self._path = str(settings.folder)
        self._limits = settings.limits
        options = {
            "max_server_memory_usage": settings.max_server_memory_bytes,
            "mark_cache_size": settings.mark_cache_bytes,
            "background_pool_size": settings.background_threads,
        }
        # the first connection decides what the server is; it stays open, or the engine would stop with the last statement
        self._first = chdb.connect(f"{self._path}?{'&'.join(f'{name}={value}' for name, value in options.items())}")
        self.version = str(self._first.query("SELECT version()", "TSVRaw")).strip()
        self.timezone = str(self._first.query("SELECT timezone()", "TSVRaw")).strip()

    def close(self) -> None:
        """Stop merging and let go of the folder."""
        self._first.close()

    def run(self, question: Question) -> Rows:
        """Run any statement without inline data.

        Raises:
            ClickHouseError: it was refused or failed; while rows are read, too.
        """
        if needs_session(question.sql):
            raise ClickHouseError(
                48, "NOT_IMPLEMENTED", "The embedded engine keeps no sessions: send settings and database with each query"
            )
        connection = self._connect(question)
        format_ = format_of(question.sql) or question.format
        parameters = dict(question.parameters) or None
        if format_ in _STREAMED and returns_rows(question.sql):
            return Rows(format_, _first_read(_streamed(connection, question.sql, format_, parameters)), {})
        with closing(connection):
            try:
                result = connection.query(question.sql, format_, params=parameters)
            except Exception as error:  # the engine raises RuntimeError and its own ChdbError for the same thing
                raise ClickHouseError.of(error) from error
            counts = {"read_rows": result.rows_read(), "read_bytes": result.bytes_read(), "written_rows": result.rows_written()}
            return Rows(format_, iter([result.bytes()]), counts)

    def insert(self, insert: Insert, question: Question) -> InsertStream:
        """Begin an insert whose data comes in pieces."""
        connection = self._connect(question)
        try:
            return InsertStream(connection, insert, TemporaryFile(buffering=0, dir=self._path))
        except OSError as error:
            connection.close()
            raise _no_room(error) from error

    def _connect(self, question: Question) -> Any:
        reads_only = question.account.reads_only or question.read_only
        if question.account.reads_only:
            settings = self._limits.clamped(question.settings)
            self._refuse_what_readonly_lets_through(question.sql)
        else:
            settings = {"async_insert": "0", **question.settings}
        if reads_only:
            settings["readonly"] = "1"  # goes last: it closes the door behind the others
        unknown = [name for name in settings if not name.isidentifier()]
        if unknown:
            raise ClickHouseError(115, "UNKNOWN_SETTING", "a setting's name is a word")
        prepared = [f"SET {name} = {_quoted(value, _QUOTE)}" for name, value in settings.items()]
        if question.database not in ("", "default"):
            prepared.insert(0, f"USE {_quoted(question.database, _BACKQUOTE)}")
        connection = chdb.connect(self._path)
        try:
            for statement in prepared:
                connection.query(statement)
        except Exception as error:
            connection.close()
            raise ClickHouseError.of(error) from error
        return connection

    def _refuse_what_readonly_lets_through(self, sql: str) -> None:
        """Judge the text by what the engine's own parser makes of it."""
        with closing(chdb.connect(self._path)) as connection:
            try:
                escaped = sql.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")
                canonical = str(connection.query("SELECT formatQuerySingleLine({q:String})", "TSVRaw", params={"q": escaped}))
            except Exception as error:
                raise ClickHouseError.of(error) from error
        reason = refusal_for_reader(canonical)
        if reason is not None:
            raise ClickHouseError(164, "READONLY", reason)


class InsertStream:
    """Data of one insert on its way; what is not finished is not there.

    It is gathered in a file without a name, and read from there by a statement: the engine's own stream of an insert says of a block
    that it could not write, because the disk is full or a constraint is violated, that it was written.
    """

    def __init__(self, connection: Any, insert: Insert, gathered: IO[bytes]) -> None:
        self._connection = connection
        self._insert = insert
        self._gathered = gathered

    def append(self, data: bytes) -> None:
        """Take the next bytes; raises ClickHouseError."""
        try:
            self._gathered.write(data)
        except OSError as error:
            raise _no_room(error) from error

    def finish(self) -> dict[str, int]:
        """Write them all; returns how much was written.  Raises ClickHouseError."""
        source = f"FROM INFILE '/dev/fd/{self._gathered.fileno()}'"
        try:
            done = self._connection.query(f"{self._insert.head} {source} {self._insert.settings} FORMAT {self._insert.format}")
        except Exception as error:
            raise ClickHouseError.of(error) from error
        finally:
            self.cancel()
        return {"written_rows": done.rows_written(), "written_bytes": done.bytes_written()}

    def cancel(self) -> None:
        """Forget it; harmless after ``finish``."""
        self._gathered.close()
        self._connection.close()


def _no_room(error: OSError) -> ClickHouseError:
    return ClickHouseError(243, "NOT_ENOUGH_SPACE", str(error))


def _streamed(connection: Any, sql: str, format_: str, parameters: dict[str, str] | None) -> Iterator[bytes]:
    with closing(connection):
        try:
            with connection.send_query(sql, format_, params=parameters) as stream:  # left early, it makes the engine stop
                for chunk in stream:
                    yield chunk.bytes()
        except Exception as error:
            raise ClickHouseError.of(error) from error


def _first_read(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks with the first one read already: most errors show before it, while a status can still be sent."""
    first = next(chunks, b"")
    return _chained(first, chunks)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _quoted(text: str, mark: str) -> str:
    """A name or a string of ClickHouse's SQL."""
    escaped = text.replace("\\", "\\\\").replace(mark, "\\" + mark)
    return f"{mark}{escaped}{mark}"
