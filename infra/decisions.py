"""Past decisions of a stack by their id, for the command line: found in Redis or the ledger, and computed again."""

from __future__ import annotations

from infra.application import codec_of, rule_book
from infra.plan import Plan
from infra.scoring_job import models_dir
from serving.decision_index import find_in_ledger, find_kept
from serving.model import load_model
from serving.records import Decision
from serving.redis_link import RedisLink
from serving.replay import Replay, replay

__all__ = ["find", "find_and_replay"]

_REDIS_TIMEOUT_S = 1.0


def find(plan: Plan, decision_id: str, tenant_id: str) -> Decision | None:
    """A decision of a tenant, None when there is none; raises Unavailable."""
    codec, link = codec_of(plan), RedisLink(plan.addresses.redis_url, _REDIS_TIMEOUT_S)
    try:
        kept = find_kept(link, codec, tenant_id, decision_id)
    finally:
        link.close()
    return kept or find_in_ledger(plan.addresses.bootstrap_servers, codec, decision_id, tenant_id=tenant_id)


def find_and_replay(plan: Plan, decision_id: str, tenant_id: str) -> Replay | None:
    """A decision computed again with the model and the rules of its time; raises NotReplayable, Unavailable."""
    decision = find(plan, decision_id, tenant_id)
    if decision is None:
        return None
    book = rule_book(plan)
    return replay(decision, book.rules, lambda sha256: load_model(models_dir(plan.layout), sha256))
