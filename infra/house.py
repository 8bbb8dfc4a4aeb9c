"""The analyst's ClickHouse of a stack: its schema, and how far the sink has come."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from confluent_kafka import TopicPartition

from analytics.lag import TOPICS, behind, topic_ids
from analytics.schema import SchemaChanged
from analytics.store import Store, prepare
from fraud.errors import Denied, Unavailable
from infra.house_access import house_settings
from infra.plan import Plan
from serving import ledger

__all__ = ["ensure_schema", "lag_records", "wait_until_caught_up"]

_POLL_S = 0.25


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
    return behind(ids, ends, done)


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
