"""The analyst's ClickHouse of a stack: its accounts, its schema, and how far the sink has come."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import TopicPartition
from pydantic import SecretStr

from analytics.accounts import Account, Accounts
from analytics.ledger_reader import topic_ids
from analytics.schema import SchemaChanged
from analytics.settings import READER, WRITER, HouseSettings
from analytics.sink import TOPICS
from analytics.store import Place, Store, prepare
from fraud.errors import Denied, Unavailable
from infra.layout import Layout, read_json
from infra.plan import Plan
from serving import ledger
from serving.atomic_write import write_atomically

__all__ = ["accounts", "ensure_schema", "house_settings", "lag_records", "wait_until_caught_up"]

_SECRET_BYTES = 24
_POLL_S = 0.25


def house_settings(plan: Plan) -> HouseSettings:
    """How this stack's ClickHouse is reached.

    The embedded engine's passwords are made here; those of a server of your own come from the environment
    (``FRAUDGUARD_CLICKHOUSE_PASSWORD``, ``FRAUDGUARD_CLICKHOUSE_READER_PASSWORD``).

    Raises:
        Unavailable: the stack has no analytics.
        Denied: the passwords of a server are not set.
    """
    url = plan.addresses.clickhouse_url
    if url is None:
        raise Unavailable("clickhouse", "this stack has no analytics: FRAUDGUARD_ANALYTICS is off, or chdb does not run on this machine")
    if plan.embeds_clickhouse:
        made = _passwords(plan.layout)
        return HouseSettings(
            url=url, password=SecretStr(made[WRITER]), reader_password=SecretStr(made[READER]), user=WRITER, reader_user=READER
        )
    try:
        return HouseSettings(url=url)  # type: ignore[call-arg]  # the environment has the rest
    except ValueError as error:
        raise Denied(f"{url} asks for FRAUDGUARD_CLICKHOUSE_PASSWORD and FRAUDGUARD_CLICKHOUSE_READER_PASSWORD: {error}") from None


def accounts(layout: Layout) -> Accounts:
    """The accounts of the embedded engine."""
    made = _passwords(layout)
    return Accounts(Account(WRITER, made[WRITER], reads_only=False), Account(READER, made[READER], reads_only=True))


def _passwords(layout: Layout) -> Mapping[str, str]:
    path = layout.home / "secrets" / "clickhouse.json"
    made = read_json(path)
    if made is None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = {name: secrets.token_urlsafe(_SECRET_BYTES) for name in (WRITER, READER)}
        write_atomically(path, json.dumps(made))
        os.chmod(path, 0o600)  # noqa: PTH101
    return made


def ensure_schema(plan: Plan) -> list[str]:
    """Apply what is missing; returns its names.  Raises Unavailable, Denied when the database was made by other files."""
    try:
        return prepare(house_settings(plan))
    except SchemaChanged as error:
        raise Denied(str(error)) from error


def lag_records(plan: Plan) -> dict[str, int]:
    """Records of each topic that ClickHouse does not have yet, asked of both; raises Unavailable."""
    bootstrap = plan.addresses.bootstrap_servers
    return _behind(plan, topic_ids(bootstrap, TOPICS), ledger.end_offsets(bootstrap, TOPICS))


def _behind(plan: Plan, ids: Mapping[str, str], ends: Sequence[TopicPartition]) -> dict[str, int]:
    store = Store(house_settings(plan))
    try:
        done = store.offsets()
    finally:
        store.close()
    lag = dict.fromkeys(ids, 0)
    for end in ends:
        lag[end.topic] += max(0, end.offset - done.get(Place(end.topic, ids[end.topic], end.partition), 0))
    return lag


def wait_until_caught_up(plan: Plan, *, patience_s: float = 60.0) -> float:
    """Wait until ClickHouse has what is committed now; returns the seconds it took.  Raises Unavailable when it takes too long."""
    began_s = time.monotonic()
    bootstrap = plan.addresses.bootstrap_servers
    ids, ends = topic_ids(bootstrap, TOPICS), ledger.end_offsets(bootstrap, TOPICS)
    while sum(lag := _behind(plan, ids, ends).values()):
        if time.monotonic() - began_s > patience_s:
            raise Unavailable("sink", f"{sum(lag)} records behind after {patience_s:g} s; ./fraudguard status tells how it is")
        time.sleep(_POLL_S)
    return time.monotonic() - began_s
