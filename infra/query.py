"""Questions of people to the stack's ClickHouse, as the read-only account: a table on the screen, or bytes in a format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.httpclient import HttpClient

from analytics.connection import FAILURES, connect
from fraud.errors import Unavailable
from infra.house_access import house_settings
from infra.plan import Plan

__all__ = ["FORMATS", "Answer", "RefusedQuery", "ask", "fetch"]

FORMATS = {"csv": "CSVWithNames", "json": "JSON", "parquet": "Parquet"}


class RefusedQuery(Exception):
    """ClickHouse does not run it, in its own words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``more`` when the limit has cut it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    more: bool


def ask(plan: Plan, sql: str, parameters: Mapping[str, str], *, limit: int) -> Answer:
    """The first ``limit`` rows; raises RefusedQuery, Unavailable."""
    with _reader(plan, limit + 1) as client, _told():
        found = client.query(sql, parameters=dict(parameters))
    return Answer(found.column_names, found.result_rows[:limit], len(found.result_rows) > limit)


def fetch(plan: Plan, sql: str, parameters: Mapping[str, str], *, form: str, limit: int) -> bytes:
    """The first ``limit`` rows in one of :data:`FORMATS`; raises RefusedQuery, Unavailable."""
    with _reader(plan, limit) as client, _told():
        return bytes(client.raw_query(sql, parameters=dict(parameters), fmt=FORMATS[form]))


def _reader(plan: Plan, limit: int) -> HttpClient:
    client = connect(house_settings(plan), reads_only=True)
    # as a setting, so that the statement stays as it is; not through the client's check, which takes readonly for "no setting at all"
    client.params["limit"] = str(limit)
    return client


@contextmanager
def _told() -> Iterator[None]:
    """Errors in ClickHouse's own words, without the client's."""
    try:
        yield
    except DatabaseError as error:
        text = str(error)
        raise RefusedQuery(text[text.find("Code: ") :].partition(" (for url")[0] if "Code: " in text else text) from error
    except FAILURES as error:
        raise Unavailable("clickhouse", str(error)) from error
