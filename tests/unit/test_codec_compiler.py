"""The compiler refuses, when a module is imported, what it could not read or write faithfully."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.avro_compiler import compile_decoder, compile_encoder


@dataclass
class Point:
    x: Any
    y: Any = None


def record(**types: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Point", "fields": [{"name": name, "type": type_} for name, type_ in types.items()]}


UNSUPPORTED = {
    "float": "float",
    "map": {"type": "map", "values": "long"},
    "fixed": {"type": "fixed", "name": "F", "size": 4},
    "a union of two types": ["null", "long", "string"],
    "null last": ["long", "null"],
    "a union of one": ["null"],
    "an unknown name": "Elsewhere",
}


@pytest.mark.parametrize("type_", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_a_type_outside_the_subset_is_refused_both_ways(type_: Any) -> None:
    schema = record(x=type_, y="long")
    with pytest.raises(TypeError):
        compile_decoder(schema, {"Point": Point})
    with pytest.raises(TypeError):
        compile_encoder(schema)


def test_a_class_with_other_fields_than_the_schema_is_refused() -> None:
    with pytest.raises(TypeError, match="'y'"):
        compile_decoder(record(x="long"), {"Point": Point})
    with pytest.raises(TypeError, match="'z'"):
        compile_decoder(record(x="long", y="long", z="long"), {"Point": Point})


def test_only_a_nullable_field_can_be_blanked() -> None:
    assert compile_encoder(record(x="long", y=["null", "long"]), ["y"])(b"", Point(1, 2)) == b"\x02\x00"
    with pytest.raises(TypeError, match="x"):
        compile_encoder(record(x="long", y=["null", "long"]), ["x"])
    with pytest.raises(TypeError, match="no_such_field"):
        compile_encoder(record(x="long", y=["null", "long"]), ["no_such_field"])


def test_fields_are_matched_by_name_not_by_order() -> None:
    schema = record(y="string", x="long")
    assert compile_decoder(schema, {"Point": Point})(b"\x02a\x04", 0) == Point(2, "a")


def test_a_field_name_that_is_code_stays_a_name() -> None:
    """Names of the generated function's own variables do not collide with fields of that name."""
    schema = record(x="long", y="long")
    decoder, encoder = compile_decoder(schema, {"Point": Point}), compile_encoder(schema)
    assert decoder(encoder(b"", SimpleNamespace(x=3, y=-4)), 0) == Point(3, -4)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_64_bit_number_comes_back(number: int) -> None:
    schema = record(x="long", y=["null", "long"])
    assert compile_decoder(schema, {"Point": Point})(compile_encoder(schema)(b"", Point(number, number)), 0) == Point(number, number)


def test_a_number_beyond_64_bits_is_not_written_wrong() -> None:
    with pytest.raises(OverflowError):
        compile_encoder(record(x="long"))(b"", Point(2**63))
