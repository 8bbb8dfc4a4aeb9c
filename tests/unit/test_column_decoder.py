"""Columns say what the codec says: of every record that the codec reads, of no record that it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.errors import InvalidEvent
from serving.avro_columns import ColumnReader, Columns, NotCovered, Unread
from serving.codec import HEADER_BYTES, Codec, frame
from serving.column_decoder import ColumnDecoder
from serving.records import Decision, EntityPosition
from serving.schemas import load_schema
from tests.wire_samples import SCHEMA_IDS, codec, decision, drawn, encode, plain, transaction

FOREIGN_ID = 77
SCALARS = (
    *("decision_id", "outcome", "door", "score", "model_score", "late_event", "model_sha256", "degraded", "event_time_ms"),
    *("transaction.card_id", "transaction.user_id", "transaction.amount_minor", "transaction.merchant_mcc", "transaction.lat"),
    *("transaction.declined", "transaction.is_fraud", "transaction.city", "transaction.tenant_id"),
)
ITEMS = ("entities.kind", "entities.key", "entities.seq", "rules.rule_id", "rules.score", "rules.mode")
WIDTH = 5


def decoder(by: Codec | None = None) -> ColumnDecoder:
    return ColumnDecoder(by or codec(), "decision", [*SCALARS, *ITEMS], {"features": WIDTH})


def of(record: Any, path: str) -> Any:
    for name in path.split("."):
        record = getattr(record, name)
    return record


def assert_same(columns: Columns, records: Sequence[Decision]) -> None:
    """Every chosen value, to the bit."""
    assert columns.frame.columns == list(SCALARS)
    for name in SCALARS:
        assert repr(columns.frame[name].to_list()) == repr([of(record, name) for record in records]), name
    for array in ("entities", "rules"):
        names = [path.partition(".")[2] for path in ITEMS if path.startswith(array)]
        expected = [(row, *(getattr(item, name) for name in names)) for row, r in enumerate(records) for item in getattr(r, array)]
        assert repr(columns.items[array].select("row", *names).rows()) == repr(expected)
    for row, record in enumerate(records):
        expected_vector = record.features if len(record.features) == WIDTH else np.full(WIDTH, np.nan)
        assert columns.vectors["features"][row].tobytes() == np.asarray(expected_vector).tobytes()


@settings(max_examples=60, deadline=None)
@given(records=st.lists(drawn("decision"), max_size=4))
def test_columns_equal_the_decoded_records(records: list[Decision]) -> None:
    """Whatever the schema allows: nulls, empty arrays, text beyond ASCII, every number."""
    values = [encode("decision", record) for record in records]
    assert_same(decoder().decode(values), [codec().decode_decision(value) for value in values])


def test_parts_are_put_together_in_order() -> None:
    """Items keep pointing to their records."""
    records = [decision(decision_id=f"d{i}", entities=[EntityPosition("card", f"k{i}", i)] * (i % 3)) for i in range(7)]
    values = [encode("decision", record) for record in records]
    parts = [decoder().decode(values[:3]), decoder().decode(values[3:3]), decoder().decode(values[3:])]
    assert_same(Columns.concatenated(parts), records)


def test_more_items_than_were_thought_of() -> None:
    """The table of items grows."""
    many = decision(entities=[EntityPosition("card", f"k{i}", i) for i in range(1000)])
    assert_same(decoder().decode([encode("decision", many)]), [many])


def outcome_of(values: Sequence[bytes | None]) -> str:
    try:
        decoder().decode(values)
    except InvalidEvent as error:
        return f"{error.code}: {error.detail}"
    return "read"


def codecs_outcome(value: bytes | None) -> str:
    try:
        codec().decode_decision(value)
    except InvalidEvent as error:
        return f"{error.code}: {error.detail}"
    return "read"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_bad_bytes_give_the_codecs_own_error(data: st.DataObject) -> None:
    """One changed, missing or added byte anywhere: the same refusal with the same words, or the same record."""
    value = bytearray(encode("decision", decision()))
    at = data.draw(st.integers(0, len(value) - 1))
    change = data.draw(st.sampled_from(["set", "cut", "drop", "add"]))
    byte = data.draw(st.integers(0, 255))
    if change == "set":
        value[at] = byte
    elif change == "cut":
        del value[at:]
    elif change == "drop":
        del value[at]
    else:
        value.insert(at, byte)
    expected = codecs_outcome(bytes(value))
    assert outcome_of([encode("decision", decision()), bytes(value)]) == expected
    if expected == "read":
        assert_same(decoder().decode([bytes(value)]), [codec().decode_decision(bytes(value))])


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=400))
def test_random_bytes_are_never_accepted_where_the_codec_refuses(body: bytes) -> None:
    """And never read beyond their end: the record behind them is another's."""
    value = frame(SCHEMA_IDS["decision"]) + body
    assert outcome_of([value, encode("decision", decision())]) == codecs_outcome(value)


@pytest.mark.parametrize("value", [None, b"", b"\0\0", b"\7rubbish", bytes(300_000), frame(99) + b"x"])
def test_values_without_a_record_give_the_codecs_own_error(value: bytes | None) -> None:
    assert outcome_of([value]) == codecs_outcome(value) != "read"


