"""A decision as its caller sees it: the bytes of a ScoreAnswer, written once and kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson

from api.features import View
from fraud.catalogue import CATALOGUE
from serving.records import Contribution, Decision

__all__ = ["answer_bytes"]

_LISTED = 10  # contributions: what a person reads; the rest is summed
_NAMES = CATALOGUE.names


def answer_bytes(decision: Decision, views: Sequence[View] | None, read_at_ms: int, degraded: Sequence[str]) -> bytes:
    """The answer to a request, in the form of ``api.schemas.ScoreAnswer``.  Shadow rules are nobody's business outside."""
    return orjson.dumps(
        {
            "decision": decision.outcome,
            "score": decision.score,
            "decision_id": decision.decision_id,
            "transaction_id": decision.transaction_id,
            "model_score": decision.model_score,
            "rules_score": decision.rules_score,
            "reasons": [
                {
                    "rule_id": rule.rule_id,
                    "code": rule.reason_code,
                    "severity": rule.severity,
                    "score": rule.score,
                    "floor": rule.floor,
                    "message": rule.message,
                }
                for rule in decision.rules
                if rule.mode == "enabled"
            ],
            "explanation": _explanation(decision),
            "model_sha256": decision.model_sha256,
            "rule_set_hash": decision.rule_set_hash,
            "catalogue_version": decision.catalogue_version,
            "freshness": None if views is None else _freshness(views, read_at_ms),
            "degraded": degraded,
            "latency_ms": decision.latency_ms,
        }
    )


def _explanation(decision: Decision) -> dict[str, Any] | None:
    if decision.contributions is None or decision.contribution_base is None:
        return None
    strongest = sorted(decision.contributions, key=lambda one: -abs(one.value))
    return {
        "raw_score": decision.model_raw,
        "base": decision.contribution_base,
        "contributions": [_contribution(one, decision) for one in strongest[:_LISTED]],
        "rest": math.fsum(one.value for one in strongest[_LISTED:]),
    }


def _contribution(one: Contribution, decision: Decision) -> dict[str, Any]:
    # a value that is not a number is written as null: missing
    return {"feature": _NAMES[one.feature], "value": float(decision.features[one.feature]), "contribution": one.value}


def _freshness(views: Sequence[View], read_at_ms: int) -> dict[str, Any]:
    return {
        "read_at_ms": read_at_ms,
        "entities": [{"kind": view.kind, "seq": view.seq, "event_time_ms": view.time_ms or None} for view in views],
    }
