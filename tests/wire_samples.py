"""Records of every kind for tests of the wire: drawn from the schemas themselves, and one of each written out."""

from __future__ import annotations

from dataclasses import asdict, fields
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
from hypothesis import strategies as st

from fraud.events import Label, Transaction
from serving import records
from serving.codec import Codec
from serving.schemas import CLASSES, SCHEMAS, load_schema

SCHEMA_IDS = {name: number for number, name in enumerate(SCHEMAS, start=1)}
NOW_MS = 1_760_000_000_000

_PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=90),
    "bytes": st.binary(max_size=90),
    "long": st.integers(-(2**63), 2**63 - 1),
    "int": st.integers(-(2**31), 2**31 - 1),
    "double": st.floats(),
    "boolean": st.booleans(),
}


def drawn(name: str) -> st.SearchStrategy[Any]:
    """Any record that the schema ``name`` allows."""
    return _of(load_schema(name), {})


def _of(type_: Any, names: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    if isinstance(type_, str):
        return names[type_] if type_ in names else _PRIMITIVES[type_]
    if isinstance(type_, list):
        return st.none() | _of(type_[1], names)
    if type_["type"] == "enum":
        return names.setdefault(type_["name"], st.sampled_from(type_["symbols"]))
    if type_["type"] == "array":
        items = st.lists(_of(type_["items"], names), max_size=5)
        return items.map(lambda values: np.array(values, np.float64)) if type_["items"] == "double" else items
    drawn_fields = {field["name"]: _of(field["type"], names) for field in type_["fields"]}
    return names.setdefault(type_["name"], st.builds(CLASSES[type_["name"]], **drawn_fields))


def plain(record: Any) -> Any:
    """The record as fastavro wants it."""
    return asdict(
        record, dict_factory=lambda pairs: {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in pairs}
    )


def same(one: Any, other: Any) -> bool:
    """Equality to the bit: NaN equals NaN, 0.0 is not -0.0, an array equals a list of its values."""
    return repr(plain(one)) == repr(plain(other))


def written_by_fastavro(name: str, record: Any) -> bytes:
    """The record's bytes, without header, by another implementation."""
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(load_schema(name)), plain(record))
    return out.getvalue()


def codec() -> Codec:
    """A codec that knows no schema but ours."""
    return Codec(SCHEMA_IDS)


def encode(name: str, record: Any) -> bytes:
    """A framed record."""
    framed: bytes = getattr(codec(), f"encode_{name}")(record)
    return framed


def decode(name: str, value: bytes | None, by: Codec | None = None) -> Any:
    """The record of a framed value."""
    return getattr(by or codec(), f"decode_{name}")(value)


def transaction(**changes: Any) -> Transaction:
    """A valid transaction with every field set but those that exclude each other."""
    values: dict[str, Any] = {
        "transaction_id": "0b8f7c1e-7c0e-4f6c-8a64-0123456789ab",
        "tenant_id": "default",
        "card_id": "card-000123",
        "merchant_id": "merchant-00042",
        "amount_minor": 12_345,
        "currency": "EUR",
        "event_time_ms": NOW_MS - 1_000,
        "user_id": "user-17",
        "device_id": "device-0017",
        "ip_hash": "0123456789abcdef0123456789abcdef",
        "ip_country": "FR",
        "ip_region": "IDF",
        "ip_asn": 3215,
        "ip_lat": 48.85,
        "ip_lon": 2.35,
        "channel": "online",
        "merchant_name": "Épicerie du coin",
        "merchant_mcc": 5411,
        "merchant_country": "FR",
        "lat": 48.8,
        "lon": 2.3,
        "city": "Paris",
        "country": "FR",
        "card_type": "debit",
        "card_country": "FR",
        "card_age_days": 400,
        "billing_lat": 48.7,
        "billing_lon": 2.2,
        "billing_country": "FR",
        "batch_id": "batch-1",
        "is_fraud": False,
        "scenario": "none",
    }
    return Transaction(**{**values, **changes})


def label(**changes: Any) -> Label:
    """A valid label of that transaction."""
    values: dict[str, Any] = {field.name: getattr(transaction(), field.name, None) for field in fields(Label)}
    values.update(transaction_time_ms=NOW_MS - 86_400_000, label_time_ms=NOW_MS - 1_000, is_fraud=True, source="chargeback")
    return Label(**{**values, **changes})


