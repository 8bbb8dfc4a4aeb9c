"""The embedded engine through ClickHouse's own client and through plain HTTP: what works, what is refused, what survives a kill."""

from __future__ import annotations

import datetime as dt
import gzip
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import clickhouse_connect
import pandas as pd
import pyarrow as pa
import pytest
import urllib3
from clickhouse_connect.driver.exceptions import ClickHouseError, StreamFailureError
from clickhouse_connect.driver.httpclient import HttpClient

from analytics.settings import READER, WRITER
from tests.clickhouse_engine import READER_PASSWORD, WRITER_PASSWORD, ClickHouseEngine

HTTP = urllib3.PoolManager()


def client(engine: ClickHouseEngine, user: str = WRITER, password: str = WRITER_PASSWORD, **options: Any) -> HttpClient:
    made = clickhouse_connect.get_client(dsn=engine.url, username=user, password=password, **options)
    assert isinstance(made, HttpClient)
    return made


@pytest.fixture(scope="module")
def writer(clickhouse: ClickHouseEngine) -> Iterator[HttpClient]:
    with client(clickhouse) as made:
        made.command("CREATE DATABASE IF NOT EXISTS scratch")
        yield made


@pytest.fixture(scope="module")
def reader(clickhouse: ClickHouseEngine) -> Iterator[HttpClient]:
    with client(clickhouse, READER, READER_PASSWORD) as made:
        yield made


def ask(
    engine: ClickHouseEngine, body: bytes | str = b"", *, user: str = READER, method: str = "POST", whole: bool = True, **more: Any
) -> urllib3.BaseHTTPResponse:
    """One request as curl would send it."""
    password = READER_PASSWORD if user == READER else WRITER_PASSWORD
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password, **more.pop("headers", {})}
    query = "&".join(f"{name}={value}" for name, value in more.items())
    data = body.encode() if isinstance(body, str) else body
    return HTTP.request(
        method, f"{engine.url}/?{query}", body=data or None, headers=headers, retries=False, decode_content=False, preload_content=whole
    )


def until_it_breaks(answer: urllib3.BaseHTTPResponse) -> bytes:
    """What came of a body: one that fails in the middle says why and then breaks off, so that nobody takes it for whole."""
    came = bytearray()
    with suppress(urllib3.exceptions.ProtocolError):
        for piece in answer.stream(65_536):
            came += piece
    return bytes(came)


def code_of(error: ClickHouseError) -> int:
    return int(str(error).partition("Code: ")[2].partition(".")[0])


MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000)  # noqa: DTZ001 - as the client gives a column without a zone
ROW = (1, "it's\t\\ é", MOMENT, None, [1.5, -0.0], "JPY")


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_typed_rows_go_in_and_come_out_the_same(clickhouse: ClickHouseEngine, writer: HttpClient, compress: str | bool) -> None:
    writer.command(
        "CREATE OR REPLACE TABLE scratch.typed "
        "(a Int64, s String, t DateTime64(3), n Nullable(Float64), v Array(Float64), l LowCardinality(String)) "
        "ENGINE = MergeTree ORDER BY a"
    )
    with client(clickhouse, compress=compress) as compressing:
        summary = compressing.insert("scratch.typed", [list(ROW)] * 3)
        assert summary.written_rows == 3
        assert compressing.query("SELECT * FROM scratch.typed").result_rows == [ROW] * 3


def test_parameters_are_values_and_never_sql(reader: HttpClient) -> None:
    given = {"i": 5, "s": "it's \\ \t\n'); DROP", "l": ["a'b", "c"], "d": MOMENT.replace(microsecond=0)}
    found = reader.query("SELECT {i:Int64}, {s:String}, {l:Array(String)}, {d:DateTime}", parameters=given).result_rows
    assert found == [tuple(given.values())]


