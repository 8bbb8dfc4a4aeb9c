"""Records of the ledger as ClickHouse's rows: nothing lost, nothing rounded, bad ones set aside."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from analytics.ledger_rows import LedgerRows, Value
from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from serving import records
from tests import wire_samples as wire

NOW_MS = wire.NOW_MS


def value(record: Any, offset: int = 0, name: str = "decision") -> Value:
    return Value(0, offset, NOW_MS + offset, wire.encode(name, record))


def plain(**changes: Any) -> records.Decision:
    """A decision of today's catalogue with nothing to explain."""
    features = np.arange(CATALOGUE.size, dtype=np.float64)
    features[3] = np.nan
    bare = {"contributions": None, "contribution_base": None, "rules": [], "blacklisted": [], "floor": None}
    return wire.decision(**{"features": features, "catalogue_version": CATALOGUE.version, **bare, **changes})


def test_every_field_of_a_shadow_arrives_and_where_its_entities_stand() -> None:
    one = wire.SAMPLES["shadow_decision"]
    found = LedgerRows(wire.codec()).shadows([value(one, name="shadow_decision"), Value(0, 1, NOW_MS, b"no record")])
    (row,) = found.tables["shadow_decisions"].to_pylist()
    for field in fields(records.ShadowDecision):
        if field.name not in {"rules", "entities", "event_time_ms"}:
            assert row[field.name] == getattr(one, field.name), field.name
    assert row["event_time"].timestamp() * 1000 == one.event_time_ms
    assert (row["rule_ids"], row["rule_modes"], row["rule_messages"]) == (["burst"], ["enabled"], ["7 payments in 5 minutes"])
    assert (row["version"], [reject.code for reject in found.rejects]) == (NOW_MS, ["bad_magic"])
    (position,) = found.positions().to_dicts()
    assert position == {
        "tenant_id": "default",
        "decision_id": one.decision_id,
        "version": NOW_MS,
        "kind": "card",
        "key": "default|card-000123",
        "seq": 7,
    }


def rows_of(*decisions: records.Decision) -> dict[str, list[dict[str, Any]]]:
    found = LedgerRows(wire.codec()).decisions([value(one, offset) for offset, one in enumerate(decisions)])
    assert found.rejects == []
    return {name: table.to_pylist() for name, table in found.tables.items()}


def test_every_field_of_a_decision_arrives() -> None:
    one = wire.decision(degraded="store_down", stream_score=0.5, latency_ms=3.25, served_at=[records.EntityPosition("card", "k", 6)])
    tables = rows_of(one)
    (row,) = tables["decisions"]
    elsewhere = {"rules", "contributions", "transaction", "features", "entities", "served_at", "event_time_ms", "extra_features"}
    for field in fields(records.Decision):
        if field.name not in elsewhere:
            assert row[field.name] == getattr(one, field.name), field.name
    assert np.array(row["features"]).tobytes() == np.asarray(one.features).tobytes()
    assert (row["entity_kinds"], row["entity_seqs"]) == (["card", "ip"], [7, 70_000])
    assert (row["extra_names"], row["extra_values"]) == (["card_distinct_merchant_37m"], [3.0])
    assert (row["served_kinds"], row["served_seqs"]) == (["card"], [6])
    assert row["event_time"].timestamp() * 1000 == one.event_time_ms
    assert row["version"] == NOW_MS
    (hit,) = tables["rule_hits"]
    assert {name: hit[name] for name in ("rule_id", "floor", "mode", "message", "position")} == {
        "rule_id": "burst",
        "floor": "CHALLENGE",
        "mode": "enabled",
        "message": "7 payments in 5 minutes, 5 allowed",
        "position": 0,
    }
    assert [(reason["position"], reason["contribution"]) for reason in tables["reasons"]] == [(0, 1.5), (129, -0.25)]


def test_every_field_of_a_transaction_arrives_but_the_address() -> None:
    (row,) = rows_of(plain())["transactions"]
    expected = wire.transaction()
    elsewhere = {"ip_address", "decided", "event_time_ms", "is_fraud"}
    assert {f.name: row[f.name] for f in fields(expected) if f.name not in elsewhere} == {
        f.name: getattr(expected, f.name) for f in fields(expected) if f.name not in elsewhere
    }
    assert row["known_fraud"] is False


@pytest.mark.parametrize(("currency", "exponent", "base"), [("JPY", 0, 64), ("USD", 2, 100), ("KWD", 3, 32)])
def test_money_keeps_its_minor_units_and_their_exponent(currency: str, exponent: int, base: int) -> None:
    (row,) = rows_of(plain(transaction=wire.transaction(amount_minor=100, currency=currency)))["transactions"]
    assert (row["amount_minor"], row["currency_exponent"], row["base_minor"]) == (100, exponent, base)


def test_decisions_with_and_without_lists_keep_theirs() -> None:
    second = plain(rules=wire.decision().rules * 2, blacklisted=["ip", "card"])
    tables = rows_of(plain(entities=[]), second, plain())
    assert [row["blacklisted"] for row in tables["decisions"]] == [[], ["ip", "card"], []]
    assert [row["entity_seqs"] for row in tables["decisions"]] == [[], [7, 70_000], [7, 70_000]]
    assert [row["position"] for row in tables["rule_hits"]] == [0, 1]
    assert "reasons" not in tables


def test_features_of_another_catalogue_keep_their_number() -> None:
    other = plain(features=np.array([1.0, -0.0]), catalogue_version="older")
    rows = rows_of(plain(), other, plain())["decisions"]
    assert [len(row["features"]) for row in rows] == [CATALOGUE.size, 2, CATALOGUE.size]
    assert np.array(rows[1]["features"]).tobytes() == np.array([1.0, -0.0]).tobytes()
    assert np.array(rows[2]["features"]).tobytes() == np.asarray(plain().features).tobytes()


def test_a_bad_record_is_set_aside_with_its_place_and_the_others_arrive() -> None:
    broken = Value(3, 11, NOW_MS, wire.encode("decision", plain())[:-1])
    unknown = Value(3, 13, NOW_MS, wire.encode("decision", plain(transaction=wire.transaction(currency="XXX"))))
    found = LedgerRows(wire.codec()).decisions([value(plain(), 10), broken, Value(3, 12, NOW_MS, None), unknown, value(plain(), 14)])
    assert [(reject.partition, reject.offset, reject.code) for reject in found.rejects] == [
        (3, 11, "truncated"),
        (3, 12, "null_value"),
        (3, 13, "unknown_currency"),
    ]
    assert found.tables["decisions"].num_rows == found.tables["transactions"].num_rows == 2


def test_a_label_names_its_decision() -> None:
    label = wire.SAMPLES["label_applied"]
    (row,) = LedgerRows(wire.codec()).labels([value(label, name="label_applied")]).tables["labels"].to_pylist()
    assert row["decision_id"] == decision_id(label.tenant_id, label.transaction_id)
    assert (row["is_fraud"], row["source"]) == (True, "analyst")
    assert row["label_time"].timestamp() * 1000 == label.label_time_ms
