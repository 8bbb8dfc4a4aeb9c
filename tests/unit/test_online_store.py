"""The fake store keeps the real store's promises; keys and values are Feast's own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from fraud.events import KINDS
from serving.feast_layout import FEATURE_FIELDS, KEY_VERSION, EntityKeys, RowCodec
from tests.online_store_contract import MemoryOnlineStore, OnlineStoreContract


class TestMemoryOnlineStore(OnlineStoreContract):
    @pytest.fixture
    def store(self) -> MemoryOnlineStore:
        return MemoryOnlineStore()


@given(kind=st.integers(0, len(KINDS) - 1), key=st.text(max_size=40))
def test_redis_keys_are_those_that_feast_looks_up(kind: int, key: str) -> None:
    entity = EntityKey(join_keys=[f"{KINDS[kind]}_key"], entity_values=[Value(string_val=key)])
    assert EntityKeys("fraudguard").encode(kind, key) == _redis_key("fraudguard", entity, KEY_VERSION)


@given(state=st.binary(max_size=300), seq=st.integers(0, 2**63 - 1), time_ms=st.integers(0, 4 * 10**12))
def test_values_are_feast_values_and_come_back(state: bytes, seq: int, time_ms: int) -> None:
    codec = RowCodec()
    assert codec.state(state) == Value(bytes_val=state).SerializeToString()
    assert codec.integer(seq) == Value(int64_val=seq).SerializeToString()
    assert codec.decode(codec.state(state), codec.integer(seq), codec.integer(time_ms)) == (state, seq, time_ms)


def test_features_lie_in_the_hash_fields_where_feast_looks_for_them() -> None:
    expected = [tuple(_mmh3(f"{kind}:{kind}_{name}") for name in ("state", "seq", "event_time_ms")) for kind in KINDS]
    assert list(FEATURE_FIELDS) == expected


@given(time_ms=st.integers(0, 4 * 10**12))
def test_event_times_are_feast_timestamps(time_ms: int) -> None:
    expected = Timestamp()
    expected.FromMilliseconds(time_ms)
    assert RowCodec().time(time_ms) == expected.SerializeToString()
    assert expected.ToDatetime(tzinfo=UTC) == datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)


def test_bytes_that_are_no_value_are_refused() -> None:
    with pytest.raises(ValueError, match="not a row"):
        RowCodec().decode(b"\xff\xff", b"", b"")
