"""Questions of people to the stack's ClickHouse, as the read-only account: a table on the screen, or bytes in a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from analytics.store import FAILURES, connect
from fraud.errors import Unavailable
from infra.house import house_settings
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
    with _reader(plan) as client:
        try:
            found = client.query(sql, settings=_values(parameters, limit + 1))
        except ClickHouseError as error:
            raise _told(error) from error
        except FAILURES as error:
            raise Unavailable("clickhouse", str(error)) from error
    return Answer(found.column_names, found.result_rows[:limit], len(found.result_rows) > limit)


def fetch(plan: Plan, sql: str, parameters: Mapping[str, str], *, form: str, limit: int) -> bytes:
    """The first ``limit`` rows in one of :data:`FORMATS`; raises RefusedQuery, Unavailable."""
    with _reader(plan) as client:
        try:
            answer = client.raw_query(sql, settings=_values(parameters, limit), fmt=FORMATS[form])
        except ClickHouseError as error:
            raise _told(error) from error
        except FAILURES as error:
            raise Unavailable("clickhouse", str(error)) from error
    return bytes(answer)


def _reader(plan: Plan) -> Client:
    return connect(house_settings(plan), reads_only=True)


def _values(parameters: Mapping[str, str], limit: int) -> dict[str, str]:
    """As the protocol sends them: the values escaped, the limit as a setting, so that the statement stays as it is."""
    escaped = {f"param_{name}": value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n") for name, value in parameters.items()}
    return {**escaped, "limit": str(limit)}


def _told(error: ClickHouseError) -> Exception:
    if not isinstance(error, DatabaseError):
        return Unavailable("clickhouse", str(error))
    text = str(error)
    return RefusedQuery(text[text.find("Code: ") :].partition(" (for url")[0] if "Code: " in text else text)
