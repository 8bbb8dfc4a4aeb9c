"""The scoring job on the local stack: what it is submitted with, and how it is stopped, saved and brought back.

``resume`` is the entry of the job's ticket (see ``infra.jobs``): the supervisor calls it when a JobManager has lost the job.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from flink_jobs.assembly import CoreSettings
from flink_jobs.settings import JOB_NAME, JobSettings
from fraud.catalogue import CATALOGUE
from fraud.errors import Denied, Unavailable
from infra import flink
from infra.failures import read_failures, root_of
from infra.java import find_java_home
from infra.jobs import (
    JobTicket,
    alone,
    find_missing,
    find_newest_checkpoint,
    load_tickets,
    read_jobs,
    remove_ticket,
    save_ticket,
    submit_if_missing,
)
from infra.layout import Layout, read_json
from infra.plan import Plan
from infra.probes import read_json_url
from infra.savepoints import claimable, retain
from infra.settings import REPO_ROOT
from serving import model_files
from serving.atomic_write import write_atomically
from serving.registry import HttpRegistry, register_all
from serving.rules_file import DEFAULT_RULES_PATH, load_rules

__all__ = [
    "JobState",
    "as_asked",
    "cancel",
    "check_shards",
    "code_version",
    "ensure_running",
    "newest_failure",
    "preflight",
    "resume",
    "savepoint",
    "settings_of",
    "state_of",
    "stop",
    "stop_with_savepoint",
    "submit",
    "submitted_settings",
    "ticket_of",
    "wait_until_running",
    "with_refusals",
]

_RUNNING_TIMEOUT_S = 120.0
_SUBMIT_TIMEOUT_S = 240.0
_SAVEPOINT_TIMEOUT_S = 120.0
_POLL_S = 0.2
_GIVE_UP_AFTER = 3  # failures with one and the same cause while a job starts: the next attempt would end like these
_ANSWER_TIMEOUT_S = 15.0  # a JobManager that deploys a job on a busy machine keeps its callers waiting for seconds
_KEY_BYTES = 32
_ACCEPT_REFUSED = "accept_refused"  # in a ticket's overrides, beside fields of the job's settings


@dataclass(frozen=True)
class JobState:
    """The job as Flink sees it: ``state`` is Flink's word or ``absent``; ``tasks`` counts subtasks by state."""

    state: str
    job_id: str | None
    tasks: dict[str, int]
    restored_from: str | None
    parallelism: int = 0

    @property
    def all_run(self) -> bool:
        """Whether every task of the job runs."""
        return self.state == "RUNNING" and set(self.tasks) == {"RUNNING"}


def settings_of(plan: Plan, *, taskmanagers: int | None = None) -> JobSettings:
    """Settings of the job on this stack, schemas registered; raises Unavailable."""
    addresses = plan.addresses
    production = model_files.production(models_dir(plan.layout))
    rules = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    core = CoreSettings(
        shards=plan.settings.shards,
        schema_ids=register_all(HttpRegistry(addresses.registry_url, timeout_s=10.0)),
        registry_url=addresses.registry_url,
        redis_url=addresses.redis_url,
        models_dir=str(models_dir(plan.layout)),
        ip_hash_key_file=str(ip_hash_key_file(plan.layout)),
        default_rules=rules.to_json(),
        default_model=None if production is None else production.sha256,
        code_version=code_version(),
    )
    return JobSettings(
        bootstrap_servers=addresses.bootstrap_servers,
        flink_port=plan.settings.flink_port,
        core=core,
        taskmanagers=taskmanagers or plan.settings.taskmanagers,
        batch_ms=plan.settings.batch_ms,
        checkpoint_interval_ms=plan.settings.checkpoint_interval_ms,
    )


def models_dir(layout: Layout) -> Path:
    """Where models lie, by the SHA-256 of their text."""
    return layout.home / "models"


def ip_hash_key_file(layout: Layout) -> Path:
    """The key of address hashes: made once, kept beside the models, never in a log or on a command line."""
    path = layout.home / "secrets" / "ip_hash.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(os.urandom(_KEY_BYTES))
        path.chmod(0o600)
    return path


