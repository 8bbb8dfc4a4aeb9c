"""Feast itself over what the stream writes: apply, read our rows, push rows that we read, and the on-demand view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import RepoConfig
from feast.data_source import PushMode
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.json_format import MessageToDict

from feature_repo.on_demand import entity_row
from feature_repo.repository import apply, config_path, open_store
from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, Kind, Transaction, entity_ids, entity_key
from fraud.kernel import empty_state
from fraud.state import encode_state, state_seq, state_time_ms
from fraud.vector import Evaluator, evaluate_vector, event_row
from serving.online_store import EntityRow, OnlineStore
from tests.redis_server import RedisServer

NOW_MS = 1_700_000_000_000
TX = Transaction(
    transaction_id="now",
    tenant_id="bank",
    card_id="c1",
    user_id="u1",
    merchant_id="m1",
    device_id="d1",
    ip_hash="h1",
    amount_minor=4_999,
    currency="GBP",
    event_time_ms=NOW_MS,
    channel="web",
    declined=True,
    merchant_mcc=5411,
    merchant_country="FR",
    lat=48.137,
    lon=11.575,
    country="DE",
    card_country="AT",
    card_age_days=400,
    billing_lat=47.8,
    billing_lon=13.05,
    ip_lat=52.52,
    ip_lon=13.4,
    ip_country="PL",
)
STRANGER = Transaction("never seen", "default", "nobody", "nowhere", 100, "USD", NOW_MS)


@dataclass
class Installation:
    home: Path
    redis: RedisServer
    printed: str


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    home = tmp_path_factory.mktemp("home")
    yield Installation(home, server, apply(home, server.url))
    server.kill()


@pytest.fixture(scope="module")
def feast_store(installation: Installation) -> Any:
    return open_store(installation.home)


@pytest.fixture
def store(installation: Installation) -> Iterator[OnlineStore]:
    installation.redis.client().flushall()
    opened = OnlineStore(installation.redis.url, timeout_s=0.5)
    yield opened
    opened.close()


def history() -> dict[int, tuple[bytes, int, int]]:
    """State, seq and newest time of each entity of TX after thirty transactions, as the stream would write them."""
    evaluator = Evaluator()
    states = [empty_state() for _ in Kind]
    vector = evaluator.new_vector()
    for i in range(30, 0, -1):
        tx = replace(TX, transaction_id=f"t{i}", event_time_ms=NOW_MS - i * 17 * 60_000, amount_minor=1_000 + i, lat=48.0 + i / 100)
        row = event_row(tx)
        for kind in Kind:
            states[kind] = evaluator.observe(kind, states[kind], row, vector[CATALOGUE.slices[kind]])
    return {int(kind): (encode_state(states[kind], kind), state_seq(states[kind]), state_time_ms(states[kind])) for kind in Kind}


def rows_of(tx: Transaction, states: dict[int, tuple[bytes, int, int]]) -> list[EntityRow]:
    ids = entity_ids(tx)
    return [EntityRow(kind, entity_key(tx.tenant_id, str(ids[kind])), *states[kind]) for kind in Kind]


def specs(registry_file: Path) -> dict[str, list[str]]:
    """What the registry says of every object, without what Feast notes about the act of registering it."""
    registry = MessageToDict(Registry.FromString(registry_file.read_bytes()))
    groups = ("entities", "dataSources", "featureViews", "onDemandFeatureViews", "featureServices")
    return {group: sorted(json.dumps(_without_notes(item), sort_keys=True) for item in registry[group]) for group in groups}


def _without_notes(item: Any) -> Any:
    if isinstance(item, list):
        return [_without_notes(part) for part in item]
    if isinstance(item, dict):
        notes = ("createdTimestamp", "lastUpdatedTimestamp", "dataSourceClassType")
        return {name: _without_notes(part) for name, part in item.items() if name not in notes}
    return item


def test_apply_is_clean_and_a_second_apply_changes_nothing(installation: Installation) -> None:
    registry = config_path(installation.home).with_name("registry.db")
    before = specs(registry)
    assert {group: len(items) for group, items in before.items()} == {
        "entities": len(KINDS) + 1,  # and Feast's own for views without one
        "dataSources": 2 * len(KINDS) + 1,
        "featureViews": len(KINDS),
        "onDemandFeatureViews": 1,
        "featureServices": 1,
    }
    second = apply(installation.home, installation.redis.url)
    assert specs(registry) == before
    for printed in (installation.printed, second):
        assert "Applying changes for project fraudguard" in printed
        assert not any(word in printed for word in ("Warning", "Error", "Traceback", "Could not"))


def test_a_refused_apply_says_why(tmp_path: Path, installation: Installation) -> None:
    (tmp_path / "data").write_text("a file where a folder has to be")
    with pytest.raises(RuntimeError, match="feast apply failed"):
        apply(tmp_path, installation.redis.url)


def test_feast_reads_what_the_stream_writes(feast_store: Any, store: OnlineStore) -> None:
    states = history()
    store.write(rows_of(TX, states), epoch=1)
    for kind, name in enumerate(KINDS):
        features = [f"{name}:{name}_{part}" for part in ("state", "seq", "event_time_ms")]
        keys = [{f"{name}_key": entity_row(tx)[f"{name}_key"]} for tx in (TX, STRANGER)]
        online = feast_store.get_online_features(features=features, entity_rows=keys)
        served = online.to_dict()
        expected = states[kind]
        assert tuple(served[f"{name}_{part}"][0] for part in ("state", "seq", "event_time_ms")) == expected
        assert [served[f"{name}_{part}"][1] for part in ("state", "seq", "event_time_ms")] == [None, None, None]
        assert expected[2] in {vector.event_timestamps[0].ToMilliseconds() for vector in online.proto.results}


def test_we_read_what_feast_pushes_and_write_over_it(feast_store: Any, store: OnlineStore) -> None:
    for kind, name in enumerate(KINDS):
        frame = pd.DataFrame(
            {
                f"{name}_key": ["bank|x", "bank|y"],
                f"{name}_state": [b"\x01\x00pushed", b""],
                f"{name}_seq": [41, 0],
                f"{name}_event_time_ms": [NOW_MS + 7, 0],
                "event_timestamp": pd.to_datetime([NOW_MS + 7, 0], unit="ms", utc=True),
            }
        )
        feast_store.push(f"{name}_push", frame, to=PushMode.ONLINE)
        assert store.read([(kind, "bank|x"), (kind, "bank|y")]) == [(b"\x01\x00pushed", 41, NOW_MS + 7), (b"", 0, 0)]
        assert store.write([(kind, "bank|x", b"ours", 42, NOW_MS + 7)], epoch=1) == 1
        assert store.read([(kind, "bank|x")]) == [(b"ours", 42, NOW_MS + 7)]


def test_stock_feast_loses_the_second_event_of_a_millisecond_where_we_keep_it(
    installation: Installation, feast_store: Any, store: OnlineStore
) -> None:
    """The control of the contract's test on equal event times, and why feature_store.yaml says skip_dedup."""
    address = f"127.0.0.1:{installation.redis.port}"
    stock = RepoConfig(project="stock", registry="unused", provider="local", online_store={"type": "redis", "connection_string": address})
    view = feast_store.get_feature_view("card")
    entity = EntityKey(join_keys=["card_key"], entity_values=[Value(string_val="bank|c1")])
    for seq in (1, 2):
        at = datetime.fromtimestamp(NOW_MS / 1000, UTC)
        RedisOnlineStore().online_write_batch(stock, view, [(entity, {"card_seq": Value(int64_val=seq)}, at, None)], None)
        store.write([(Kind.CARD, "bank|c1", b"s", seq, NOW_MS)], epoch=1)
    served = RedisOnlineStore().online_read(stock, view, [entity], ["card_seq"])
    assert served[0][1]["card_seq"].int64_val == 1
    assert store.read([(Kind.CARD, "bank|c1")]) == [(b"s", 2, NOW_MS)]


@pytest.mark.parametrize("full_feature_names", [False, True])
def test_the_on_demand_view_serves_the_kernels_vector_to_the_bit(feast_store: Any, store: OnlineStore, full_feature_names: bool) -> None:
    states = history()
    store.write(rows_of(TX, states), epoch=1)
    transactions = [TX, STRANGER, replace(TX, event_time_ms=NOW_MS + 3_600_000, device_id=None, lat=None, lon=None)]
    served = feast_store.get_online_features(
        features=feast_store.get_feature_service("decision"),
        entity_rows=[entity_row(tx) for tx in transactions],
        full_feature_names=full_feature_names,
    ).to_dict()
    prefix = "velocity__" if full_feature_names else ""
    encoded: list[bytes | None] = [states[kind][0] for kind in Kind]
    for row, tx in enumerate(transactions):
        expected = evaluate_vector(tx, [None] * len(KINDS) if tx is STRANGER else encoded)
        vector = np.array([served[prefix + name][row] for name in CATALOGUE.names], dtype=np.float64)
        assert vector.tobytes() == expected.tobytes()
    assert served[f"{prefix}card_count_tx_24h"][0] == 31
    assert served[f"{prefix}card_count_tx_24h"][1] == 1
