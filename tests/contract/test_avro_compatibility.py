"""Our judgement of compatibility against Avro's own, over schemas changed in every way we could think of."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse
from hypothesis import given
from hypothesis import strategies as st

from serving.schema_compatibility import reading_problems
from serving.schemas import SCHEMAS, load_schema

Schema = Any


def avro_says(reader: Schema, writer: Schema) -> bool:
    checked = ReaderWriterCompatibilityChecker().get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    return bool(checked.compatibility is SchemaCompatibilityType.compatible)


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> Schema:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(type_: Any, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, **more}


def enum(*symbols: str, **more: Any) -> Schema:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


PAIRS: dict[str, tuple[Schema, Schema, bool]] = {
    "new field with default": (record(field("int"), field("int", "g", default=0)), record(field("int")), True),
    "new field without default": (record(field("int"), field("int", "g")), record(field("int")), False),
    "field dropped": (record(field("int")), record(field("int"), field("int", "g")), True),
    "field renamed with alias": (record(field("int", "g", aliases=["f"])), record(field("int")), True),
    "field renamed": (record(field("int", "g")), record(field("int")), False),
    "long reads int": (record(field("long")), record(field("int")), True),
    "int reads long": (record(field("int")), record(field("long")), False),
    "nullable reads plain": (record(field(["null", "int"])), record(field("int")), True),
    "plain reads nullable": (record(field("int")), record(field(["null", "int"])), False),
    "union grows": (["null", "int", "string"], ["null", "int"], True),
    "union shrinks": (["null", "int"], ["null", "int", "string"], False),
    "symbol added": (enum("A", "B"), enum("A"), True),
    "symbol dropped": (enum("A"), enum("A", "B"), False),
    "symbol dropped with default": (enum("A", default="A"), enum("A", "B"), True),
    "enum renamed": (enum("A"), {**enum("A"), "name": "F"}, False),
    "record renamed": (record(field("int"), name="S"), record(field("int")), False),
    "record renamed with alias": (record(field("int"), name="S", aliases=["R"]), record(field("int")), True),
    "fixed of another size": ({"type": "fixed", "name": "X", "size": 4}, {"type": "fixed", "name": "X", "size": 5}, False),
    "array of wider items": ({"type": "array", "items": "double"}, {"type": "array", "items": "int"}, True),
    "map of other values": ({"type": "map", "values": "int"}, {"type": "map", "values": "string"}, False),
    "array for map": ({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, False),
    "text for bytes": (record(field("string")), record(field("bytes")), True),
    "recursive": (
        record(field(["null", "R"], default=None), field("long", "g")),
        record(field(["null", "R"], default=None), field("int", "g")),
        True,
    ),
    "recursive and broken": (
        record(field(["null", "R"], default=None), field("int", "g")),
        record(field(["null", "R"], default=None), field("long", "g")),
        False,
    ),
}


@pytest.mark.parametrize(("reader", "writer", "readable"), PAIRS.values(), ids=PAIRS)
def test_the_rules_of_the_specification(reader: Schema, writer: Schema, readable: bool) -> None:
    problems = reading_problems(reader, writer)
    assert (problems == []) is readable
    assert all(": " in problem for problem in problems)


@pytest.mark.parametrize(("reader", "writer", "readable"), PAIRS.values(), ids=PAIRS)
def test_avros_own_checker_agrees_with_the_table(reader: Schema, writer: Schema, readable: bool) -> None:
    assert avro_says(reader, writer) is readable


def test_a_problem_names_the_path_to_the_field() -> None:
    inner = {"type": "array", "items": record(field("int"), name="Inner")}
    other = {"type": "array", "items": record(field("string"), name="Inner")}
    assert reading_problems(record(field(inner, "list")), record(field(other, "list"))) == ["list[].f: string cannot be read as int"]


TYPES: list[Any] = [
    "int",
    "long",
    "double",
    "string",
    "bytes",
    "boolean",
    ["null", "string"],
    ["null", "long"],
    {"type": "array", "items": "int"},
]


def mutate(schema: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """One to three changes of fields, at any depth."""
    schema = deepcopy(schema)
    for _ in range(chance.randint(1, 3)):
        fields = chance.choice(field_lists(schema))
        position = chance.randrange(len(fields))
        change = chance.randrange(5)
        if change == 0 and len(fields) > 1 and not names_a_type(fields[position]["type"]):
            del fields[position]
        elif change == 1:
            fields.insert(position, field(chance.choice(TYPES), f"new{chance.randrange(1000)}", **chance.choice(({}, {"doc": "x"}))))
        elif change == 2:
            fields.insert(position, field(["null", "long"], f"new{chance.randrange(1000)}", default=None))
        elif change == 3 and not names_a_type(fields[position]["type"]):
            fields[position] = field(chance.choice(TYPES), fields[position]["name"])
        else:
            chance.shuffle(fields) if not any(names_a_type(f["type"]) for f in fields) else None
    return schema


def field_lists(schema: Any) -> list[list[dict[str, Any]]]:
    if isinstance(schema, list):
        return [found for branch in schema for found in field_lists(branch)]
    if isinstance(schema, dict):
        own = [schema["fields"]] if "fields" in schema else []
        inner = [schema.get("items"), *(f["type"] for f in schema.get("fields", ()))]
        return own + [found for part in inner for found in field_lists(part)]
    return []


def names_a_type(type_: Any) -> bool:
    """Whether a later field may refer to a type that is defined here, or this one to an earlier."""
    return "name" in json.dumps(type_) or "Outcome" in json.dumps(type_)


@pytest.mark.parametrize("name", list(SCHEMAS))
@given(seed=st.integers(0, 2**32))
def test_avros_own_checker_agrees_on_changes_of_our_schemas(name: str, seed: int) -> None:
    chance = random.Random(seed)
    ours, changed = load_schema(name), mutate(load_schema(name), chance)
    for reader, writer in ((ours, changed), (changed, ours)):
        assert avro_says(reader, writer) is (reading_problems(reader, writer) == [])
