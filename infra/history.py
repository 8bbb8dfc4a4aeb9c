"""Where the commands that look back have a stack's history from: its ledger, or its lake."""

from __future__ import annotations

from analytics.history import EventHistory, LakeRecords, LedgerTopics
from infra.application import codec_of
from infra.lake import lake_of
from infra.plan import Plan

__all__ = ["event_history"]


def event_history(plan: Plan, *, from_lake: bool) -> EventHistory:
    """What the stack has recorded; the lake keeps it longer, as far as it was synchronised."""
    codec = codec_of(plan)
    return LakeRecords(lake_of(plan.layout), codec) if from_lake else LedgerTopics(plan.addresses.bootstrap_servers, codec)
