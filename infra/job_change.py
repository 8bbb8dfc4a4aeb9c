"""Replace the running scoring job by another one that goes on with its state: on other TaskManagers, or with other code.

Whatever happens on the way, the state is safe: the job stops with a savepoint, and its ticket (see ``infra.jobs``) says at every moment
from where the next one starts.  Who is killed in the middle lets go of the ticket, and the supervisor brings the job back.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flink_jobs.settings import JOB_NAME, STATE_FORMAT
from flink_jobs.shards import check_taskmanagers
from fraud.errors import Denied, Unavailable
from infra import scoring_job
from infra.jobs import JobTicket, alone, find_newest_checkpoint, read_jobs, save_ticket, submit_alone
from infra.plan import Plan
from infra.records import append_event
from infra.scoring_job import JobState
from infra.stack import Stack

__all__ = ["Rescaled", "Upgraded", "check_state_format", "require_work_for", "rescale", "upgrade"]

Say = Callable[[str], None]

_GONE_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 15.0
_POLL_S = 0.2
_FAILURES = (Unavailable, Denied, OSError)  # what starting and stopping a job ends with when it goes wrong


@dataclass(frozen=True)
class Rescaled:
    """What a rescale did; ``down_s`` is the time without a running job, 0 when there was nothing to do."""

    before: int
    after: int
    savepoint: str | None
    job_id: str | None
    down_s: float


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade did; ``before`` and ``after`` are the code versions that decisions record, ``snapshot`` what it went on from."""

    before: str
    after: str
    snapshot: str | None
    job_id: str | None
    down_s: float


def rescale(stack: Stack, taskmanagers: int, say: Say) -> Rescaled:
    """Run the scoring job on ``taskmanagers`` TaskManagers, from a savepoint.

    The choice is kept with the job, over ``down`` and ``up``, until the next one.

    Raises:
        Denied: the state's shards have no work for so many.
        Unavailable: it could not be done; the text says how the job runs now and what to do.
    """
    plan = stack.plan
    require_work_for(taskmanagers, plan.settings.shards)
    scoring_job.check_shards(scoring_job.submitted_settings(plan), plan.settings.shards)
    stack.require_supervisor()
    _require_the_same_code(plan)
    with alone(plan.layout), _told_when_interrupted(say):
        ticket, state = _running_job(plan)
        # a job from before TaskManagers were counted had a subtask on each
        runs_on = int(scoring_job.submitted_settings(plan).get("taskmanagers", state.parallelism))
        before = ticket.taskmanagers or runs_on
        if taskmanagers == runs_on == before:
            return Rescaled(before, taskmanagers, None, state.job_id, 0.0)
        wanted = replace(ticket, taskmanagers=taskmanagers)
        if taskmanagers > before:  # while the old job still runs: starting a JVM takes longer than replacing a job
            say(f"starting TaskManagers, {taskmanagers} in all")
            _provide_slots(stack, wanted, ticket, say)
        say("stopping the job with a savepoint")
        began = time.monotonic()
        savepoint = _stop(stack, ticket, say)
        try:
            state = _start(stack, replace(ticket, job_ids=(), restore_from=savepoint, taskmanagers=taskmanagers), say)
        except _FAILURES as error:
            _go_back(stack, before, f"it does not run on {taskmanagers} TaskManagers ({error})", say)
        down_s = time.monotonic() - began
        append_event(plan.layout, JOB_NAME, "rescaled", f"from {before} to {taskmanagers} TaskManagers, {down_s:.1f} s, {savepoint}")
        return Rescaled(before, taskmanagers, savepoint, state.job_id, down_s)


def upgrade(stack: Stack, say: Say) -> Upgraded:
    """Run the scoring job with the code of this checkout, from a savepoint; one that does not run whole, from its newest snapshot.

    A TaskManager keeps the modules that it has once loaded, so all of them are restarted; other jobs on them recover by themselves.

    Raises:
        Denied: the new code cannot take over the state; nothing was stopped.
        Unavailable: it could not be done; the text says how the job runs now and what to do.
    """
    plan = stack.plan
    submitted = scoring_job.submitted_settings(plan)
    before, after = str(submitted.get("core", {}).get("code_version", "unknown")), scoring_job.code_version()
    stack.require_supervisor()
    with alone(plan.layout), _told_when_interrupted(say):
        ticket, state = _ticket(plan), scoring_job.state_of(plan)
        check_state_format(submitted, plan.settings.shards)
        say(f"comparing the state of {before} with the job of {after}")
        _check_state(plan, ticket)
        say("stopping the job")
        began = time.monotonic()
        snapshot = _stop(stack, ticket, say) if state.all_run else _end(plan)
        ticket = replace(ticket, job_ids=(), restore_from=snapshot, stopped=False)
        save_ticket(plan.layout, ticket)
        try:
            _restart_taskmanagers(stack, f"code {after}", say)
            state = _start(stack, ticket, say)
        except _FAILURES as error:
            _give_up_upgrade(stack, f"the job does not run with the code of {after} ({error})", before, snapshot, say)
        down_s = time.monotonic() - began
        append_event(plan.layout, JOB_NAME, "upgraded", f"from {before} to {after}, {down_s:.1f} s, {snapshot}")
        return Upgraded(before, after, snapshot, state.job_id, down_s)


