"""Which Flink jobs belong to this stack, and how each comes back after its JobManager was lost.

Flink keeps no job across a JobManager without ZooKeeper or Kubernetes, so a submitter leaves a *ticket* here.  Whenever a
JobManager has (re)started and does not run the job of a ticket, the supervisor calls the ticket's ``resume`` entry in a process of
its own, with the newest completed checkpoint.  Restoring an older one would repeat output, so the choice is made here only.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from infra import flink
from infra.java import find_java_home
from infra.layout import Layout, read_json, write_json
from infra.plan import Plan, load_plan
from infra.probes import read_json_url
from infra.records import append_event
from infra.settings import REPO_ROOT

if TYPE_CHECKING:
    from infra.servers import Server  # which asks this module how many slots there are

__all__ = [
    "JobResumer",
    "JobStatus",
    "JobTicket",
    "Resume",
    "describe_jobs",
    "find_missing",
    "find_newest_checkpoint",
    "load_tickets",
    "read_failure",
    "read_jobs",
    "remove_ticket",
    "root_cause",
    "save_ticket",
    "spare_slots",
    "submit_if_missing",
]

_RESUME_TIMEOUT_S = 240.0
_RETRY_S = 5.0
_ANSWER_TIMEOUT_S = 15.0  # who is about to submit can wait for a busy JobManager
_CAUSED_BY = "Caused by: "
_OVER = ("FAILED", "FINISHED", "CANCELED", "SUSPENDED")


@dataclass(frozen=True)
class JobTicket:
    """A job that must run whenever the stack is up.

    ``resume`` names a function as ``module:function`` (see ``Resume``).  ``job_ids`` are the ids that the job had, oldest first:
    its checkpoints lie in one folder per id.  ``restore_from`` is what the first of them started from, if anything.  ``slots`` are
    those that it needs beyond the scoring job's: the stack runs a TaskManager for each, as long as the ticket is there.
    """

    name: str
    resume: str
    job_ids: tuple[str, ...] = ()
    restore_from: str | None = None
    arguments: tuple[str, ...] = ()
    slots: int = 0


class Resume(Protocol):
    """Submit the job again and return its new id; ``checkpoint`` is a URI, None when none was ever completed."""

    def __call__(self, plan: Plan, ticket: JobTicket, checkpoint: str | None) -> str:
        """The id of the job as submitted."""
        ...


def save_ticket(layout: Layout, ticket: JobTicket) -> None:
    """Add or replace a ticket; the submitter calls it right after a submission."""
    write_json(layout.jobs / f"{ticket.name}.json", asdict(ticket))


def remove_ticket(layout: Layout, name: str) -> None:
    """Forget a job that was stopped on purpose."""
    (layout.jobs / f"{name}.json").unlink(missing_ok=True)


def load_tickets(layout: Layout) -> list[JobTicket]:
    """Every ticket of this home."""
    found = (read_json(path) for path in sorted(layout.jobs.glob("*.json")))
    return [
        JobTicket(**{**saved, "job_ids": tuple(saved["job_ids"]), "arguments": tuple(saved["arguments"])})
        for saved in found
        if saved is not None
    ]


def spare_slots(layout: Layout) -> int:
    """How many slots the tickets ask for beyond those of the scoring job."""
    return sum(ticket.slots for ticket in load_tickets(layout))


def find_newest_checkpoint(layout: Layout, ticket: JobTicket) -> str | None:
    """URI of the newest *completed* checkpoint of the ticket's chain of jobs, else what the chain started from.

    A checkpoint is complete when its ``_metadata`` is there; ids only grow along a chain, since each job goes on where its
    predecessor was.
    """
    completed = (
        (int(folder.name.removeprefix("chk-")), folder)
        for job_id in ticket.job_ids
        for folder in (layout.checkpoints / job_id).glob("chk-*")
        if (folder / "_metadata").exists()
    )
    newest = max(completed, default=None)
    return ticket.restore_from if newest is None else newest[1].as_uri()


@dataclass(frozen=True)
class JobStatus:
    """A Flink job as the JobManager shows it; ``state`` is Flink's word, or MISSING for a ticket that it knows no job of.

    ``failure`` says in a line why it does not run, where Flink knows.
    """

    name: str
    job_id: str
    state: str
    failure: str = ""


def read_jobs(flink_rest_url: str, timeout_s: float = 2.0) -> list[JobStatus]:
    """The jobs that the JobManager holds and that are not over; raises ``OSError`` or ``ValueError`` when it does not answer."""
    listed = read_json_url(f"{flink_rest_url}/jobs/overview", timeout_s)["jobs"]
    return [JobStatus(job["name"], job["jid"], job["state"]) for job in listed if job["state"] not in _OVER]


def find_missing(tickets: Iterable[JobTicket], running: Iterable[JobStatus]) -> list[JobTicket]:
    """The tickets without a running job.

    The name counts as much as the id: a submitter that died before it wrote the new id down must not lead to a second job.
    """
    known = list(running)
    ids, names = {job.job_id for job in known}, {job.name for job in known}
    return [ticket for ticket in tickets if ticket.name not in names and ids.isdisjoint(ticket.job_ids)]


def describe_jobs(layout: Layout, flink_rest_url: str) -> list[JobStatus]:
    """Every running job, and every ticket without one; nothing when the JobManager does not answer."""
    try:
        running = read_jobs(flink_rest_url)
    except (OSError, ValueError, KeyError):
        return []
    missing = find_missing(load_tickets(layout), running)
    return [*running, *(_missing(ticket, flink_rest_url) for ticket in missing)]


def _missing(ticket: JobTicket, flink_rest_url: str) -> JobStatus:
    job_id = next(reversed(ticket.job_ids), "")
    return JobStatus(ticket.name, job_id, "MISSING", read_failure(flink_rest_url, job_id, timeout_s=2.0) if job_id else "")


def read_failure(flink_rest_url: str, job_id: str, timeout_s: float) -> str:
    """The root cause of a job's newest failure in a line, "" when it has none or Flink does not say."""
    try:
        entries = read_json_url(f"{flink_rest_url}/jobs/{job_id}/exceptions", timeout_s)["exceptionHistory"]["entries"]
    except (OSError, ValueError, KeyError):
        return ""
    return root_cause(str(entries[0]["stacktrace"])) if entries else ""


