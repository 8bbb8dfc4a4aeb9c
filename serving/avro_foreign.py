"""Records written with another version of a schema than the one this code was built with.

The slow and general way: the bytes are first walked strictly under the writer's schema, then fastavro resolves them to ours.
The walk comes first because fastavro trusts its input: it takes a union branch of -1, stops short of no length when it skips a
field, and follows a billion items of zero bytes each.  A writer's schema comes from the registry and is checked once: one that
recurses, or has arrays of items without bytes, could be answered by a few bytes of data that never end, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, UnknownType

from fraud.errors import InvalidEvent
from serving.avro_compiler import Decoder
from serving.schema_compatibility import reading_problems
from serving.varint import read_varint

__all__ = ["foreign_decoder"]

# (buffer, position) -> position behind the value
_Walk = Callable[[bytes, int], int]

_MAX_NESTING = 32  # types within types; ours have four, and a walk must not run out of stack


def foreign_decoder(writer: Any, reader: dict[str, Any], classes: Mapping[str, type]) -> Decoder:
    """Make a decoder of what a given schema has written into the class of ours.

    Args:
        writer: the writer's schema, parsed JSON.
        reader: our schema.
        classes: the dataclass for each record name of ours.

    Raises:
        InvalidEvent: ``wrong_schema``, when it is no schema, when ours cannot read it, or when it is not safe to follow.
    """
    try:
        writer = _without_logical_types(writer)
        parsed = fastavro.parse_schema(writer)
        walk = _Walker().of(parsed)
        problems = reading_problems(reader, writer)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SchemaParseException, UnknownType) as error:
        raise InvalidEvent("wrong_schema", f"the registered schema is no Avro schema we can follow: {type(error).__name__}") from None
    if problems:
        raise InvalidEvent("wrong_schema", f"not a {reader['name']}: {problems[0]}")
    ours = fastavro.parse_schema(reader)

    def decode(buf: bytes, p: int) -> Any:
        _walk_whole(walk, buf, p)
        try:
            plain = fastavro.schemaless_reader(BytesIO(buf[p:]), parsed, ours)
        except (SchemaResolutionError, ValueError, TypeError, EOFError) as error:
            raise InvalidEvent("malformed", f"cannot be read as {reader['name']}: {type(error).__name__}") from None
        return _instance(classes[reader["name"]], plain, reader, classes)

    return decode


def _walk_whole(walk: _Walk, buf: bytes, p: int) -> None:
    try:
        end = walk(buf, p)
    except IndexError:
        raise InvalidEvent("truncated", "the record ends before its schema does") from None
    except UnicodeDecodeError:
        raise InvalidEvent("malformed", "text is not UTF-8") from None
    if end > len(buf):
        raise InvalidEvent("truncated", "the record ends before its schema does")
    if end < len(buf):
        raise InvalidEvent("trailing_bytes", f"{len(buf) - end} bytes after the record")


def _without_logical_types(node: Any) -> Any:
    """Drop the annotations that would make fastavro return dates and decimals where our schemas have numbers."""
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    if isinstance(node, dict):
        return {key: value if key == "default" else _without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    return node


def _instance(class_: type, plain: dict[str, Any], schema: dict[str, Any], classes: Mapping[str, type]) -> Any:
    types = {field["name"]: field["type"] for field in schema["fields"]}
    return class_(**{field.name: _value(plain[field.name], types[field.name], classes) for field in fields(class_)})


def _value(plain: Any, type_: Any, classes: Mapping[str, type]) -> Any:
    if isinstance(type_, list):
        return None if plain is None else _value(plain, type_[1], classes)
    if isinstance(type_, dict) and type_["type"] == "record":
        return _instance(classes[type_["name"]], plain, type_, classes)
    if isinstance(type_, dict) and type_["type"] == "array":
        if type_["items"] == "double":
            return np.asarray(plain, np.float64)
        return [_value(item, type_["items"], classes) for item in plain]
    return plain


class _Walker:
    """Builds, for each type of a writer's schema as fastavro has parsed it, a walk and the least number of bytes of a value."""

    def __init__(self) -> None:
        # None: the definition is still open, so a reference to it is a recursion.
        self._named: dict[str, tuple[_Walk, int] | None] = {}
        self._nesting = 0
        self._builders: dict[str, Callable[[dict[str, Any]], tuple[_Walk, int]]] = {
            "record": self._record,
            "error": self._record,
            "array": self._array,
            "map": self._map,
            "enum": self._enum,
            "fixed": self._fixed,
        }

    def of(self, schema: Any) -> _Walk:
        return self._build(schema)[0]

    def _build(self, type_: Any) -> tuple[_Walk, int]:
        if isinstance(type_, list):
            return self._union(type_)
        if isinstance(type_, str):
            return _PRIMITIVES[type_] if type_ in _PRIMITIVES else self._reference(type_)
        if self._nesting == _MAX_NESTING:
            raise ValueError("types nested too deeply")
        self._nesting += 1
        kind = type_["type"]
        found = self._builders[kind](type_) if isinstance(kind, str) and kind in self._builders else self._build(kind)
        self._nesting -= 1
        return found

    def _reference(self, name: str) -> tuple[_Walk, int]:
        found = self._named[name]
        if found is None:
            raise ValueError(f"{name} contains itself")
        return found

    def _record(self, type_: dict[str, Any]) -> tuple[_Walk, int]:
        self._named[type_["name"]] = None
        built = [self._build(field["type"]) for field in type_["fields"]]
        walks = [walk for walk, _ in built]

        def walk_record(buf: bytes, p: int) -> int:
            for walk in walks:
                p = walk(buf, p)
            return p

        found = walk_record, _positive(sum(least for _, least in built))
        self._named[type_["name"]] = found
        return found

    def _enum(self, type_: dict[str, Any]) -> tuple[_Walk, int]:
        found = self._named[type_["name"]] = _below(len(type_["symbols"])), 1
        return found

    def _fixed(self, type_: dict[str, Any]) -> tuple[_Walk, int]:
        found = self._named[type_["name"]] = _fixed(_positive(type_["size"])), type_["size"]
        return found

    def _union(self, branches: list[Any]) -> tuple[_Walk, int]:
        built = [self._build(branch) for branch in branches]

        def walk_union(buf: bytes, p: int) -> int:
            index, p = _long(buf, p)
            if not 0 <= index < len(built):
                raise InvalidEvent("malformed", "no such branch")
            return built[index][0](buf, p)

        return walk_union, 1 + min(least for _, least in built)

    def _array(self, type_: dict[str, Any]) -> tuple[_Walk, int]:
        walk, least = self._build(type_["items"])
        return _blocks(walk, _positive(least)), 1

    def _map(self, type_: dict[str, Any]) -> tuple[_Walk, int]:
        walk_value, least = self._build(type_["values"])

        def walk_pair(buf: bytes, p: int) -> int:
            return walk_value(buf, _text(buf, p))

        return _blocks(walk_pair, 1 + least), 1


