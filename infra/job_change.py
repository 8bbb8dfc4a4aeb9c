"""Replace the running scoring job by another one that goes on with its state: in another parallelism, or with other code.

Whatever happens on the way, the state is safe: the job stops with a savepoint, and its ticket (see ``infra.jobs``) says at every moment
from where the next one starts.  Who is killed in the middle lets go of the ticket, and the supervisor brings the job back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from flink_jobs.settings import JOB_NAME
from fraud.errors import Denied, Unavailable
from infra import scoring_job
from infra.jobs import JobTicket, alone, find_newest_checkpoint, read_jobs, save_ticket, submit_alone
from infra.plan import Plan
from infra.records import append_event
from infra.scoring_job import JobState
from infra.stack import Stack

__all__ = ["Rescaled", "rescale"]

Say = Callable[[str], None]

_GONE_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 15.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Rescaled:
    """What a rescale did; ``down_s`` is the time without a running job, 0 when there was nothing to do."""

    before: int
    after: int
    savepoint: str | None
    job_id: str | None
    down_s: float


def rescale(stack: Stack, parallelism: int, say: Say) -> Rescaled:
    """Run the scoring job in ``parallelism`` subtasks, one TaskManager each, from a savepoint.

    The choice is kept with the job, over ``down`` and ``up``, until the next one.

    Raises:
        Denied: fewer than one subtask, or more than the state has shards.
        Unavailable: it could not be done; the text says how the job runs now and what to do.
    """
    plan = stack.plan
    check_parallelism(parallelism, scoring_job.shards_of(plan))
    stack.require_supervisor()
    with alone(plan.layout), _told_when_interrupted(say):
        ticket, state = _running_job(plan)
        before = ticket.parallelism or state.parallelism
        if parallelism == state.parallelism == before:
            return Rescaled(before, parallelism, None, state.job_id, 0.0)
        wanted = replace(ticket, parallelism=parallelism)
        if parallelism > before:  # while the old job still runs: starting a JVM takes longer than replacing a job
            say(f"starting TaskManagers for {parallelism} subtasks")
            _provide_slots(stack, wanted, ticket, say)
        say("stopping the job with a savepoint")
        began = time.monotonic()
        savepoint = _stop(stack, ticket, say)
        try:
            state = _start(stack, replace(ticket, job_ids=(), restore_from=savepoint, parallelism=parallelism), say)
        except (Unavailable, OSError) as error:
            _go_back(stack, before, f"it does not run with parallelism {parallelism} ({error})", say)
        down_s = time.monotonic() - began
        append_event(plan.layout, JOB_NAME, "rescaled", f"from {before} to {parallelism} subtasks, {down_s:.1f} s, {savepoint}")
        return Rescaled(before, parallelism, savepoint, state.job_id, down_s)


def check_parallelism(parallelism: int, shards: int) -> None:
    """Raise ``Denied`` for a parallelism that the state does not allow."""
    if not 1 <= parallelism <= shards:
        raise Denied(
            f"the parallelism must be 1 to {shards}, not {parallelism}: the job's state is divided into {shards} shards, "
            "and a subtask without one would have nothing to do"
        )


def _running_job(plan: Plan) -> tuple[JobTicket, JobState]:
    ticket, state = scoring_job.ticket_of(plan), scoring_job.state_of(plan)
    if ticket is None or state.state != "RUNNING":
        raise Unavailable(JOB_NAME, f"it is {state.state}; ./fraudguard job start brings it up")
    return ticket, state


def _provide_slots(stack: Stack, wanted: JobTicket, kept: JobTicket, say: Say) -> None:
    """Have the supervisor start the TaskManagers that ``wanted`` asks for; ``kept`` stays in force when it cannot."""
    save_ticket(stack.layout, wanted)
    try:
        stack.settle(say)
    except Unavailable as error:
        save_ticket(stack.layout, kept)
        raise Unavailable(JOB_NAME, f"there are not enough TaskManagers, and the job goes on as before: {error}") from error


def _stop(stack: Stack, ticket: JobTicket, say: Say) -> str:
    """Stop the job with a savepoint; when that fails, ``ticket`` is in force again and the job has gone on or comes back."""
    try:
        savepoint = scoring_job.stop_with_savepoint(stack.plan)
    except (Unavailable, OSError) as error:
        save_ticket(stack.layout, ticket)
        raise Unavailable(JOB_NAME, f"it could not be stopped with a savepoint and goes on as before: {error}") from error
    say(f"stopped with {savepoint}")
    return savepoint


def _start(stack: Stack, ticket: JobTicket, say: Say) -> JobState:
    save_ticket(stack.layout, ticket)
    stack.settle(say)
    say("submitting the job")
    submit_alone(stack.plan, ticket)
    return scoring_job.wait_until_running(stack.plan)


def _go_back(stack: Stack, parallelism: int, reason: str, say: Say) -> None:
    """Run the job as it was before, from the newest snapshot that there is, and raise ``Unavailable`` with what happened."""
    say(f"{reason}; going back")
    newest = None
    try:
        newest = _end(stack.plan)
        ticket = _ticket(stack.plan)
        _start(stack, replace(ticket, job_ids=(), restore_from=newest, parallelism=parallelism), say)
    except (Unavailable, OSError) as error:
        raise Unavailable(
            JOB_NAME,
            f"{reason}, and as before it does not run either ({error}). Nothing is lost: it will start from {newest or 'its savepoint'}. "
            "The supervisor goes on trying; ./fraudguard status tells",
        ) from error
    raise Unavailable(JOB_NAME, f"{reason}. It runs again as before, from {newest}")


def _ticket(plan: Plan) -> JobTicket:
    ticket = scoring_job.ticket_of(plan)
    if ticket is None:
        raise Unavailable(JOB_NAME, "somebody has given up its state meanwhile")
    return ticket


def _end(plan: Plan) -> str | None:
    """Cancel the job that does not come up, wait until its slots are free, and return its newest snapshot."""
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    ids: dict[str, None] = {}  # also of a job that was accepted without its submitter hearing of it
    while jobs := [job for job in read_jobs(plan.addresses.flink_rest_url, _ANSWER_TIMEOUT_S) if job.name == JOB_NAME]:
        for job in jobs:
            if job.job_id not in ids:
                ids[job.job_id] = None
                scoring_job.cancel(plan, job.job_id)
        if time.monotonic() > deadline:
            raise Unavailable("flink", f"{JOB_NAME} does not end within {_GONE_TIMEOUT_S:g} s of its cancellation")
        time.sleep(_POLL_S)
    ticket = _ticket(plan)
    return find_newest_checkpoint(plan.layout, replace(ticket, job_ids=(*ticket.job_ids, *ids)))


@contextmanager
def _told_when_interrupted(say: Say) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; nothing is lost: the supervisor brings the job back from the newest snapshot. ./fraudguard job status tells")
        raise
