"""Which Flink jobs belong to this stack, and how each comes back after its JobManager was lost.

Flink keeps no job across a JobManager without ZooKeeper or Kubernetes, so a submitter leaves a *ticket* here.  Whenever a
JobManager has (re)started and does not run the job of a ticket, the supervisor calls the ticket's ``resume`` entry in a process of
its own, with the newest completed checkpoint.  Restoring an older one would repeat output, so the choice is made here only.

Whoever stops or submits a job does it ``alone``.  A process that dies in the middle of that lets go by dying, and the supervisor,
which looks every few seconds, brings the job back from whatever was completed last.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from infra import flink
from infra.failures import read_failures
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
    "alone",
    "count_taskmanagers",
    "describe_jobs",
    "find_lost",
    "find_missing",
    "find_newest_checkpoint",
    "load_tickets",
    "read_all_jobs",
    "read_jobs",
    "remove_ticket",
    "save_ticket",
    "submit_alone",
    "submit_if_missing",
]

_RESUME_TIMEOUT_S = 240.0
_LOOK_S = 5.0  # between looks: how long a job may be gone while its JobManager runs, and the pause after a failure
_ANSWER_TIMEOUT_S = 15.0  # who is about to submit can wait for a busy JobManager
_OVER = ("FAILED", "FINISHED", "CANCELED", "SUSPENDED")
_SAVEPOINT_HEADER = struct.Struct(">iiq")  # magic, format version, number in the row of checkpoints
_SAVEPOINT_MAGIC = 0x4960672D


@dataclass(frozen=True)
class JobTicket:
    """A job that must run whenever the stack is up.

    ``resume`` names a function as ``module:function`` (see ``Resume``).  ``job_ids`` are the ids that the job had, oldest first:
    its checkpoints lie in one folder per id.  ``restore_from`` is what the first of them started from, if anything.  ``slots`` are
    those that it needs beyond the scoring job's: the stack runs a TaskManager for each, as long as the ticket is there.
    ``taskmanagers`` is how many the scoring job works on, one slot each, when somebody chose another number than the stack's settings.
    A job that was ``stopped`` on purpose stays away until somebody starts it.
    """

    name: str
    resume: str
    job_ids: tuple[str, ...] = ()
    restore_from: str | None = None
    arguments: tuple[str, ...] = ()
    slots: int = 0
    taskmanagers: int | None = None
    stopped: bool = False


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
    return [_ticket_of(saved) for saved in found if saved is not None]


def _ticket_of(saved: dict[str, Any]) -> JobTicket:
    chosen = {"taskmanagers": saved.pop("parallelism")} if "parallelism" in saved else {}  # its name while a subtask had one each
    return JobTicket(**{**saved, **chosen, "job_ids": tuple(saved["job_ids"]), "arguments": tuple(saved["arguments"])})


def count_taskmanagers(plan: Plan) -> int:
    """How many TaskManagers the stack runs, one a slot: those of the scoring job and what other jobs bring."""
    tickets = load_tickets(plan.layout)
    chosen = next((ticket.taskmanagers for ticket in tickets if ticket.taskmanagers is not None), plan.settings.taskmanagers)
    return chosen + sum(ticket.slots for ticket in tickets)


def find_newest_checkpoint(layout: Layout, ticket: JobTicket) -> str | None:
    """URI of the newest *completed* checkpoint or savepoint of the ticket's chain of jobs, else what the chain started from.

    Either is complete when its ``_metadata`` is there.  Both are numbered in one row, which only grows along a chain, since each
    job goes on where its predecessor was.  Savepoints count, for a job that stopped with one has committed all that is in it.
    """
    completed = (found for job_id in ticket.job_ids for found in (*_checkpoints(layout, job_id), *_savepoints(layout, job_id)))
    newest = max(completed, default=None)
    return ticket.restore_from if newest is None else newest[1].as_uri()


def _checkpoints(layout: Layout, job_id: str) -> Iterator[tuple[int, Path]]:
    for folder in (layout.checkpoints / job_id).glob("chk-*"):
        if (folder / "_metadata").exists():
            yield int(folder.name.removeprefix("chk-")), folder


def _savepoints(layout: Layout, job_id: str) -> Iterator[tuple[int, Path]]:
    """A savepoint's folder has a name by chance; its number stands in its metadata."""
    for metadata in (layout.savepoints / job_id).glob("savepoint-*/_metadata"):
        with metadata.open("rb") as file:
            header = file.read(_SAVEPOINT_HEADER.size)
        if len(header) == _SAVEPOINT_HEADER.size:
            magic, _version, number = _SAVEPOINT_HEADER.unpack(header)
            if magic == _SAVEPOINT_MAGIC:
                yield number, metadata.parent


