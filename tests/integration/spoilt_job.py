"""Entries for the ticket of the scoring job that go wrong in one respect."""

from __future__ import annotations

from fraud.errors import Unavailable
from infra import scoring_job
from infra.jobs import JobTicket
from infra.plan import Plan


def resume_unless_one(plan: Plan, ticket: JobTicket, checkpoint: str | None) -> str:
    """The ordinary entry, except that a job on one TaskManager is not accepted."""
    if ticket.taskmanagers == 1:
        raise Unavailable("flink", "the job was not accepted: no")
    return scoring_job.resume(plan, ticket, checkpoint)
