"""Questions to ClickHouse as the read-only account: saved queries by name, their rows as typed records.

For whoever shows answers to people.  A tenant is a parameter of every question that concerns one, and never a part of the SQL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar

from clickhouse_connect.driver.httpclient import HttpClient
from pydantic import SecretStr

from analytics.connection import FAILURES, open_client
from analytics.lag import Place, read_offsets
from analytics.queries import SavedQuery, load_queries
from fraud.errors import Unavailable

__all__ = ["Reader", "ReaderAccount"]

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 2  # somebody waits for the page
_QUERY_S = 10  # what takes longer is not for a page; the reader's own limit is higher
_ANSWER_TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class ReaderAccount:
    """Where ClickHouse answers, and as whom."""

    url: str
    user: str
    password: SecretStr


class Reader:
    """Asks for many threads over one client; a lost connection is opened again by the next question.

    Every method raises Unavailable when ClickHouse does not answer, refuses, or takes too long.
    """

    def __init__(self, account: ReaderAccount) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._client: HttpClient | None = None

    def rows(self, name: str, kind: type[T], parameters: Mapping[str, str]) -> list[T]:
        """The rows of a saved query; its columns have the names of the fields of ``kind``, a dataclass."""
        saved = _saved()[name]
        values = saved.values(parameters)
        found = self._asked(lambda client: client.query(saved.sql, parameters=values))
        if not found.result_rows:
            return []  # an answer without rows has no columns either
        places = [found.column_names.index(field.name) for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass
        return [kind(*(row[place] for place in places)) for row in found.result_rows]

    def offsets(self) -> dict[Place, int]:
        """Where the sink goes on in each partition of the ledger."""
        found: dict[Place, int] = self._asked(read_offsets)
        return found

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _asked(self, question: Callable[[HttpClient], Any]) -> Any:
        try:
            return question(self._open())
        except FAILURES as error:
            self.close()
            raise Unavailable("clickhouse", str(error)[:500]) from error

    def _open(self) -> HttpClient:
        with self._lock:
            if self._client is None:
                account = self._account
                timeouts_s = (_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S)
                client = open_client(account.url, account.user, account.password, timeouts_s=timeouts_s)
                # not through the client's check, which takes readonly for "no setting at all"
                client.params["max_execution_time"] = str(_QUERY_S)
                self._client = client
            return self._client


@cache
def _saved() -> dict[str, SavedQuery]:
    return {query.name: query for query in load_queries()}
