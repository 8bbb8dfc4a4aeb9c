"""Records that another version of a schema has written: resolved to ours, or refused; never trusted more than our own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import InvalidEvent, Unavailable
from fraud.events import Label, Transaction
from serving.codec import Codec, frame
from serving.schemas import SCHEMAS, load_schema
from tests.wire_samples import SAMPLES, SCHEMA_IDS, decision, decode, drawn, plain, same, transaction

FOREIGN_ID = 77
Schema = dict[str, Any]


def knowing(schema: Any) -> Codec:
    """A codec whose registry holds one schema more, as text or parsed."""
    texts = {FOREIGN_ID: schema if isinstance(schema, str) else json.dumps(schema)}

    def look_up(schema_id: int) -> str:
        if schema_id not in texts:
            raise InvalidEvent("unknown_schema_id", str(schema_id))
        return texts[schema_id]

    return Codec(SCHEMA_IDS, look_up)


def written(schema: Schema, record: Mapping[str, Any]) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(deepcopy(schema)), dict(record))
    return frame(FOREIGN_ID) + out.getvalue()


def changed(name: str, change: Callable[[list[dict[str, Any]]], Any]) -> Schema:
    schema = load_schema(name)
    change(schema["fields"])
    return schema


def named(fields: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(field for field in fields if field["name"] == name)


def refusal(by: Codec, value: bytes, name: str = "transaction") -> str:
    with pytest.raises(InvalidEvent) as caught:
        decode(name, value, by)
    return caught.value.code


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_the_same_schema_formatted_by_another_client_is_read_as_ours(name: str) -> None:
    schema = json.loads(json.dumps(load_schema(name), sort_keys=True))
    schema.pop("doc")
    value = written(schema, plain(SAMPLES[name]))
    assert same(SAMPLES[name], decode(name, value, knowing(json.dumps(schema, indent=3))))


@pytest.mark.parametrize("name", list(SCHEMAS))
@given(data=st.data())
def test_a_newer_version_with_one_field_more_is_read_without_it(name: str, data: st.DataObject) -> None:
    """The slow way and the fast way read the same record from the same values, nested records and arrays included."""
    record = data.draw(drawn(name))
    schema = changed(name, lambda fields: fields.insert(1, {"name": "new", "type": ["null", "string"], "default": None}))
    value = written(schema, {**plain(record), "new": "hello"})
    assert same(record, decode(name, value, knowing(schema)))


def test_an_older_version_without_a_field_is_read_with_its_default() -> None:
    older = changed("transaction", lambda fields: fields.remove(named(fields, "transaction_type")))
    value = written(older, plain(transaction()))
    assert decode("transaction", value, knowing(older)).transaction_type == "purchase"


def test_a_producer_of_the_required_fields_alone_is_understood() -> None:
    least = changed("transaction", lambda fields: fields.__setitem__(slice(None), [f for f in fields if "default" not in f]))
    expected = Transaction("t-1", "default", "c-1", "m-1", 500, "EUR", 1_700_000_000_000)
    value = written(least, plain(expected))
    assert expected == decode("transaction", value, knowing(least))


def test_fields_in_another_order_and_narrower_types_are_read() -> None:
    def narrow(fields: list[dict[str, Any]]) -> None:
        fields.reverse()
        named(fields, "amount_minor")["type"] = "int"
        named(fields, "lat")["type"] = ["null", "float"]
        named(fields, "card_id")["type"] = "bytes"

    schema = changed("transaction", narrow)
    sent = {**plain(transaction(lat=1.5)), "card_id": b"card-9"}
    assert transaction(lat=1.5, card_id="card-9") == decode("transaction", written(schema, sent), knowing(schema))


def test_a_date_annotation_of_the_writer_leaves_numbers_numbers() -> None:
    """Fastavro would return a datetime, which no feature could be computed from."""
    schema = changed(
        "transaction", lambda fields: named(fields, "event_time_ms").update(type={"type": "long", "logicalType": "timestamp-millis"})
    )
    decoded = decode("transaction", written(schema, plain(transaction())), knowing(schema))
    assert decoded.event_time_ms == transaction().event_time_ms
    assert type(decoded.event_time_ms) is int


def test_what_a_skipped_field_hides_is_still_checked() -> None:
    """Fastavro skips a field without looking whether it is there; a value cut inside a skipped last field must not pass."""
    schema = changed("transaction", lambda fields: fields.append({"name": "note", "type": "string", "default": ""}))
    value = written(schema, {**plain(transaction()), "note": "a long enough note"})
    by = knowing(schema)
    assert decode("transaction", value, by) == transaction()
    assert refusal(by, value[:-3]) == "truncated"
    assert refusal(by, value + b"\0") == "trailing_bytes"


INNER = {
    "type": "record",
    "name": "Inner",
    "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": {"type": "array", "items": "string"}}],
}
EXTRAS: dict[str, tuple[Any, Any]] = {
    "null": ("null", None),
    "boolean": ("boolean", True),
    "int": ("int", -(2**31)),
    "long": ("long", 2**63 - 1),
    "float": ("float", 1.5),
    "double": ("double", 1.5),
    "bytes": ("bytes", b"\0\xff" * 40),
    "string": ("string", "naïve"),
    "union": (["null", "string", {"type": "array", "items": "long"}], [1, 2, 3]),
    "map": ({"type": "map", "values": ["null", "double"]}, {"one": 1.0, "none": None}),
    "fixed": ({"type": "fixed", "name": "Six", "size": 6}, b"sixsix"),
    "enum": ({"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}, "BLUE"),
    "record": (INNER, {"a": 7, "b": ["x", "y"]}),
}


@pytest.mark.parametrize(("type_", "extra"), EXTRAS.values(), ids=EXTRAS)
@given(data=st.data())
def test_every_avro_type_can_be_skipped_and_damage_to_it_is_refused_or_harmless(type_: Any, extra: Any, data: st.DataObject) -> None:
    schema = changed("label", lambda fields: fields.insert(2, {"name": "extra", "type": type_}))
    by, value = knowing(schema), written(schema, {**plain(SAMPLES["label"]), "extra": extra})
    assert same(SAMPLES["label"], decode("label", value, by))
    damaged = bytearray(value[: data.draw(st.integers(5, len(value)))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(5, len(value))) % len(damaged)] = data.draw(st.integers(0, 255))
    damaged[:5] = value[:5]
    try:
        assert isinstance(decode("label", bytes(damaged), by), Label)
    except InvalidEvent as refused:
        assert refused.code in {"truncated", "malformed", "trailing_bytes"}


def test_a_block_whose_size_is_a_lie_is_malformed() -> None:
    """Fastavro would jump by that size, backwards too."""
    schema = changed("label", lambda fields: fields.insert(0, {"name": "extra", "type": {"type": "array", "items": "boolean"}}))
    value = written(schema, {**plain(SAMPLES["label"]), "extra": [True, True]})
    honest = b"\x03\x04\x01\x01\x00"  # two items in a block of two bytes
    rest = value[5 + 4 :]
    assert same(SAMPLES["label"], decode("label", frame(FOREIGN_ID) + honest + rest, knowing(schema)))
    for lie in (b"\x03\x02\x01\x01\x00", b"\x03\x06\x01\x01\x00", b"\x03\x03\x01\x01\x00"):
        assert refusal(knowing(schema), frame(FOREIGN_ID) + lie + rest, "label") == "malformed"


# Schemas that are not to be followed


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "transaction"])
def test_a_record_of_another_kind_on_the_topic_is_the_wrong_schema(name: str) -> None:
    assert refusal(knowing(load_schema(name)), frame(FOREIGN_ID) + b"\x02x" * 20) == "wrong_schema"


def test_a_version_that_cannot_be_read_is_the_wrong_schema() -> None:
    renamed = changed("transaction", lambda fields: named(fields, "card_id").update(name="pan"))
    retyped = changed("transaction", lambda fields: named(fields, "amount_minor").update(type="double"))
    for schema in (renamed, retyped):
        assert refusal(knowing(schema), frame(FOREIGN_ID) + b"\x02x" * 20) == "wrong_schema"


ENDLESS: dict[str, Any] = {
    "items without bytes": {"type": "array", "items": "null"},
    "records without bytes": {"type": "array", "items": {"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}},
    "fixed without bytes": {"type": "array", "items": {"type": "fixed", "name": "Z", "size": 0}},
    "recursion": {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]},
    "recursion in an array": {"type": "record", "name": "T", "fields": [{"name": "of", "type": {"type": "array", "items": "T"}}]},
}


@pytest.mark.parametrize("type_", ENDLESS.values(), ids=ENDLESS)
def test_a_schema_under_which_few_bytes_never_end_is_refused(type_: Any) -> None:
    schema = changed("transaction", lambda fields: fields.append({"name": "bomb", "type": type_}))
    started = time.perf_counter()
    assert refusal(knowing(schema), frame(FOREIGN_ID) + b"\xfe" * 1000) == "wrong_schema"
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "7", '"string"', "[]", "{}", '{"type":"record"}', '{"type":"record","name":"Transaction","fields":7}', '["null"]'],
)
def test_text_that_is_no_schema_is_refused(text: str) -> None:
    assert refusal(knowing(text), frame(FOREIGN_ID) + b"\x02x") == "wrong_schema"


def test_text_nested_without_end_is_refused() -> None:
    assert refusal(knowing('{"type":' * 100_000), frame(FOREIGN_ID) + b"\x02x") == "wrong_schema"
    deep: Any = "long"
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    schema = changed("transaction", lambda fields: fields.append({"name": "deep", "type": deep}))
    assert refusal(knowing(schema), frame(FOREIGN_ID) + b"\x02" * 1000) == "wrong_schema"


# The registry


def test_a_schema_is_asked_for_once_and_a_refusal_is_remembered() -> None:
    asked = []

    def look_up(schema_id: int) -> str:
        asked.append(schema_id)
        return json.dumps(load_schema("label"))

    by = Codec(SCHEMA_IDS, look_up)
    for _ in range(3):
        assert refusal(by, frame(FOREIGN_ID) + b"\x02x" * 20) == "wrong_schema"
    assert asked == [FOREIGN_ID]


def test_a_registry_that_is_down_is_not_the_events_fault() -> None:
    """The same value is read when the registry is back: nothing was concluded from its silence."""
    is_up = False
    schema = changed("transaction", lambda fields: fields.reverse())

    def look_up(_: int) -> str:
        if not is_up:
            raise Unavailable("schema registry")
        return json.dumps(schema)

    by, value = Codec(SCHEMA_IDS, look_up), written(schema, plain(transaction()))
    with pytest.raises(Unavailable):
        decode("transaction", value, by)
    is_up = True
    assert decode("transaction", value, by) == transaction()


def test_our_own_records_never_ask_the_registry() -> None:
    def look_up(_: int) -> str:
        raise AssertionError

    by = Codec(SCHEMA_IDS, look_up)
    assert by.decode_transaction(by.encode_transaction(transaction())) == transaction()
    assert same(decision(), by.decode_decision(by.encode_decision(decision())))