def test_a_hundred_thousand_rows_go_in_as_a_data_frame_and_come_out_as_one(writer: HttpClient) -> None:
    writer.command("CREATE OR REPLACE TABLE scratch.frames (a Int64, s String) ENGINE = MergeTree ORDER BY a")
    frame = pd.DataFrame({"a": range(100_000), "s": ["row"] * 100_000})
    writer.insert_df("scratch.frames", frame)
    pd.testing.assert_frame_equal(writer.query_df("SELECT * FROM scratch.frames ORDER BY a"), frame, check_dtype=False)
    writer.insert_arrow("scratch.frames", pa.table({"a": [100_000], "s": ["arrow"]}))
    assert writer.query_arrow("SELECT count() AS n FROM scratch.frames")["n"].to_pylist() == [100_001]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELEC 1", 62),
        ("SELECT * FROM nothing_there", 60),
        ("SELECT toUInt8('x')", 6),
        ("SELECT 1; SELECT 2", 62),
        ("SET max_threads = 2", 48),
    ],
)
def test_errors_are_clickhouses_own(reader: HttpClient, sql: str, code: int) -> None:
    with pytest.raises(ClickHouseError) as caught:
        reader.query(sql)
    assert code_of(caught.value) == code


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO scratch.kept VALUES (2)",
        "DROP TABLE scratch.kept",
        "TRUNCATE TABLE scratch.kept",
        "ALTER TABLE scratch.kept DELETE WHERE 1",
        "CREATE TABLE scratch.more (a Int8) ENGINE = Memory",
        "KILL QUERY WHERE 1",
        "SYSTEM STOP MERGES",
        "SELECT file('/etc/hostname')",
        "SELECT `fi\\x6ce`/**/('/etc/hostname')",
        "SELECT arrayMap(x -> file(x), ['/etc/hostname'])",
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "DESCRIBE TABLE file('/etc/hostname')",
        "SELECT * FROM `/etc/hostname`",
        "SELECT * FROM eval('SELECT 1')",
        "SELECT 1 INTO/**/OUTFILE '/tmp/fraudguard-outfile'",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
        "SELECT * FROM remote('127.0.0.1', 'system.one')",
        "SELECT * FROM python(x)",
        "SELECT 1 SETTINGS max_execution_time = 0",
        "EXPLAIN SELECT file('/etc/hostname')",
    ],
)
def test_a_reader_changes_nothing_and_leaves_the_database_nowhere(clickhouse: ClickHouseEngine, writer: HttpClient, sql: str) -> None:
    writer.command("CREATE TABLE IF NOT EXISTS scratch.kept (a Int64) ENGINE = MergeTree ORDER BY a")
    answer = ask(clickhouse, sql)
    assert answer.headers["X-ClickHouse-Exception-Code"] in {"164", "62", "48"}, answer.data
    assert not Path("/tmp/fraudguard-outfile").exists()
    assert writer.query("SELECT count() FROM scratch.kept").result_rows == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'INTO OUTFILE', 'file(1)' AS x",
        "WITH 1 AS a SELECT a",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SHOW TABLES FROM fraud",
        "DESCRIBE TABLE fraud.decisions",
        "EXPLAIN SELECT 1",
        "EXISTS TABLE fraud.decisions",
    ],
)
def test_a_reader_reads(clickhouse: ClickHouseEngine, sql: str) -> None:
    """The control of the test above: it does not refuse everything."""
    answer = ask(clickhouse, sql)
    assert answer.status == 200, answer.data


@pytest.mark.parametrize(
    ("sql", "settings", "code"),
    [
        ("SELECT number FROM numbers(200000)", {}, 396),
        ("SELECT groupArray(number) FROM numbers(100000000)", {"max_threads": 1}, 241),
        ("SELECT max(x) FROM (SELECT sleepEachRow(0.5) AS x FROM numbers(20))", {"max_execution_time": 1, "max_block_size": 1}, 159),
        ("SELECT 1", {"readonly": 0}, 164),
        ("SELECT 1", {"allow_ddl": 1}, 164),
    ],
)
def test_a_reader_has_limits_that_it_can_only_lower(clickhouse: ClickHouseEngine, sql: str, settings: dict[str, Any], code: int) -> None:
    raised = {"max_result_rows": 10**9, "max_memory_usage": 10**12}
    answer = ask(clickhouse, sql, whole=False, **{**raised, **settings})
    data = until_it_breaks(answer)
    found = answer.headers.get("X-ClickHouse-Exception-Code") or data.decode(errors="replace").partition("Code: ")[2].partition(".")[0]
    assert found == str(code), data[-300:]


def test_nobody_without_a_password(clickhouse: ClickHouseEngine) -> None:
    for headers in ({"X-ClickHouse-Key": "wrong"}, {"X-ClickHouse-User": "nobody"}):
        answer = ask(clickhouse, "SELECT 1", headers=headers)
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
    assert HTTP.request("POST", clickhouse.url, body=b"SELECT 1", retries=False).status == 403
    assert HTTP.request("GET", f"{clickhouse.url}/ping").data == b"Ok.\n"


def test_curl_and_basic_auth_and_a_format_in_the_query(clickhouse: ClickHouseEngine) -> None:
    basic = urllib3.make_headers(basic_auth=f"{READER}:{READER_PASSWORD}")
    answer = HTTP.request("GET", f"{clickhouse.url}/?query=SELECT%201%20AS%20x%20FORMAT%20JSONEachRow", headers=basic)
    assert (answer.data, answer.headers["X-ClickHouse-Format"]) == (b'{"x":1}\n', "JSONEachRow")
    assert ask(clickhouse, "SELECT 1, 'a'").data == b"1\ta\n"
    assert ask(clickhouse, "SELECT 1 AS x", default_format="CSVWithNames").data == b'"x"\n1\n'


