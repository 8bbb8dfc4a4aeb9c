"""The schemas of ``avro/``: their files, the topic each one belongs to, and the class that holds one record of it.

This module reads files of the repository and nothing else; talking to a registry is :mod:`serving.registry`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fraud.events import Label, Transaction
from serving import records

__all__ = ["CLASSES", "SCHEMAS", "TOPIC_SCHEMAS", "canonical_form", "load_schema", "schema_text"]

_DIRECTORY = Path(__file__).resolve().parent.parent / "avro"

# The file name without .avsc, and the class of its top record.
SCHEMAS: Mapping[str, type] = MappingProxyType(
    {
        "transaction": Transaction,
        "label": Label,
        "decision": records.Decision,
        "shadow_decision": records.ShadowDecision,
        "alert": records.Alert,
        "label_applied": records.LabelApplied,
        "erasure": records.Erasure,
        "erasure_applied": records.ErasureApplied,
        "dead_letter": records.DeadLetter,
        "rule": records.RuleSetVersion,
        "model": records.ModelVersion,
        "change": records.Change,
    }
)

# The class of each record type, those inside others included.
CLASSES: Mapping[str, type] = MappingProxyType(
    {
        class_.__name__: class_
        for class_ in (*SCHEMAS.values(), records.EntityPosition, records.FiredRule, records.Contribution, records.ExtraFeature)
    }
)

# The value schema of each topic; its subject in the registry is "<topic>-value".
TOPIC_SCHEMAS: Mapping[str, str] = MappingProxyType(
    {
        "transactions": "transaction",
        "labels": "label",
        "rules": "rule",
        "models": "model",
        "decisions": "decision",
        "fraud-events": "decision",
        "shadow-decisions": "shadow_decision",
        "fraud_alerts": "alert",
        "transactions.dlq": "dead_letter",
        "labels-applied": "label_applied",
        "erasures": "erasure",
        "erasures-applied": "erasure_applied",
        "audit": "change",
    }
)

# What does not change the bytes or their meaning (Avro 1.12, "Parsing Canonical Form", which also drops defaults and aliases;
# they stay here, because readers need them).
_NOT_MEANING = frozenset({"doc"})


@cache
def schema_text(name: str) -> str:
    """Text of ``avro/<name>.avsc`` as it goes to the registry: one line, so that reformatting the file is not a new schema."""
    text = (_DIRECTORY / f"{name}.avsc").read_text(encoding="utf-8")
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def load_schema(name: str) -> dict[str, Any]:
    """Parsed ``avro/<name>.avsc``; a fresh copy, which the caller may change."""
    schema: dict[str, Any] = json.loads(schema_text(name))
    return schema


def canonical_form(schema: Any) -> str:
    """Text that two schemas share exactly when they differ in documentation, spacing and the order of attributes alone."""
    return json.dumps(_without_documentation(schema), sort_keys=True, separators=(",", ":"))


def _without_documentation(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_documentation(item) for item in node]
    if isinstance(node, dict):
        return {key: _without_documentation(value) for key, value in node.items() if key not in _NOT_MEANING}
    return node
