"""The schemas of avro/: complete, in step with the code and the topics, and never taken back once released.

``avro_released/<name>.<version>.avsc`` are the versions that have been in force, and never change; beside each lies the hexadecimal
value of one record that it wrote.  A change of a schema in ``avro/`` is a new version there: copy the file under the next number.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest

from fraud.events import Label, Transaction
from infra.topics import TOPICS
from serving.codec import Codec, frame
from serving.schema_compatibility import reading_problems
from serving.schemas import CLASSES, SCHEMAS, TOPIC_SCHEMAS, canonical_form, load_schema
from tests.wire_samples import SAMPLES, SCHEMA_IDS, decode, encode, plain, same

AVRO = Path(__file__).resolve().parents[2] / "avro"
RELEASED = Path(__file__).resolve().parent / "avro_released"
names = pytest.mark.parametrize("name", list(SCHEMAS))


def released(name: str) -> list[dict[str, Any]]:
    """The versions of a schema, oldest first."""
    numbered = {int(path.name.split(".")[1]): path for path in RELEASED.glob(f"{name}.*.avsc")}
    assert list(range(1, len(numbered) + 1)) == sorted(numbered)
    return [json.loads(numbered[number].read_text()) for number in sorted(numbered)]


def fields_in(schema: Any) -> list[dict[str, Any]]:
    """Every field of every record in a schema."""
    if isinstance(schema, list):
        return [field for branch in schema for field in fields_in(branch)]
    if isinstance(schema, dict):
        inner = [schema.get("items"), *(field["type"] for field in schema.get("fields", ()))]
        return [*schema.get("fields", ()), *(field for part in inner for field in fields_in(part))]
    return []


def test_the_folder_holds_these_schemas_and_nothing_else() -> None:
    """No __init__.py above all: it would shadow the package avro that apache-flink imports."""
    assert {path.name for path in AVRO.iterdir()} == {f"{name}.avsc" for name in SCHEMAS}


def test_every_topic_of_the_stack_has_its_schema() -> None:
    assert {topic.name for topic in TOPICS} == set(TOPIC_SCHEMAS)
    assert set(TOPIC_SCHEMAS.values()) == set(SCHEMAS)


@names
def test_a_schema_is_valid_in_our_namespace_and_says_what_everything_is(name: str) -> None:
    schema = load_schema(name)
    assert fastavro.parse_schema(schema)["name"] == f"fraudguard.{SCHEMAS[name].__name__}"
    undocumented = [field["name"] for field in fields_in(schema) if len(field.get("doc", "")) < 10]
    assert undocumented == []
    assert len(schema["doc"]) > 10


@names
def test_every_nullable_field_may_be_left_out(name: str) -> None:
    without = [f["name"] for f in fields_in(load_schema(name)) if isinstance(f["type"], list) and f.get("default", "none") is not None]
    assert without == []


@pytest.mark.parametrize("type_name", list(CLASSES))
def test_a_class_has_the_fields_of_its_schema_in_their_order(type_name: str) -> None:
    found = [definition for name in SCHEMAS for definition in records_in(load_schema(name)) if definition["name"] == type_name]
    assert found
    for definition in found:
        assert [field.name for field in fields(CLASSES[type_name])] == [field["name"] for field in definition["fields"]]


def records_in(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [record for branch in schema for record in records_in(branch)]
    if isinstance(schema, dict):
        inner = [schema.get("items"), *(field["type"] for field in schema.get("fields", ()))]
        return ([schema] if schema["type"] == "record" else []) + [record for part in inner for record in records_in(part)]
    return []


@pytest.mark.parametrize(("name", "class_"), [("transaction", Transaction), ("label", Label)])
def test_a_default_on_the_wire_is_the_default_of_the_class(name: str, class_: type) -> None:
    """tenant_id alone differs: the wire may leave it out, the code may not."""
    on_the_wire = {field["name"]: field["default"] for field in load_schema(name)["fields"] if "default" in field}
    assert on_the_wire.pop("tenant_id") == "default"
    assert on_the_wire == {field.name: field.default for field in fields(class_) if field.default is not MISSING}


def test_a_record_type_used_in_two_schemas_is_the_same_in_both() -> None:
    """Avro has no references between files, so the transaction inside the decision is a copy."""
    by_name: dict[str, set[str]] = {}
    for name in SCHEMAS:
        for definition in records_in(load_schema(name)):
            by_name.setdefault(definition["name"], set()).add(canonical_form(definition["fields"]))
    assert {name: len(forms) for name, forms in by_name.items()} == dict.fromkeys(by_name, 1)


# Evolution


@names
def test_the_schema_in_force_is_the_newest_released(name: str) -> None:
    """Red after a change of the schema: copy it to avro_released under the next number, and never edit one that is there."""
    assert canonical_form(load_schema(name)) == canonical_form(released(name)[-1])


@names
def test_each_version_reads_all_that_were_released_before_it(name: str) -> None:
    versions = released(name)
    for number, version in enumerate(versions):
        for older in versions[:number]:
            assert reading_problems(version, older) == []


@names
def test_the_schema_in_force_reads_what_each_version_has_written(name: str) -> None:
    """Bytes kept from the day of the release, so that a change of codec and schema together cannot pass unseen."""
    for number, version in enumerate(released(name), start=1):
        body = bytes.fromhex((RELEASED / f"{name}.{number}.hex").read_text())
        by = Codec(SCHEMA_IDS, {99: json.dumps(version)}.__getitem__)
        decoded = decode(name, frame(99) + body, by)
        expected = fastavro.schemaless_reader(BytesIO(body), fastavro.parse_schema(version))
        assert repr(as_known_to(expected, plain(decoded))) == repr(expected)


def as_known_to(older: Any, newer: Any) -> Any:
    """A record without the fields, at any depth, that an older version of it does not have."""
    if isinstance(older, dict):
        return {key: as_known_to(older[key], newer[key]) for key in older}
    return newer


@names
def test_the_codec_writes_the_bytes_of_the_release(name: str) -> None:
    """The bytes of a decision are its identity over restarts and upgrades."""
    newest = bytes.fromhex((RELEASED / f"{name}.{len(released(name))}.hex").read_text())
    assert newest == encode(name, SAMPLES[name])[5:]
    assert same(SAMPLES[name], decode(name, frame(SCHEMA_IDS[name]) + newest))


@names
def test_a_breaking_change_would_be_seen(name: str) -> None:
    """The negative control: a new field without a default, and a required one of another type."""
    grown, retyped = load_schema(name), load_schema(name)
    grown["fields"].append({"name": "new", "type": "string"})
    retyped["fields"][0]["type"] = {"type": "array", "items": "string"}
    for broken in (grown, retyped):
        assert reading_problems(broken, released(name)[-1]) != []