@dataclass(frozen=True)
class JobStatus:
    """A Flink job as the JobManager shows it.

    ``state`` is Flink's word, or for a ticket that it knows no job of STOPPED (on purpose) or MISSING.  ``detail`` says what is wrong
    with one whose tasks do not all run.
    """

    name: str
    job_id: str
    state: str
    detail: str = ""


def read_jobs(flink_rest_url: str, timeout_s: float = 2.0) -> list[JobStatus]:
    """The jobs that the JobManager holds and that are not over; raises ``OSError`` or ``ValueError`` when it does not answer."""
    return [job for job in read_all_jobs(flink_rest_url, timeout_s) if job.state not in _OVER]


def read_all_jobs(flink_rest_url: str, timeout_s: float = 2.0) -> list[JobStatus]:
    """As ``read_jobs``, with those that are over and that the JobManager still remembers."""
    listed = read_json_url(f"{flink_rest_url}/jobs/overview", timeout_s)["jobs"]
    return [JobStatus(job["name"], job["jid"], job["state"]) for job in listed]


def find_missing(tickets: Iterable[JobTicket], running: Iterable[JobStatus]) -> list[JobTicket]:
    """The tickets without a running job.

    The name counts as much as the id: a submitter that died before it wrote the new id down must not lead to a second job.
    """
    known = list(running)
    ids, names = {job.job_id for job in known}, {job.name for job in known}
    return [ticket for ticket in tickets if ticket.name not in names and ids.isdisjoint(ticket.job_ids)]


def find_lost(tickets: Iterable[JobTicket], known: Iterable[JobStatus]) -> list[JobTicket]:
    """The tickets whose job should run, does not, and would run if it were submitted.

    One that was stopped on purpose should not; one on which Flink gave up (FAILED) would fail again, and ``status`` tells why.
    """
    jobs = list(known)
    hopeless = {job.job_id for job in jobs if job.state == "FAILED"}
    wanted = [ticket for ticket in tickets if not ticket.stopped and hopeless.isdisjoint(ticket.job_ids[-1:])]
    return find_missing(wanted, [job for job in jobs if job.state not in _OVER])


def describe_jobs(layout: Layout, flink_rest_url: str) -> list[JobStatus]:
    """Every running job, and every ticket without one; nothing when the JobManager does not answer."""
    try:
        listed = read_json_url(f"{flink_rest_url}/jobs/overview")["jobs"]
    except (OSError, ValueError, KeyError):
        return []
    tickets = load_tickets(layout)
    ours = {job_id for ticket in tickets for job_id in ticket.job_ids[-1:]}
    # one that Flink gave up is shown as long as nothing has taken its place
    shown = [job for job in listed if job["state"] not in _OVER or (job["state"] == "FAILED" and job["jid"] in ours)]
    known = [JobStatus(job["name"], job["jid"], job["state"], _describe_trouble(flink_rest_url, job)) for job in shown]
    return [*known, *(_describe_absence(ticket) for ticket in find_missing(tickets, known))]


def _describe_trouble(flink_rest_url: str, job: Mapping[str, Any]) -> str:
    """What keeps a job from running whole, with the root cause of its newest failure; "" when every task runs."""
    total, running = job["tasks"]["total"], job["tasks"]["running"] + job["tasks"]["finished"]
    if job["state"] == "RUNNING" and running == total:
        return ""
    failures = read_failures(flink_rest_url, job["jid"])
    return f"{running} of {total} tasks run" + (f"; last failure: {failures[0].root}" if failures else "")


def _describe_absence(ticket: JobTicket) -> JobStatus:
    newest = next(reversed(ticket.job_ids), "")
    if ticket.stopped:
        return JobStatus(ticket.name, newest, "STOPPED", "on purpose; ./fraudguard job start continues from its savepoint")
    return JobStatus(ticket.name, newest, "MISSING", "the supervisor brings it back")


@contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Keep every other process from stopping or submitting a job meanwhile, the supervisor among them; not reentrant."""
    with (layout.jobs / "submission.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_somebody_at_work(layout: Layout) -> bool:
    """Whether a process is stopping or submitting a job now."""
    with (layout.jobs / "submission.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def submit_if_missing(plan: Plan, ticket: JobTicket, *, even_if_stopped: bool = True) -> str | None:
    """Call ``resume`` with the newest checkpoint unless the job runs, and write its id down; returns the new id, if there is one.

    Any number of processes may call it at once (the supervisor after a restart, a command that needs the job): one submits.  The
    ticket on disk, where there is one, counts more than ``ticket``.  Raises what ``resume`` raises, and ``OSError`` when the
    JobManager does not answer.
    """
    with alone(plan.layout):
        return submit_alone(plan, ticket, even_if_stopped=even_if_stopped)


def submit_alone(plan: Plan, ticket: JobTicket, *, even_if_stopped: bool = True) -> str | None:
    """``submit_if_missing`` for a caller who is ``alone`` already."""
    ticket = next((saved for saved in load_tickets(plan.layout) if saved.name == ticket.name), ticket)
    if ticket.stopped and not even_if_stopped:
        return None
    if not find_missing([ticket], read_jobs(plan.addresses.flink_rest_url, _ANSWER_TIMEOUT_S)):
        return None
    module, function = ticket.resume.split(":")
    resume = cast("Resume", getattr(import_module(module), function))
    job_id = resume(plan, ticket, find_newest_checkpoint(plan.layout, ticket))
    save_ticket(plan.layout, replace(ticket, job_ids=(*ticket.job_ids, job_id), stopped=False))
    return job_id


class JobResumer:
    """Brings back every job with a ticket that is not there, once ``servers`` have all been ready once.

    It looks when a JobManager has become ready, and every few seconds.
    """

    def __init__(self, plan: Plan, servers: frozenset[str], stopping: threading.Event) -> None:
        self._plan = plan
        self._stopping = stopping
        self._awaited = set(servers)
        self._wanted = threading.Event()
        self._looked_s = time.monotonic()

    def notice_ready(self, server: Server) -> None:
        """Called by the supervisor for every server that became ready."""
        self._awaited.discard(server.name)
        if server.name == "jobmanager":
            self._wanted.set()

    def notice_dismissed(self, name: str) -> None:
        """Called by the supervisor for a server that it will not start again."""
        self._awaited.discard(name)

    def run(self) -> None:
        """Work until the supervisor stops."""
        while not self._stopping.is_set():
            if self._awaited or not (self._wanted.is_set() or time.monotonic() - self._looked_s >= _LOOK_S):
                self._stopping.wait(0.2)
            else:
                self._wanted.clear()
                self._resume_all(load_tickets(self._plan.layout))
                self._looked_s = time.monotonic()

    def _resume_all(self, tickets: Iterable[JobTicket]) -> None:
        """Each gets its attempt; what fails is looked at again by the next look, or sooner when a JobManager becomes ready."""
        try:
            known = read_all_jobs(self._plan.addresses.flink_rest_url)
        except (OSError, ValueError, KeyError):
            return
        missing = find_lost(tickets, known)
        if missing and _is_somebody_at_work(self._plan.layout):
            return  # whoever it is will have brought the job back, or died, by one of the next looks
        for ticket in missing:
            self._resume(ticket)

    def _resume(self, ticket: JobTicket) -> None:
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


def main(home: Path, name: str) -> int:
    """Resume one job; the process that the supervisor starts, so that a crash of the client is not the supervisor's."""
    layout = Layout(home)
    plan = load_plan(layout)
    ticket = next((ticket for ticket in load_tickets(layout) if ticket.name == name), None)
    if plan is None or ticket is None:
        print(f"nothing to resume: no stack or no ticket {name!r} in {home}", file=sys.stderr)
        return 2
    os.environ.update(flink.environment(layout, find_java_home(), python=plan.python))
    print(submit_if_missing(plan, ticket, even_if_stopped=False) or "it runs already, or was stopped on purpose")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
