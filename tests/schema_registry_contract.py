"""What a schema registry promises, as one suite for the server, for the one inside the process and for the stand-in of tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fraud.errors import InvalidEvent
from serving.codec import Codec
from serving.registry import IncompatibleSchema, SchemaRegistry, register_all
from serving.schemas import SCHEMAS, TOPIC_SCHEMAS, load_schema, schema_text
from tests.wire_samples import SAMPLES, decode, same


def schema(*fields: dict[str, Any], name: str = "Probe") -> str:
    return json.dumps({"type": "record", "name": name, "namespace": "fraudguard.test", "fields": list(fields)})


ONE = {"name": "one", "type": "string"}
TWO = {"name": "two", "type": ["null", "long"], "default": None}
TWO_WITHOUT_DEFAULT = {"name": "two", "type": "long"}


class SchemaRegistryContract:
    """Subclasses give a fixture ``registry`` and a ``subject`` that no other test uses."""

    def test_all_our_schemas_register_and_their_texts_come_back(self, registry: SchemaRegistry) -> None:
        ids = register_all(registry)
        assert ids.keys() == SCHEMAS.keys()
        for name, schema_id in ids.items():
            assert 0 < schema_id < 2**31
            assert json.loads(registry.schema_by_id(schema_id)) == load_schema(name)

    def test_registering_again_gives_the_same_ids(self, registry: SchemaRegistry) -> None:
        assert register_all(registry) == register_all(registry)

    def test_one_schema_under_two_subjects_has_one_id(self, registry: SchemaRegistry) -> None:
        """The decision is on two topics and its bytes must not depend on which."""
        text = schema_text("decision")
        topics = [topic for topic, name in TOPIC_SCHEMAS.items() if name == "decision"]
        assert len(topics) == 2
        assert len({registry.register(f"{topic}-value", text) for topic in topics}) == 1

    def test_different_schemas_have_different_ids(self, registry: SchemaRegistry, subject: str) -> None:
        assert registry.register(subject, schema(ONE)) != registry.register(f"{subject}-2", schema(TWO))

    def test_a_compatible_version_is_accepted_and_both_stay_readable(self, registry: SchemaRegistry, subject: str) -> None:
        first = registry.register(subject, schema(ONE))
        second = registry.register(subject, schema(ONE, TWO))
        assert first != second
        assert [len(json.loads(registry.schema_by_id(known))["fields"]) for known in (first, second)] == [1, 2]

    @pytest.mark.parametrize(
        "breaking",
        [schema(ONE, TWO_WITHOUT_DEFAULT), schema({"name": "one", "type": "long"}), schema({"name": "renamed", "type": "string"})],
        ids=["new field without default", "other type", "renamed"],
    )
    def test_a_version_that_cannot_read_the_one_before_it_is_refused(self, registry: SchemaRegistry, subject: str, breaking: str) -> None:
        registry.register(subject, schema(ONE))
        with pytest.raises(IncompatibleSchema, match=subject):
            registry.register(subject, breaking)
        assert registry.register(subject, schema(ONE, TWO)) > 0

    def test_a_breaking_change_of_our_own_schemas_is_refused(self, registry: SchemaRegistry) -> None:
        register_all(registry)
        for topic, name in TOPIC_SCHEMAS.items():
            broken = load_schema(name)
            broken["fields"].append({"name": "surprise", "type": "string"})
            with pytest.raises(IncompatibleSchema, match=f"{topic}-value"):
                registry.register(f"{topic}-value", json.dumps(broken))

    @pytest.mark.parametrize("text", ["", "{", "{}", '{"type":"record"}'])
    def test_what_is_no_schema_is_refused(self, registry: SchemaRegistry, subject: str, text: str) -> None:
        with pytest.raises(IncompatibleSchema, match=subject):
            registry.register(subject, text)

    @pytest.mark.parametrize("schema_id", [0, 1_999_999_999, 2**31 - 1, 2**31, 2**32 - 1])
    def test_an_unknown_id_is_the_events_fault(self, registry: SchemaRegistry, schema_id: int) -> None:
        for _ in range(2):
            with pytest.raises(InvalidEvent) as caught:
                registry.schema_by_id(schema_id)
            assert caught.value.code == "unknown_schema_id"

    def test_a_codec_with_this_registry_reads_what_another_version_wrote(self, registry: SchemaRegistry) -> None:
        ids = register_all(registry)
        newer = load_schema("transaction")
        newer["fields"].append(TWO)
        other = registry.register("transactions-value", json.dumps(newer))
        by = Codec(ids, registry.schema_by_id)
        ours = by.encode_transaction(SAMPLES["transaction"])
        theirs = ours[:1] + other.to_bytes(4, "big") + ours[5:] + b"\x02\x0e"
        assert other != ids["transaction"]
        assert same(SAMPLES["transaction"], decode("transaction", theirs, by))
        assert registry.register("transactions-value", schema_text("transaction")) == ids["transaction"]