def decision(**changes: Any) -> records.Decision:
    """A denied transaction with everything there is to say about it."""
    values: dict[str, Any] = {
        "decision_id": "dec-0b8f7c1e-7c0e-4f6c-8a64-0123456789ab",
        "tenant_id": "default",
        "transaction_id": transaction().transaction_id,
        "event_time_ms": transaction().event_time_ms,
        "outcome": "DENY",
        "score": 0.83,
        "model_score": 0.9,
        "model_raw": 2.2,
        "rules_score": 0.66,
        "floor": "CHALLENGE",
        "degraded": None,
        "late_event": False,
        "model_sha256": "a" * 64,
        "rule_set_hash": "b" * 64,
        "catalogue_version": "c" * 16,
        "code_version": "0.1.0",
        "door": "stream",
        "features": np.array([1.0, np.nan, -0.0, np.inf, 1e-300]),
        "entities": [records.EntityPosition("card", "default|card-000123", 7), records.EntityPosition("ip", "default|0123", 70_000)],
        "rules": [records.FiredRule("burst", "VELOCITY", "high", 0.66, "CHALLENGE", "enabled", "7 payments in 5 minutes, 5 allowed")],
        "contributions": [records.Contribution(0, 1.5), records.Contribution(129, -0.25)],
        "contribution_base": 0.95,
        "anomaly_score": 0.6,
        "blacklisted": ["card"],
        "transaction": transaction(),
        "latency_ms": None,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "extra_features": [records.ExtraFeature("card_distinct_merchant_37m", 3.0)],
    }
    return records.Decision(**{**values, **changes})


SAMPLES: dict[str, Any] = {
    "transaction": transaction(),
    "label": label(),
    "decision": decision(),
    "alert": records.Alert(
        alert_id="alert-1",
        decision_id=decision().decision_id,
        tenant_id="default",
        transaction_id=transaction().transaction_id,
        card_id="card-000123",
        user_id="user-17",
        reason="VELOCITY",
        severity="high",
        event_time_ms=NOW_MS,
        details="7 payments in 5 minutes, 5 allowed",
        lat=48.8,
        lon=2.3,
        score=0.83,
        outcome="DENY",
        source="hot",
    ),
    "label_applied": records.LabelApplied(
        transaction().transaction_id, "default", True, NOW_MS, NOW_MS - 5, "analyst", [records.EntityPosition("card", "default|c", 8)]
    ),
    "erasure": records.Erasure("default", "card", "card-000123", NOW_MS),
    "erasure_applied": records.ErasureApplied("default", "card", "default|card-000123", 9, NOW_MS),
    "dead_letter": records.DeadLetter("transactions", 2, 1_000_000, NOW_MS, b"card-1", None, "truncated", "the record ends early"),
    "shadow_decision": records.ShadowDecision(
        decision_id=decision().decision_id,
        tenant_id="default",
        transaction_id=transaction().transaction_id,
        event_time_ms=transaction().event_time_ms,
        kind="rules",
        hash="e" * 64,
        outcome="CHALLENGE",
        score=0.68,
        model_score=0.9,
        rules_score=0.16,
        floor="CHALLENGE",
        rules=[records.FiredRule("burst", "VELOCITY", "high", 0.16, "CHALLENGE", "enabled", "7 payments in 5 minutes")],
        live_outcome="DENY",
        live_score=0.83,
        live_model_sha256="a" * 64,
        live_rule_set_hash="b" * 64,
        door="stream",
        entities=[records.EntityPosition("card", "default|card-000123", 7)],
    ),
    "rule": records.RuleSetVersion(3, "b" * 64, '{"rules":[]}', "ana", NOW_MS, "e" * 64, '{"rules":[]}', 12.5),
    "model": records.ModelVersion("fraud", "7", "a" * 64, "file:model.txt", NOW_MS, "e" * 64, 12.5),
    "change": records.Change(
        2, "0" * 64, "d" * 64, NOW_MS, "default", "ana", "lead", "rules.promote", "b" * 64, 3, "c" * 64, "b" * 64, '{"rules":[]}', None
    ),
}