def code_version() -> str:
    """The commit of the checkout, with ``+`` when it was changed; ``unknown`` outside of one."""
    described = subprocess.run(
        ["git", "-C", str(REPO_ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"],  # noqa: S607 - git from PATH
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def ensure_running(plan: Plan, progress: Callable[[str], None] = lambda _text: None, *, accept_refused: bool = False) -> JobState:
    """Submit the job if it is not there, from its newest checkpoint if it has one, and wait until every task runs.

    ``accept_refused``: it does not stop however many records it must refuse, until it is next started.
    """
    saved = ticket_of(plan)
    ticket = with_refusals(saved or JobTicket(JOB_NAME, "infra.scoring_job:resume"), accepted=accept_refused)
    if find_missing([ticket], read_jobs(plan.addresses.flink_rest_url, _ANSWER_TIMEOUT_S)):
        if saved is not None:
            save_ticket(plan.layout, ticket)  # what is on disk counts
        checkpoint = find_newest_checkpoint(plan.layout, ticket)
        progress(f"submitting the scoring job{f' from {checkpoint}' if checkpoint else ''}")
        submit_if_missing(plan, ticket)
    return wait_until_running(plan)


def as_asked(settings: JobSettings, ticket: JobTicket) -> JobSettings:
    """The settings with what the ticket says otherwise."""
    overrides = _overrides(ticket)
    if overrides.pop(_ACCEPT_REFUSED, False):
        overrides["core"] = replace(settings.core, refusals=None)
    return settings.model_copy(update=overrides)


def with_refusals(ticket: JobTicket, *, accepted: bool) -> JobTicket:
    """The ticket of a job that stops, or does not, when it must refuse too many records."""
    overrides = _overrides(ticket)
    overrides.pop(_ACCEPT_REFUSED, None)
    if accepted:
        overrides[_ACCEPT_REFUSED] = True
    return replace(ticket, arguments=(json.dumps(overrides),) if overrides else ())


def _overrides(ticket: JobTicket) -> dict[str, Any]:
    return dict(json.loads(ticket.arguments[0])) if ticket.arguments else {}


def resume(plan: Plan, ticket: JobTicket, checkpoint: str | None) -> str:
    """Submit the job from a checkpoint or savepoint (None: from the beginning) and return its id.

    Raises:
        Denied: the state is divided into another number of shards.
        Unavailable: a server does not answer, or Flink does not take the job.
    """
    if checkpoint is not None:
        check_shards(submitted_settings(plan), plan.settings.shards)
    asked = as_asked(settings_of(plan, taskmanagers=ticket.taskmanagers), ticket)
    settings = asked.model_copy(update={"restore_from": checkpoint and claimable(plan.layout, checkpoint)})
    return submit(plan, JOB_NAME, "flink_jobs.score", settings.model_dump_json())


def check_shards(submitted: Mapping[str, Any], shards: int) -> None:
    """Raise Denied when a job, by its settings as submitted, has state of another number of shards than this stack.

    A card would be looked up in another shard than the one that holds its log: its features would begin at zero, without a word.
    """
    begun_with = submitted.get("core", {}).get("shards", shards)
    if begun_with != shards:
        raise Denied(
            f"the job's state is divided into {begun_with} shards and this stack has {shards}: ./fraudguard down, and up "
            f"with FRAUDGUARD_SHARDS={begun_with} goes on with it; ./fraudguard job stop --discard gives it up"
        )


def submitted_settings(plan: Plan) -> dict[str, Any]:
    """What the job was last submitted with, as its code wrote it down; empty when it never was."""
    return read_json(_settings_file(plan, JOB_NAME)) or {}


def preflight(plan: Plan, ticket: JobTicket, snapshot: Path) -> list[str]:
    """What of a snapshot's state the job of this checkout would not take over; raises Unavailable when it cannot even be laid out."""
    file = plan.layout.jobs / f"{JOB_NAME}.check"
    write_atomically(file, settings_of(plan, taskmanagers=ticket.taskmanagers).model_dump_json())
    log = plan.layout.log_file(f"{JOB_NAME}-check")
    problems: list[str] = json.loads(_last_line_of([str(plan.python), "-m", "flink_jobs.score", str(file), str(snapshot)], plan, log))
    return problems


def submit(plan: Plan, name: str, module: str, settings: str, *arguments: str) -> str:
    """Submit a job by its module and settings (JSON) and return its id; raises Unavailable with the client's last words.

    The module is called with the file of its settings and ``arguments``, and prints the id as its last line.
    """
    file = _settings_file(plan, name)
    write_atomically(file, settings)
    return _last_line_of([str(plan.python), "-m", module, str(file), *arguments], plan, plan.layout.log_file(f"{name}-submit"))


def _settings_file(plan: Plan, name: str) -> Path:
    """What the job was last submitted with."""
    return plan.layout.jobs / f"{name}.settings"


def _last_line_of(command: list[str], plan: Plan, log: Path) -> str:
    code, out, err = _run_client(command, plan)
    if code != 0:
        log.write_text(out + err)
        raise Unavailable("flink", f"the job was not accepted: {_reason(err)} (see {log})")
    return out.strip().splitlines()[-1]


def _reason(err: str) -> str:
    """The root of what a client left on standard error: that of a Java exception inside of a Python one, else the last line."""
    lines = err.strip().splitlines() or ["no message"]
    return root_of(err) if any(line.startswith("Caused by: ") for line in lines) else lines[-1]


def _run_client(command: list[str], plan: Plan) -> tuple[int, str, str]:
    """Run a PyFlink client in a process group of its own and end the group: PyFlink leaves its gateway's JVM behind."""
    client = subprocess.Popen(
        command,
        env=flink.environment(plan.layout, find_java_home(), python=plan.python),
        cwd=REPO_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = client.communicate(timeout=_SUBMIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Unavailable("flink", f"the submission took longer than {_SUBMIT_TIMEOUT_S:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(client.pid, signal.SIGKILL)
    return client.returncode, out, err


def state_of(plan: Plan, name: str = JOB_NAME) -> JobState:
    """Ask Flink; raises Unavailable when the JobManager does not answer."""
    ticket = ticket_of(plan, name)
    if ticket is None or not ticket.job_ids:
        return JobState("absent", None, {}, None)
    job_id = ticket.job_ids[-1]
    try:
        job = read_json_url(f"{plan.addresses.flink_rest_url}/jobs/{job_id}", _ANSWER_TIMEOUT_S)
    except URLError as error:
        if getattr(error, "code", None) == 404:
            return JobState("absent", job_id, {}, None)
        raise Unavailable("flink", str(error)) from error
    except OSError as error:
        raise Unavailable("flink", str(error)) from error
    tasks: dict[str, int] = {}
    for vertex in job["vertices"]:
        for state, count in vertex["tasks"].items():
            if count:
                tasks[state] = tasks.get(state, 0) + count
    parallelism = max((int(vertex["parallelism"]) for vertex in job["vertices"]), default=0)
    return JobState(job["state"], job_id, tasks, ticket.restore_from, parallelism)


def wait_until_running(plan: Plan, name: str = JOB_NAME) -> JobState:
    """Wait until the job and all its tasks run.

    Raises:
        Unavailable: Flink gave it up, it fails again and again with the same cause, or it takes too long; with the cause.
    """
    began_ms, deadline = time.time() * 1000.0, time.monotonic() + _RUNNING_TIMEOUT_S
    while True:
        state = state_of(plan, name)
        if state.all_run:
            return state
        roots = [failure.root for failure in read_failures(plan.addresses.flink_rest_url, state.job_id or "") if failure.at_ms >= began_ms]
        over = state.state in ("FAILED", "CANCELED") or time.monotonic() > deadline
        if over or any(roots.count(root) >= _GIVE_UP_AFTER for root in roots):
            failure = newest_failure(plan, state)
            cause = f"; it failed with: {failure}" if failure else ""
            raise Unavailable("flink", f"{name} is {state.state}, tasks {state.tasks}{cause}. Logs are in {plan.layout.logs}")
        time.sleep(_POLL_S)


def newest_failure(plan: Plan, state: JobState) -> str:
    """The root cause of a job's newest failure, "" when it has none or Flink does not say."""
    failures = read_failures(plan.addresses.flink_rest_url, state.job_id) if state.job_id else []
    return failures[0].root if failures else ""


def savepoint(plan: Plan, *, stop: bool, name: str = JOB_NAME) -> str:
    """Write a savepoint, and with ``stop`` stop the job with it; returns where it lies."""
    if not stop:
        return _save(plan, name, stop=False)
    with alone(plan.layout):
        location = stop_with_savepoint(plan, name)
        ticket = ticket_of(plan, name)
        if ticket is not None:
            # the chain of jobs ends here; the next one starts from this savepoint and from no older checkpoint
            save_ticket(plan.layout, replace(ticket, job_ids=(), restore_from=location, stopped=True))
        return location


def stop_with_savepoint(plan: Plan, name: str = JOB_NAME) -> str:
    """Stop the job with a savepoint, for a caller who is ``alone`` and says in the ticket what comes next."""
    return _save(plan, name, stop=True)


def _save(plan: Plan, name: str, *, stop: bool) -> str:
    state = state_of(plan, name)
    if state.state != "RUNNING" or state.job_id is None:
        raise Unavailable("flink", f"{name} is {state.state}, nothing to save")
    base = f"{plan.addresses.flink_rest_url}/jobs/{state.job_id}"
    # a folder for each job: who looks for the newest snapshot of a chain of jobs must not take a stranger's
    body = {"targetDirectory": f"{plan.addresses.savepoints_uri}/{state.job_id}"} | ({"drain": False} if stop else {"cancel-job": False})
    trigger = _post(f"{base}/{'stop' if stop else 'savepoints'}", body)["request-id"]
    deadline = time.monotonic() + _SAVEPOINT_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            answer = read_json_url(f"{base}/savepoints/{trigger}", _ANSWER_TIMEOUT_S)
        except (OSError, ValueError) as error:
            raise Unavailable("flink", f"the JobManager went away while it wrote the savepoint: {error}") from error
        if answer["status"]["id"] == "COMPLETED":
            location = _location(answer["operation"])
            retain(plan.layout, name, location)
            return location
        time.sleep(_POLL_S)
    raise Unavailable("flink", f"no savepoint within {_SAVEPOINT_TIMEOUT_S:g} s")


def _location(operation: dict[str, Any]) -> str:
    if "location" not in operation:
        cause = operation.get("failure-cause", {})
        raise Unavailable("flink", f"the savepoint failed: {root_of(cause.get('stack-trace', '')) or cause.get('class', 'unknown')}")
    return str(operation["location"])


def stop(plan: Plan, *, with_savepoint: bool, name: str = JOB_NAME) -> str | None:
    """Stop the job on purpose; with a savepoint ``ensure_running`` continues from it, without one it starts anew."""
    if with_savepoint:
        return savepoint(plan, stop=True, name=name)
    with alone(plan.layout):
        state = state_of(plan, name)
        remove_ticket(plan.layout, name)
        if state.job_id is not None and state.state not in ("absent", "CANCELED", "FINISHED", "FAILED"):
            cancel(plan, state.job_id)
    return None


def cancel(plan: Plan, job_id: str) -> None:
    """Ask Flink to end a job; its checkpoints stay."""
    with urlopen(Request(f"{plan.addresses.flink_rest_url}/jobs/{job_id}", method="PATCH"), timeout=30):  # noqa: S310
        pass


def ticket_of(plan: Plan, name: str = JOB_NAME) -> JobTicket | None:
    """The ticket of a job, if it has one."""
    return next((ticket for ticket in load_tickets(plan.layout) if ticket.name == name), None)


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - the stack's own address
    try:
        with urlopen(request, timeout=30) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
            return answer
    except OSError as error:
        raise Unavailable("flink", str(error)) from error
