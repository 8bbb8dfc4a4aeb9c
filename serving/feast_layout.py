"""Feast's Redis layout of the entity states, made with Feast's own encoders: the only module of the hot path that imports Feast.

An entity is one hash.  Its key is Feast's serialised entity key followed by the project; its fields are the murmur3 hashes of
``view:feature`` with a ``Value`` message each, and ``_ts:view`` with the event time.  Beside them stands ``_v:view``, which
Feast never reads: the version that decides which of two writers is newer (see ``serving.online_store``).

This module must not talk to Redis.
"""

from __future__ import annotations

import os
from functools import lru_cache

# Importing Feast points prometheus_client at a temporary folder of files for this process and, through the environment, for
# every child of it. Loaded first, the client keeps its values in memory; the environment is put back below.
import prometheus_client  # noqa: F401

_METRIC_FOLDERS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
_environment = {name: os.environ.get(name) for name in _METRIC_FOLDERS}

from feast.infra.key_encoding_utils import serialize_entity_key  # noqa: E402
from feast.infra.online_stores.helpers import _mmh3  # noqa: E402
from feast.protos.feast.types.EntityKey_pb2 import EntityKey  # noqa: E402
from feast.protos.feast.types.Value_pb2 import Value  # noqa: E402
from google.protobuf.message import DecodeError  # noqa: E402
from google.protobuf.timestamp_pb2 import Timestamp  # noqa: E402

from fraud.events import KINDS  # noqa: E402

for _name, _value in _environment.items():
    if _value is None:
        os.environ.pop(_name, None)

__all__ = ["FEATURE_FIELDS", "KEY_VERSION", "TIME_FIELDS", "VERSION_FIELDS", "EntityKeys", "RowCodec"]

KEY_VERSION = 3  # entity_key_serialization_version of feature_store.yaml
# entity keys kept encoded: about 20 MB; encoding one takes as long as half a write
CACHED_KEYS = 65_536

# By kind: the hash fields of state, seq and event_time_ms; of Feast's event time; of our version.
FEATURE_FIELDS: tuple[tuple[bytes, bytes, bytes], ...] = tuple(
    (_mmh3(f"{kind}:{kind}_state"), _mmh3(f"{kind}:{kind}_seq"), _mmh3(f"{kind}:{kind}_event_time_ms")) for kind in KINDS
)
TIME_FIELDS = tuple(f"_ts:{kind}".encode() for kind in KINDS)
VERSION_FIELDS = tuple(f"_v:{kind}".encode() for kind in KINDS)


class EntityKeys:
    """Redis keys of one Feast project's entities, the most recent ones remembered."""

    def __init__(self, project: str) -> None:
        self._project = project.encode()
        self.encode = lru_cache(CACHED_KEYS)(self._encode)

    def _encode(self, kind: int, key: str) -> bytes:
        """Return the Redis key of the entity ``key`` ("tenant|id") of a kind."""
        entity = EntityKey(join_keys=[f"{KINDS[kind]}_key"], entity_values=[Value(string_val=key)])
        return bytes(serialize_entity_key(entity, KEY_VERSION)) + self._project


class RowCodec:
    """Encodes and decodes the values of one row; reuses its messages, so one a call or a thread."""

    def __init__(self) -> None:
        self._bytes, self._int, self._time = Value(), Value(), Timestamp()

    def state(self, state: bytes) -> bytes:
        """Encode the state as Feast's ``bytes_val``."""
        self._bytes.bytes_val = state
        return bytes(self._bytes.SerializeToString())

    def integer(self, value: int) -> bytes:
        """Encode a number as Feast's ``int64_val``."""
        self._int.int64_val = value
        return bytes(self._int.SerializeToString())

    def time(self, event_time_ms: int) -> bytes:
        """Encode a time as Feast's event timestamp."""
        seconds, milliseconds = divmod(event_time_ms, 1000)
        self._time.seconds = seconds
        self._time.nanos = milliseconds * 1_000_000
        return bytes(self._time.SerializeToString())

    def decode(self, state: bytes, seq: bytes, event_time_ms: bytes) -> tuple[bytes, int, int]:
        """Decode the three feature values of a row; raises ValueError when one of them is not a ``Value``."""
        try:
            return (
                Value.FromString(state).bytes_val,
                Value.FromString(seq).int64_val,
                Value.FromString(event_time_ms).int64_val,
            )
        except DecodeError as error:
            raise ValueError("not a row of Feast's") from error
