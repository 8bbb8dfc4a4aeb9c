"""Feast's Redis layout of the entity states, byte for byte what Feast's own encoders make of them, without importing Feast.

An entity is one hash.  Its key is Feast's serialised entity key followed by the project; its fields are the murmur3 hashes of
``view:feature`` with a ``Value`` message each, and ``_ts:view`` with the event time.  Beside them stands ``_v:view``, which
Feast never reads: the version that decides which of two writers is newer (see ``serving.online_store``).

To import any part of Feast is to import all of it: 3.6 s of a core, in every process that is started to take over from a dead one.
``tests/unit/test_online_store.py`` holds these bytes against Feast's.  This module must not talk to Redis.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import mmh3
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, OneofDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from fraud.events import KINDS
from serving.varint import write_varint

__all__ = ["FEATURE_FIELDS", "KEY_VERSION", "TIME_FIELDS", "VERSION_FIELDS", "EntityKeys", "RowCodec"]

KEY_VERSION = 3  # entity_key_serialization_version of feature_store.yaml
# entity keys kept encoded: about 20 MB; encoding one takes as long as half a write
CACHED_KEYS = 65_536
_STRING = 2  # Feast's ValueType
_ONE_STRING = struct.Struct("<III")  # how many join keys, type and length of the only one
_TYPE_AND_LENGTH = struct.Struct("<II")


def _value_class() -> Any:
    """The message class of Feast's ``Value``, with those of its alternatives that a row of ours has."""
    field = FieldDescriptorProto
    alternatives = [("bytes_val", 1, field.TYPE_BYTES), ("int64_val", 4, field.TYPE_INT64)]
    fields = [field(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL, oneof_index=0) for name, number, kind in alternatives]
    message = DescriptorProto(name="Value", field=fields, oneof_decl=[OneofDescriptorProto(name="val")])
    pool = DescriptorPool()  # of our own: Feast registers the real one in the process's
    pool.Add(FileDescriptorProto(name="feast_layout.proto", package="fraudguard", syntax="proto3", message_type=[message]))
    return GetMessageClass(pool.FindMessageTypeByName("fraudguard.Value"))


_Value = _value_class()


def _mmh3(text: str) -> bytes:
    return int(mmh3.hash(text, signed=False)).to_bytes(4, "little")


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
        name, value = f"{KINDS[kind]}_key".encode(), key.encode()
        head = _ONE_STRING.pack(1, _STRING, len(name))
        return b"".join((head, name, _TYPE_AND_LENGTH.pack(_STRING, len(value)), value, self._project))


class RowCodec:
    """Encodes and decodes the values of one row as Feast's messages; encodes by hand, without a message object a value."""

    @staticmethod
    def state(state: bytes) -> bytes:
        """Encode the state as Feast's ``bytes_val``."""
        return b"".join((b"\x0a", _varint(len(state)), state))

    @staticmethod
    def integer(value: int) -> bytes:
        """Encode a number of 64 bits as Feast's ``int64_val``."""
        return b"\x20" + _varint(value & _MASK)

    @staticmethod
    def time(event_time_ms: int) -> bytes:
        """Encode a time as Feast's event timestamp."""
        seconds, milliseconds = divmod(event_time_ms, 1000)
        head = b"\x08" + _varint(seconds & _MASK) if seconds else b""
        return head + b"\x10" + _varint(milliseconds * 1_000_000) if milliseconds else head

    @staticmethod
    def decode(state: bytes, seq: bytes, event_time_ms: bytes) -> tuple[bytes, int, int]:
        """Decode the three feature values of a row; raises ValueError when one of them is not a ``Value``."""
        try:
            return (
                _Value.FromString(state).bytes_val,
                _Value.FromString(seq).int64_val,
                _Value.FromString(event_time_ms).int64_val,
            )
        except DecodeError as error:
            raise ValueError("not a row of Feast's") from error


def _varint(value: int) -> bytes:
    return _SHORT_VARINTS[value] if value < len(_SHORT_VARINTS) else write_varint(value)


_MASK = (1 << 64) - 1
_SHORT_VARINTS = [write_varint(n) for n in range(1 << 14)]  # of one and two bytes