TEXTS = [
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xf0\x9f\x92\xb3",
    b"\xf4\x90\x80\x80",
    b"\x80",
    b"a\xff",
    b"\xe2\x82",
    b"\xf8\x88",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_checked_as_python_checks_it(text: bytes) -> None:
    """Also of fields that nobody asked for: ``trace_id`` is the last text; a null and two empty arrays follow."""
    value = encode("decision", decision(trace_id="x" * len(text), extra_features=[]))
    before, nulls = value[: -len(text) - 3], value[-3:]
    assert value == before + b"x" * len(text) + b"\0\0\0"
    value = before + text + nulls
    assert outcome_of([value]) == codecs_outcome(value)


def in_two_blocks() -> bytes:
    """A decision whose entities are written as two blocks, the second with its size, as other writers may."""
    record = plain(decision(rules=[], contributions=None, blacklisted=[], entities=[]))
    out = BytesIO()
    schema = fastavro.parse_schema(load_schema("decision"))
    fastavro.schemaless_writer(out, schema, record)
    one = b"\x08card" + b"\x02a" + b"\x02"
    head = BytesIO()
    upto = {**load_schema("decision"), "fields": load_schema("decision")["fields"][:18]}
    fastavro.schemaless_writer(head, fastavro.parse_schema(upto), {name: record[name] for name in [f["name"] for f in upto["fields"]]})
    blocks = b"\x02" + one + b"\x01" + bytes([2 * len(one)]) + one + b"\x00"
    return frame(SCHEMA_IDS["decision"]) + head.getvalue() + blocks + out.getvalue()[len(head.getvalue()) + 1 :]


def test_an_array_in_several_blocks_is_read_by_way_of_the_codec() -> None:
    value = in_two_blocks()
    with pytest.raises(Unread):  # the control: the loop alone does not take it
        ColumnReader(load_schema("decision"), SCALARS, {}).read(bytearray(value), np.array([HEADER_BYTES]), np.array([len(value)]))
    assert [position.seq for position in codec().decode_decision(value).entities] == [1, 1]
    assert_same(decoder().decode([value]), [codec().decode_decision(value)])


# Other versions of the schema


def knowing(schema: Any) -> Codec:
    return Codec(SCHEMA_IDS, lambda _id: json.dumps(schema))


def older() -> dict[str, Any]:
    """Before some fields existed."""
    schema = load_schema("decision")
    schema["fields"] = [f for f in schema["fields"] if f["name"] not in ("late_event", "model_sha256", "contributions", "latency_ms")]
    tx = next(f for f in schema["fields"] if f["name"] == "transaction")["type"]
    tx["fields"] = [f for f in tx["fields"] if f["name"] not in ("declined", "tenant_id", "lat", "city")]
    return schema


def newer() -> dict[str, Any]:
    """With fields that we do not know, in front and within."""
    schema = load_schema("decision")
    schema["fields"].insert(0, {"name": "region", "type": {"type": "enum", "name": "Region", "symbols": ["eu", "us"]}, "default": "eu"})
    schema["fields"].insert(3, {"name": "digest", "type": {"type": "fixed", "name": "Digest", "size": 3}, "default": "abc"})
    schema["fields"].append({"name": "notes", "type": {"type": "array", "items": "string"}, "default": []})
    schema["fields"].append({"name": "weight", "type": "float", "default": 0.5})
    return schema


def renamed_symbols() -> dict[str, Any]:
    """An enumeration in another order, which columns leave to the codec."""
    schema = load_schema("decision")
    outcome = next(f for f in schema["fields"] if f["name"] == "outcome")["type"]
    outcome["symbols"] = ["DENY", "ALLOW", "CHALLENGE"]
    return schema


EXTRA = {"region": "us", "digest": b"abc", "notes": ["a", "é"], "weight": 0.25}


@pytest.mark.parametrize(("schema", "covered"), [(older(), True), (newer(), True), (renamed_symbols(), False)])
def test_records_of_other_versions(schema: dict[str, Any], covered: bool) -> None:
    """Between records of ours, in order; a field that the writer did not have is our default."""
    by = knowing(schema)
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(deepcopy(schema)), plain(decision(trace_id=None)) | EXTRA)
    values = [encode("decision", decision()), frame(FOREIGN_ID) + out.getvalue(), encode("decision", decision(trace_id=None))]
    assert_same(decoder(by).decode(values), [by.decode_decision(value) for value in values])
    if covered:
        ColumnReader(load_schema("decision"), SCALARS, {}, schema)
    else:
        with pytest.raises(NotCovered):
            ColumnReader(load_schema("decision"), SCALARS, {}, schema)


def test_a_schema_of_something_else_is_refused() -> None:
    by = knowing(load_schema("alert"))
    with pytest.raises(InvalidEvent, match="wrong_schema"):
        decoder(by).decode([frame(FOREIGN_ID) + b"x"])


@pytest.mark.parametrize("name", ["contributions.value", "transaction"])
def test_fields_that_columns_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises((NotCovered, TypeError)):
        ColumnReader(load_schema("decision"), [name], {})


@pytest.mark.parametrize("floor", [None, "ALLOW", "DENY"])
def test_an_enumeration_may_be_null(floor: str | None) -> None:
    value = encode("decision", decision(floor=floor))
    columns = ColumnDecoder(codec(), "decision", ["floor", "outcome"]).decode([value, value])
    assert columns.frame["floor"].to_list() == [floor, floor]
    assert columns.frame["outcome"].to_list() == [decision().outcome] * 2


def test_records_outside_the_buffer_are_refused() -> None:
    value = encode("decision", decision(transaction=transaction()))
    reader = ColumnReader(load_schema("decision"), SCALARS, {})
    for start, end in ((HEADER_BYTES, len(value) + 1), (-1, len(value)), (9, 8)):
        with pytest.raises(IndexError):
            reader.read(bytearray(value), np.array([start]), np.array([end]))
