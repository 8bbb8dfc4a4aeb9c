"""Whether the API's score of an event and the stream's may differ: only where one of them had something else to go on."""

from __future__ import annotations

from collections.abc import Iterable

from serving.records import Decision, EntityPosition

__all__ = ["had_the_same", "is_fresh"]


def is_fresh(served_at: Iterable[EntityPosition], entities: Iterable[EntityPosition]) -> bool:
    """Whether an answer had read all that stood before its event: each log up to the number before the one that the event got."""
    return {(one.kind, one.key, one.seq + 1) for one in served_at} == {(one.kind, one.key, one.seq) for one in entities}


def had_the_same(answer: Decision, ours: Decision) -> bool:
    """Whether the API's decision and the stream's of the same event come from the same log entries, model, rules and block lists."""
    return is_fresh(answer.served_at, ours.entities) and _versions(answer) == _versions(ours)


def _versions(decision: Decision) -> tuple[object, ...]:
    return decision.model_sha256, decision.rule_set_hash, decision.catalogue_version, decision.late_event, list(decision.blacklisted)