def _positive(least: int) -> int:
    if least <= 0:
        raise ValueError("a type whose values take no bytes")
    return least


def _blocks(walk_item: _Walk, least: int) -> _Walk:
    def walk_blocks(buf: bytes, p: int) -> int:
        while True:
            count, p = _long(buf, p)
            if count == 0:
                return p
            size = None
            if count < 0:
                count = -count
                size, p = _long(buf, p)
            if count * least > len(buf) - p:
                raise InvalidEvent("truncated", "the record ends before its schema does")
            start = p
            for _ in range(count):
                p = walk_item(buf, p)
            if size is not None and size != p - start:  # fastavro skips a block by what it says
                raise InvalidEvent("malformed", "a block of another size than it says")

    return walk_blocks


def _long(buf: bytes, p: int) -> tuple[int, int]:
    value, p = read_varint(buf, p)
    return (value >> 1) ^ -(value & 1), p


def _walk_long(buf: bytes, p: int) -> int:
    return _long(buf, p)[1]


def _walk_int(buf: bytes, p: int) -> int:
    value, p = _long(buf, p)
    if not -(1 << 31) <= value < 1 << 31:
        raise InvalidEvent("malformed", "a number of more than 32 bits")
    return p


def _boolean(buf: bytes, p: int) -> int:
    if buf[p] > 1:
        raise InvalidEvent("malformed", "not a boolean")
    return p + 1


def _bytes(buf: bytes, p: int) -> int:
    size, p = _long(buf, p)
    if size < 0:
        raise InvalidEvent("malformed", "a negative length")
    if size > len(buf) - p:
        raise InvalidEvent("truncated", "the record ends before its schema does")
    return p + size


def _text(buf: bytes, p: int) -> int:
    end = _bytes(buf, p)
    _, start = _long(buf, p)
    buf[start:end].decode()
    return end


def _fixed(size: int) -> _Walk:
    def walk_fixed(buf: bytes, p: int) -> int:
        if size > len(buf) - p:
            raise InvalidEvent("truncated", "the record ends before its schema does")
        return p + size

    return walk_fixed


def _below(count: int) -> _Walk:
    def walk_enum(buf: bytes, p: int) -> int:
        index, p = _long(buf, p)
        if not 0 <= index < count:
            raise InvalidEvent("malformed", "no such symbol")
        return p

    return walk_enum


def _nothing(buf: bytes, p: int) -> int:
    del buf
    return p


_PRIMITIVES: dict[str, tuple[_Walk, int]] = {
    "null": (_nothing, 0),
    "boolean": (_boolean, 1),
    "int": (_walk_int, 1),
    "long": (_walk_long, 1),
    "float": (_fixed(4), 4),
    "double": (_fixed(8), 8),
    "bytes": (_bytes, 1),
    "string": (_text, 1),
}
