"""Connections to ClickHouse, the same way for whoever writes and whoever reads."""

from __future__ import annotations

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httpclient import HttpClient
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from analytics.schema import DATABASE
from analytics.settings import HouseSettings
from fraud.errors import Unavailable

__all__ = ["FAILURES", "connect", "open_client"]

FAILURES = (ClickHouseError, HTTPError, OSError)  # the last two: it went away while it answered


def connect(settings: HouseSettings, *, reads_only: bool = False, database: str = DATABASE) -> HttpClient:
    """A client of a database; raises Unavailable."""
    user, password = settings.reader if reads_only else settings.writer
    timeouts_s = (settings.connect_timeout_s, settings.answer_timeout_s)
    return open_client(settings.url, user, password, database=database, timeouts_s=timeouts_s)


def open_client(url: str, user: str, password: SecretStr, *, database: str = DATABASE, timeouts_s: tuple[int, int]) -> HttpClient:
    """A client by the account itself; ``timeouts_s`` are those to connect and to answer.  Raises Unavailable."""
    try:
        client = clickhouse_connect.get_client(
            dsn=url,
            username=user,
            password=password.get_secret_value(),
            database=database,
            connect_timeout=timeouts_s[0],
            send_receive_timeout=timeouts_s[1],
            autogenerate_session_id=False,
            query_retries=0,
            compress=False,  # both ends are on one machine or in one room
        )
    except FAILURES as error:
        raise Unavailable("clickhouse", str(error)) from error
    assert isinstance(client, HttpClient)  # what an http URL gives
    return client