def test_answers_are_compressed_for_who_asks_as_grafanas_driver_does(clickhouse: ClickHouseEngine) -> None:
    answer = ask(clickhouse, "SELECT 1", headers={"Accept-Encoding": "gzip"}, enable_http_compression=1)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.data) == b"1\n"
    assert "Content-Encoding" not in ask(clickhouse, "SELECT 1", headers={"Accept-Encoding": "gzip"}).headers


def test_what_is_not_spoken_is_a_clear_error(clickhouse: ClickHouseEngine) -> None:
    assert ask(clickhouse, "SELECT 1", compress=1).status == 501
    assert ask(clickhouse, "SELECT 1", headers={"Content-Encoding": "gzip"}).status == 501
    assert ask(clickhouse, "SELECT 1", headers={"Content-Type": "multipart/form-data; boundary=x"}).status == 501
    assert ask(clickhouse, "USE fraud").status == 501


def test_a_get_changes_nothing_whoever_asks(clickhouse: ClickHouseEngine) -> None:
    answer = ask(clickhouse, user=WRITER, method="GET", query="CREATE%20DATABASE%20by_get")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"


def test_bodies_are_bounded(clickhouse: ClickHouseEngine, writer: HttpClient) -> None:
    writer.command("CREATE OR REPLACE TABLE scratch.large (a Int64) ENGINE = Memory")
    assert ask(clickhouse, "SELECT '" + "x" * 200_000 + "'").status == 413
    answer = ask(clickhouse, b"INSERT INTO scratch.large FORMAT TSV\n" + b"1\n" * (40 << 20), user=WRITER)
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (413, "307")


def test_an_insert_of_something_else_is_refused_and_leaves_nothing(clickhouse: ClickHouseEngine, writer: HttpClient) -> None:
    writer.command("CREATE OR REPLACE TABLE scratch.numbers (a Int64) ENGINE = MergeTree ORDER BY a")
    assert ask(clickhouse, "INSERT INTO scratch.numbers FORMAT TSV\n1\nno number\n", user=WRITER).status == 400
    assert ask(clickhouse, "INSERT INTO scratch.nowhere FORMAT TSV\n1\n", user=WRITER).status == 404
    assert writer.query("SELECT count() FROM scratch.numbers").result_rows == [(0,)]


def test_an_insert_that_the_engine_cannot_write_is_refused(clickhouse: ClickHouseEngine, writer: HttpClient) -> None:
    """The engine finds out when everything is parsed, at the write itself, as it does when its disk is full."""
    writer.command("CREATE OR REPLACE TABLE scratch.small (a Int64, CONSTRAINT small CHECK a < 5) ENGINE = MergeTree ORDER BY a")
    answer = ask(clickhouse, "INSERT INTO scratch.small SETTINGS async_insert = 0 FORMAT TSV\n1\n9\n", user=WRITER)
    assert answer.headers.get("X-ClickHouse-Exception-Code") == "469"
    assert ask(clickhouse, "INSERT INTO scratch.small SETTINGS async_insert = 0 FORMAT TSV\n1\n2\n", user=WRITER).status == 200
    assert writer.query("SELECT a FROM scratch.small ORDER BY a").result_rows == [(1,), (2,)]


def test_an_error_in_the_middle_of_rows_is_seen(writer: HttpClient) -> None:
    with (
        pytest.raises(StreamFailureError, match="395"),
        writer.query_row_block_stream("SELECT throwIf(number > 2000000) FROM numbers(9000000)") as rows,
    ):
        for _ in rows:
            pass


def test_more_at_once_than_allowed_is_told_to_come_again(clickhouse: ClickHouseEngine) -> None:
    statuses: list[int] = []
    asking = [threading.Thread(target=lambda: statuses.append(ask(clickhouse, "SELECT sleep(3)").status), daemon=True) for _ in range(5)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert sorted(statuses) == [200, 200, 429, 429, 429]
    assert ask(clickhouse, "SELECT 1").status == 200


def test_tables_outlive_sigterm_and_kill(tmp_path: Path) -> None:
    engine = ClickHouseEngine(tmp_path)
    try:
        engine.start()
        with client(engine) as made:
            made.command("CREATE TABLE kept (a Int64) ENGINE = MergeTree ORDER BY a")
            made.insert("kept", [[1]])
        assert engine.stop() == 0
        engine.start()
        with client(engine) as made:
            made.insert("kept", [[2]])
        engine.kill()
        engine.start()
        with client(engine) as made:
            assert made.query("SELECT a FROM kept ORDER BY a").result_rows == [(1,), (2,)]
    finally:
        engine.kill()
