"""Stands in for a job's submitter: its "job id" says which checkpoint it was handed."""

from __future__ import annotations

from infra.jobs import JobTicket
from infra.plan import Plan


def resume(_plan: Plan, _ticket: JobTicket, checkpoint: str | None) -> str:
    return f"after-{(checkpoint or 'nothing').rsplit('/', 1)[-1]}"
