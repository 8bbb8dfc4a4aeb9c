"""The JSON Schema and the Avro schema are one contract: what the one takes, the other takes."""

from __future__ import annotations

import json
import math
from typing import Any

import fastavro
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from serving.json_schema import json_schema
from serving.schemas import SCHEMAS, load_schema
from tests.wire_samples import SAMPLES, drawn, plain

names = pytest.mark.parametrize("name", list(SCHEMAS))


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json_schema(load_schema(name)))


def as_json(record: Any) -> Any:
    """The record as a caller would send it: bytes as characters, as in Avro's own JSON encoding."""
    return json.loads(json.dumps(plain(record), default=lambda value: value.decode("latin-1")))


def is_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def avro_takes(name: str, value: dict[str, Any]) -> bool:
    """Whether fastavro finds the record valid; unlike its writer it tells True from 1 and knows the range of a long."""
    return bool(fastavro.validate(value, fastavro.parse_schema(load_schema(name)), raise_errors=False))


@names
def test_the_derived_schema_is_valid_and_describes_every_field(name: str) -> None:
    derived = json_schema(load_schema(name))
    Draft202012Validator.check_schema(derived)
    assert derived["title"] == SCHEMAS[name].__name__
    assert all(len(field["description"]) >= 10 for field in derived["properties"].values())
    json.dumps(derived, allow_nan=False)


@names
@given(data=st.data())
def test_every_record_of_the_avro_schema_that_json_can_say_is_valid(name: str, data: st.DataObject) -> None:
    record = data.draw(drawn(name))
    assume(is_finite(plain(record)))
    assert list(validator(name).iter_errors(as_json(record))) == []


@names
def test_a_field_without_default_is_required_and_one_with_default_is_not(name: str) -> None:
    complete = as_json(SAMPLES[name])
    for field in load_schema(name)["fields"]:
        without = {key: value for key, value in complete.items() if key != field["name"]}
        assert validator(name).is_valid(without) is ("default" in field)
        native = {key: value for key, value in plain(SAMPLES[name]).items() if key != field["name"]}
        assert avro_takes(name, native) is ("default" in field)


WRONG: list[Any] = [None, True, 1, -1, 2**31, 2**63, 1.5, "", "text", [], {}, ["x"], [1.5], {"x": 1}]


@names
def test_a_value_of_another_type_is_refused_by_both_or_by_none(name: str) -> None:
    """Each field gets each of these values in turn, and the two must agree; bytes are left out, as JSON has none."""
    native, complete, compared = plain(SAMPLES[name]), as_json(SAMPLES[name]), 0
    for field in load_schema(name)["fields"]:
        if "bytes" in json.dumps(field["type"]):
            continue
        for wrong in WRONG:
            if isinstance(wrong, bool | int) and "double" in json.dumps(field["type"]):
                continue  # a number without fraction is a double in JSON; what fastavro makes of it is its own affair
            changed = {**native, field["name"]: wrong}
            assert validator(name).is_valid({**complete, field["name"]: wrong}) is avro_takes(name, changed), (field["name"], wrong)
            compared += 1
    assert compared > 30


@names
def test_an_unknown_field_is_refused(name: str) -> None:
    assert not validator(name).is_valid({**as_json(SAMPLES[name]), "surprise": 1})


def test_what_the_source_lists_as_the_fields_of_a_transaction_is_there() -> None:
    """S-EVT-01 to 03, under the names of this system."""
    properties = json_schema(load_schema("transaction"))["properties"].keys()
    assert properties >= {"transaction_id", "user_id", "amount_minor", "lat", "lon", "city", "country", "event_time_ms"}
    assert properties >= {"currency", "merchant_id", "merchant_name", "merchant_mcc", "merchant_country", "ip_address"}
    assert properties >= {"card_id", "card_age_days", "card_type", "card_country", "billing_country", "billing_lat", "billing_lon"}
    assert properties >= {"transaction_type", "batch_id", "is_fraud"}
