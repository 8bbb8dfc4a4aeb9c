"""Answers of ClickHouse as polars frames, for notebooks: as the read-only account, its address and password from the environment.

``eval "$(./fraudguard access clickhouse)"`` sets what is needed for the local stack.
"""

from __future__ import annotations

from functools import cache

import polars as pl
from clickhouse_connect.driver.httpclient import HttpClient
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from analytics.connection import open_client
from analytics.queries import saved_query
from analytics.settings import READER

__all__ = ["TENANT", "FrameSettings", "ask", "saved"]

TENANT = "default"  # whose decisions a notebook looks at unless it says otherwise
_TIMEOUTS_S = (5, 60)


class FrameSettings(BaseSettings):
    """How a notebook reaches ClickHouse (prefix ``FRAUDGUARD_CLICKHOUSE_``)."""

    model_config = SettingsConfigDict(env_prefix="FRAUDGUARD_CLICKHOUSE_", frozen=True, extra="ignore")

    url: str
    reader_user: str = READER
    reader_password: SecretStr


def ask(sql: str, **parameters: object) -> pl.DataFrame:
    """The rows of a question; ``{name:Type}`` in it is a parameter.  Decimals come as numbers of 64 bits."""
    frame = pl.from_arrow(_client().query_arrow(sql, parameters={"tenant": TENANT, **parameters}))
    assert isinstance(frame, pl.DataFrame)  # a table gives one
    return frame.with_columns(pl.col(pl.Decimal).cast(pl.Float64))


def saved(name: str, **parameters: str) -> pl.DataFrame:
    """The rows of a saved query (``./fraudguard query --list`` names them)."""
    query = saved_query(name)
    return ask(query.sql, **query.values(parameters))


@cache
def _client() -> HttpClient:
    settings = FrameSettings()  # type: ignore[call-arg]  # from the environment
    return open_client(settings.url, settings.reader_user, settings.reader_password, timeouts_s=_TIMEOUTS_S)