def check_state_format(submitted: dict[str, Any], shards: int) -> None:
    """Raise ``Denied`` when the running job, by its settings as submitted, writes a state that this code does not read."""
    written = submitted.get("state_format", STATE_FORMAT)  # before it was written down there was one format
    if written != STATE_FORMAT:
        raise Denied(
            f"the running job's state is of format '{written}', and this code reads '{STATE_FORMAT}': it would have to be built anew "
            "from the history. Nothing was stopped"
        )
    scoring_job.check_shards(submitted, shards)


def _require_the_same_code(plan: Plan) -> None:
    """A resubmission plans the job with the code of the checkout, and TaskManagers go on with what they have loaded."""
    running = scoring_job.submitted_settings(plan).get("core", {}).get("code_version")
    now = scoring_job.code_version()
    if running not in (None, now):
        raise Denied(f"the job runs the code of {running}, and this checkout is {now}: ./fraudguard job upgrade comes first")


def _check_state(plan: Plan, ticket: JobTicket) -> None:
    """Raise ``Denied`` when the job of this checkout would leave some of the running job's state behind, or cannot be laid out at all."""
    with tempfile.TemporaryDirectory(dir=plan.layout.run) as folder:
        if not _copy_newest_metadata(plan, ticket, Path(folder)):
            return  # nothing to take over yet
        try:
            problems = scoring_job.preflight(plan, ticket, Path(folder))
        except Unavailable as error:
            raise Denied(f"the job of this checkout cannot be laid out: {error}. Nothing was stopped") from error
    if problems:
        raise Denied(
            f"refused, and nothing was stopped: the job of this checkout would leave state behind: {'; '.join(problems)}. "
            "An operator finds its state by its uid: give it the one that it had"
        )


def _copy_newest_metadata(plan: Plan, ticket: JobTicket, folder: Path) -> bool:
    """Whether there is a snapshot; a copy, since a checkpoint is removed within seconds of a newer one."""
    while newest := find_newest_checkpoint(plan.layout, ticket):
        try:
            shutil.copyfile(Path(unquote(urlsplit(newest).path)) / "_metadata", folder / "_metadata")
        except FileNotFoundError:
            if newest == ticket.restore_from:
                raise Unavailable(JOB_NAME, f"the savepoint that it started from is gone: {newest}") from None
        else:
            return True
    return False


def _restart_taskmanagers(stack: Stack, why: str, say: Say) -> None:
    say("restarting the TaskManagers")
    stack.restart_taskmanagers(why)
    stack.settle(say)


def _give_up_upgrade(stack: Stack, reason: str, before: str, snapshot: str | None, say: Say) -> None:
    """End the job that does not come up, keep its state, leave TaskManagers that have loaded nothing, and say how to go on."""
    say(f"{reason}; stopping it")
    try:
        kept = _end(stack.plan)
        save_ticket(stack.layout, replace(_ticket(stack.plan), job_ids=(), restore_from=kept, stopped=True))
        _restart_taskmanagers(stack, "nothing of the refused code may stay", say)
    except _FAILURES as error:
        raise Unavailable(JOB_NAME, f"{reason}, and it could not be stopped ({error}). Its state is kept in {snapshot} or newer") from error
    raise Unavailable(
        JOB_NAME,
        f"{reason}.\nThe job is stopped and its state is kept in {kept}.\n"
        f"Mend the code, or check out {before.rstrip('+')} again; then ./fraudguard job start continues from there",
    )


def require_work_for(taskmanagers: int, shards: int) -> None:
    """Raise ``Denied`` for a number of TaskManagers that the state has no work for."""
    try:
        check_taskmanagers(taskmanagers, shards)
    except ValueError as error:
        raise Denied(str(error)) from None


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
    except _FAILURES as error:
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


def _go_back(stack: Stack, taskmanagers: int, reason: str, say: Say) -> None:
    """Run the job as it was before, from the newest snapshot that there is, and raise ``Unavailable`` with what happened."""
    say(f"{reason}; going back")
    newest = None
    try:
        newest = _end(stack.plan)
        ticket = _ticket(stack.plan)
        _start(stack, replace(ticket, job_ids=(), restore_from=newest, taskmanagers=taskmanagers), say)
    except _FAILURES as error:
        raise Unavailable(
            JOB_NAME,
            f"{reason}, and as before it does not run either ({error}). Nothing is lost: it will start from {newest or 'its savepoint'}. "
            "The supervisor goes on trying; ./fraudguard status tells",
        ) from error
    raise Unavailable(JOB_NAME, f"{reason}. It runs again as before, from {newest}")


def _ticket(plan: Plan) -> JobTicket:
    ticket = scoring_job.ticket_of(plan)
    if ticket is None:
        raise Unavailable(JOB_NAME, "there is none; ./fraudguard job start begins one")
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