def root_cause(stacktrace: str) -> str:
    """The first line of the innermost cause in a stack trace of Java's."""
    lines = stacktrace.splitlines()
    causes = [line.removeprefix(_CAUSED_BY) for line in lines if line.startswith(_CAUSED_BY)]
    return causes[-1] if causes else next(iter(lines), "")


def submit_if_missing(plan: Plan, ticket: JobTicket) -> str | None:
    """Call ``resume`` with the newest checkpoint unless the job runs, and write its id down; returns the new id, if there is one.

    Any number of processes may call it at once (the supervisor after a restart, a command that needs the job): one submits.  The
    ticket on disk, where there is one, counts more than ``ticket``.  Raises what ``resume`` raises, and ``OSError`` when the
    JobManager does not answer.
    """
    with (plan.layout.jobs / "submission.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ticket = next((saved for saved in load_tickets(plan.layout) if saved.name == ticket.name), ticket)
        if not find_missing([ticket], read_jobs(plan.addresses.flink_rest_url, _ANSWER_TIMEOUT_S)):
            return None
        module, function = ticket.resume.split(":")
        resume = cast("Resume", getattr(import_module(module), function))
        job_id = resume(plan, ticket, find_newest_checkpoint(plan.layout, ticket))
        save_ticket(plan.layout, replace(ticket, job_ids=(*ticket.job_ids, job_id)))
        return job_id


class JobResumer:
    """Brings back every job with a ticket once a JobManager has become ready and ``servers`` have all been ready once."""

    def __init__(self, plan: Plan, servers: frozenset[str], stopping: threading.Event) -> None:
        self._plan = plan
        self._stopping = stopping
        self._awaited = set(servers)
        self._wanted = threading.Event()

    def notice_ready(self, server: Server) -> None:
        """Called by the supervisor for every server that became ready."""
        self._awaited.discard(server.name)
        if server.name == "jobmanager":
            self._wanted.set()

    def run(self) -> None:
        """Work until the supervisor stops."""
        while not self._stopping.is_set():
            if self._awaited or not self._wanted.is_set():
                self._stopping.wait(0.2)
            else:
                self._wanted.clear()
                if not self._resume_all(load_tickets(self._plan.layout)):
                    self._wanted.set()
                    self._stopping.wait(_RETRY_S)

    def _resume_all(self, tickets: Iterable[JobTicket]) -> bool:
        """Whether nothing is left to do."""
        try:
            running = read_jobs(self._plan.addresses.flink_rest_url)
        except (OSError, ValueError, KeyError):
            return False
        missing = find_missing(tickets, running)
        outcomes = [self._resume(ticket) for ticket in missing]  # each gets its attempt, also after a failure
        return all(outcomes)

    def _resume(self, ticket: JobTicket) -> bool:
        layout = self._plan.layout
        checkpoint = find_newest_checkpoint(layout, ticket)
        append_event(layout, ticket.name, "resuming", checkpoint or "from the beginning: no completed checkpoint")
        environment = flink.environment(layout, find_java_home(), python=self._plan.python)
        with layout.log_file(f"resume-{ticket.name}").open("ab") as log:
            try:
                done = subprocess.run(
                    [str(self._plan.python), "-m", "infra.jobs", str(layout.home), ticket.name],
                    env=environment,
                    cwd=REPO_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=_RESUME_TIMEOUT_S,
                    check=False,
                )
                failure = "" if done.returncode == 0 else f"exit status {done.returncode}, see {log.name}"
            except subprocess.TimeoutExpired:
                failure = f"no answer within {_RESUME_TIMEOUT_S:.0f} s, see {log.name}"
        append_event(layout, ticket.name, "failed" if failure else "resumed", failure or (checkpoint or ""))
        return not failure


def main(home: Path, name: str) -> int:
    """Resume one job; the process that the supervisor starts, so that a crash of the client is not the supervisor's."""
    layout = Layout(home)
    plan = load_plan(layout)
    ticket = next((ticket for ticket in load_tickets(layout) if ticket.name == name), None)
    if plan is None or ticket is None:
        print(f"nothing to resume: no stack or no ticket {name!r} in {home}", file=sys.stderr)
        return 2
    os.environ.update(flink.environment(layout, find_java_home(), python=plan.python))
    print(submit_if_missing(plan, ticket) or "it runs already")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
