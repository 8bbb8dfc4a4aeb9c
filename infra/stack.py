"""Bring the local stack up and down, and tell how it is: the one object that the command line and the tests use."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fraud.errors import Unavailable
from infra.java import find_java_home
from infra.jobs import JobStatus, describe_jobs
from infra.layout import Layout
from infra.plan import Addresses, Plan, load_plan, make_plan, save_plan
from infra.ports import require_free
from infra.processes import identify, live_members, start, stop_groups
from infra.records import SUPERVISOR, Event, Record, append_event, load_record, load_records, read_events, save_record
from infra.servers import Server, build_servers
from infra.settings import REPO_ROOT, StackSettings, default_home
from infra.topics import create_topics
from infra.working_state import give_back

__all__ = ["ComponentStatus", "Progress", "Stack", "StackStatus", "UpResult"]

Health = Literal["healthy", "starting", "unhealthy", "dead"]
State = Literal["up", "partial", "down"]
Progress = Callable[[str], None]

_POLL_S = 0.2
_GIVE_UP_AFTER = 3  # starts in a row that never got ready: waiting longer would not help
_TASKMANAGER_GRACE_S = 12.0
_SUPERVISOR_GRACE_S = 40.0  # it stops two groups in turn, each with its own grace


@dataclass(frozen=True)
class ComponentStatus:
    """One process of the stack; ``since`` is its start in seconds of the epoch."""

    name: str
    health: Health
    pid: int | None
    port: int
    url: str
    restarts: int
    since: float | None
    detail: str


@dataclass(frozen=True)
class StackStatus:
    """The whole stack; ``events`` are the last things that the supervisor saw or did."""

    state: State
    home: str
    supervisor_pid: int | None
    components: tuple[ComponentStatus, ...]
    addresses: Addresses | None
    jobs: tuple[JobStatus, ...]
    events: tuple[Event, ...]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class UpResult:
    """What ``up`` did: ``already`` when there was nothing to do."""

    already: bool
    seconds: float
    addresses: Addresses


def _silent(_text: str) -> None:
    return


class Stack:
    """The stack of one home folder; any number of them may run side by side on different ports."""

    def __init__(self, home: Path | None = None, settings: StackSettings | None = None) -> None:
        self.layout = Layout((home or default_home()).resolve())
        self._settings = settings
        self._supervisor: subprocess.Popen[bytes] | None = None  # when this process started it, it must also reap it

    @property
    def settings(self) -> StackSettings:
        """What a fresh start would use; raises Denied when the environment asks for what cannot be."""
        return self._settings or StackSettings.from_environment()

    @property
    def plan(self) -> Plan:
        """The plan of the running stack; ``Unavailable`` when there is none."""
        plan = load_plan(self.layout)
        if plan is None:
            raise Unavailable("stack", "it is not up; start it with ./fraudguard up")
        return plan

    @property
    def addresses(self) -> Addresses:
        """Where the servers of the running stack answer; ``Unavailable`` when there is none."""
        return self.plan.addresses

    def up(self, progress: Progress = _silent) -> UpResult:
        """Start what is not running and return when everything can work; nothing happens when it already does.

        Raises ``Unavailable`` (``PortTaken`` among them) with the reason and the way out.  What was started stays, so that
        ``status`` can tell and a second ``up`` can finish.
        """
        began = time.monotonic()
        self.layout.home.mkdir(parents=True, exist_ok=True)
        with self._lock(progress):
            already = self._is_running()
            if already:
                self._hurry_supervisor()
            else:
                self._start_supervisor(progress)
            plan = self.plan
            waited = self._wait_until_ready(plan, progress)
            created = create_topics(
                plan.addresses.bootstrap_servers, partitions=plan.settings.partitions, retention_ms=plan.settings.retention_ms
            )
            return UpResult(already and not waited and not created, time.monotonic() - began, plan.addresses)

    def down(self, *, wipe: bool = False, progress: Progress = _silent) -> bool:
        """Stop every process of the stack; ``wipe`` also removes its data, logs and checkpoints.  Returns whether anything ran.

        Raises ``Unavailable`` when a process survives even SIGKILL.
        """
        if not self.layout.home.exists():
            return False
        with self._lock(progress):
            records = load_records(self.layout)
            ran = any(record.identity and live_members(record.identity) for record in records.values())
            if ran:
                progress("stopping the stack")
            self._stop_supervisor(records.get(SUPERVISOR))
            self._sweep()
            plan = load_plan(self.layout)
            if plan is not None:
                give_back(plan.working_state)
            self.layout.plan_file.unlink(missing_ok=True)
            if wipe:
                progress(f"removing {self.layout.run}")
                shutil.rmtree(self.layout.run, ignore_errors=True)
            return ran

    def status(self) -> StackStatus:
        """Ask every server now; takes at most a few seconds when some do not answer."""
        plan = load_plan(self.layout)
        records = load_records(self.layout)
        supervisor = records.get(SUPERVISOR)
        if plan is None:
            return StackStatus("down", str(self.layout.home), None, (), None, (), tuple(read_events(self.layout)))
        with ThreadPoolExecutor(16) as pool:
            components = tuple(pool.map(lambda server: _inspect(server, records.get(server.name)), build_servers(plan)))
        return StackStatus(
            state=_summarise(components),
            home=str(self.layout.home),
            supervisor_pid=supervisor.pid if supervisor and supervisor.alive else None,
            components=components,
            addresses=plan.addresses,
            jobs=tuple(describe_jobs(self.layout, plan.addresses.flink_rest_url)),
            events=tuple(read_events(self.layout)),
        )

    def require_supervisor(self) -> None:
        """Raise ``Unavailable`` unless somebody starts and stops servers here."""
        if not self._is_running():
            raise Unavailable(SUPERVISOR, "it does not run; ./fraudguard up brings it back")

    def restart_taskmanagers(self, why: str) -> None:
        """Stop every TaskManager; the supervisor starts them again at once, and ``settle`` waits for them."""
        identities = []
        for record in load_records(self.layout).values():
            if record.name.startswith("taskmanager") and record.identity is not None:
                append_event(self.layout, record.name, "restarting", why)
                identities.append(record.identity)
        survivors = stop_groups(identities, grace_s=_TASKMANAGER_GRACE_S)
        if survivors:
            raise Unavailable("stack", f"TaskManagers {survivors} survived SIGKILL; stop them by hand")

    def settle(self, progress: Progress = _silent) -> None:
        """Wait until the supervisor runs exactly the servers that the tickets of jobs ask for, and all of them work.

        Starts nothing itself, so that it does not undo a ``down`` of somebody else; raises ``Unavailable`` as ``up`` does.
        """
        plan = self.plan
        deadline = time.monotonic() + plan.settings.start_timeout_s
        wanted = {server.name for server in build_servers(plan)} | {SUPERVISOR}
        while surplus := [record.name for record in load_records(self.layout).values() if record.alive and record.name not in wanted]:
            self._raise_if_supervisor_died(load_record(self.layout, SUPERVISOR))
            if time.monotonic() > deadline:
                raise Unavailable("stack", f"{', '.join(surplus)} should have been stopped and still runs")
            time.sleep(_POLL_S)
        self._wait_until_ready(plan, progress)

    @contextmanager
    def _lock(self, progress: Progress) -> Iterator[None]:
        """One ``up`` or ``down`` at a time per home."""
        with self.layout.lock_file.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("another up or down is at work here; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_running(self) -> bool:
        supervisor = load_record(self.layout, SUPERVISOR)
        return load_plan(self.layout) is not None and supervisor is not None and supervisor.alive

    def _start_supervisor(self, progress: Progress) -> None:
        self.layout.create()
        plan = self._adopt_plan() or make_plan(self.layout, self.settings)
        find_java_home()
        self._check_ports(plan)
        save_plan(plan)
        self._forget_counts()
        progress("starting the supervisor")
        child = start(
            [str(plan.python), "-m", "infra.supervisor", str(self.layout.home)],
            environment={**os.environ, "PYTHONUNBUFFERED": "1"},
            folder=REPO_ROOT,
            log_file=self.layout.log_file(SUPERVISOR),
        )
        identity = identify(child.pid)
        save_record(
            self.layout, Record(SUPERVISOR, child.pid, identity.mark if identity else "", "ready", starts=1, started_at=time.time())
        )
        self._supervisor = child

    def _forget_counts(self) -> None:
        """Restarts and failures count from this start on; a dead leader's pid stays known, for its group may have members left."""
        for record in load_records(self.layout).values():
            if not record.alive:
                save_record(self.layout, replace(record, phase="starting", starts=0, failures=0))

    def _hurry_supervisor(self) -> None:
        """Have failed starts tried again now: whoever says ``up`` once more may have removed the cause."""
        records = load_records(self.layout)
        if any(record.phase == "backoff" for record in records.values()):  # else it may not listen to signals yet
            os.kill(records[SUPERVISOR].pid or 0, signal.SIGHUP)

    def _adopt_plan(self) -> Plan | None:
        """The saved plan while any server of it still lives: its ports are in use.  Otherwise the settings of now count."""
        plan = load_plan(self.layout)
        if plan is None:
            self._sweep()  # servers without a plan have no known ports; they are leftovers of an interrupted down
            return None
        alive = any(record.alive for record in load_records(self.layout).values())
        return plan if alive else None

    def _check_ports(self, plan: Plan) -> None:
        records = load_records(self.layout)
        for server in build_servers(plan):
            record = records.get(server.name)
            if record is None or not record.alive:
                for port, setting in server.ports.items():
                    require_free(server.name, port, setting)

    def _wait_until_ready(self, plan: Plan, progress: Progress) -> bool:
        """Whether anything had to be waited for."""
        deadline = time.monotonic() + plan.settings.start_timeout_s
        names = [server.name for server in build_servers(plan)]
        before = {name: record.failures for name, record in load_records(self.layout).items()}
        ready: set[str] = set()
        waited = False
        while True:
            records = load_records(self.layout)
            for name in names:
                record = records.get(name)
                if record is None or record.phase != "ready" or not record.alive:
                    ready.discard(name)
                    self._raise_if_hopeless(record, before.get(name, 0))
                elif name not in ready:
                    ready.add(name)
                    if waited:
                        progress(f"{name} is ready ({len(ready)} of {len(names)})")
            # The supervisor does not look again at a server that was ready once; a TaskManager may have lost its JobManager since.
            if len(ready) == len(names) and self.status().state == "up":
                return waited
            self._raise_if_supervisor_died(records.get(SUPERVISOR))
            if time.monotonic() > deadline:
                raise Unavailable("stack", self._explain_timeout(plan, [name for name in names if name not in ready], records))
            waited = True
            time.sleep(_POLL_S)

    def _raise_if_hopeless(self, record: Record | None, failures_before: int) -> None:
        if record is not None and record.failures - failures_before >= _GIVE_UP_AFTER:
            way_out = "Remove the cause and run ./fraudguard up again, or ./fraudguard down"
            raise Unavailable(record.name, f"it does not start ({record.detail}).\n{self._tail(record.name)}\n{way_out}")

    def _raise_if_supervisor_died(self, record: Record | None) -> None:
        if record is None or not record.alive:
            raise Unavailable(SUPERVISOR, f"it ended before the stack was up.\n{self._tail(SUPERVISOR)}")

    def _explain_timeout(self, plan: Plan, names: list[str], records: dict[str, Record]) -> str:
        reasons = ", ".join(f"{name} ({records[name].detail if name in records else 'not started'})" for name in names)
        return f"not ready after {plan.settings.start_timeout_s:.0f} s: {reasons}. Logs are in {self.layout.logs}"

    def _tail(self, name: str, lines: int = 15) -> str:
        path = self.layout.log_file(name)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return f"It left no log in {path}"
        return "\n".join([f"The end of {path}:", *text.splitlines()[-lines:]])

    def _stop_supervisor(self, record: Record | None) -> None:
        if record is not None and record.identity is not None:
            stop_groups([record.identity], grace_s=_SUPERVISOR_GRACE_S, reap=self._reap_supervisor)
        self._reap_supervisor()

    def _reap_supervisor(self) -> None:
        if self._supervisor is not None:
            self._supervisor.poll()

    def _sweep(self) -> None:
        """Stop whatever the supervisor left, or could not stop because it was killed itself."""
        records = load_records(self.layout)
        identities = [record.identity for record in records.values() if record.identity is not None]
        survivors = stop_groups(identities, grace_s=10.0, reap=self._reap_supervisor)
        if survivors:
            raise Unavailable("stack", f"processes {survivors} survived SIGKILL; stop them by hand")
        if any(record.name != SUPERVISOR and record.pid is not None for record in records.values()):
            append_event(self.layout, "stack", "stopped", "leftover processes")
        for name in records:
            self.layout.pid_file(name).unlink(missing_ok=True)


def _inspect(server: Server, record: Record | None) -> ComponentStatus:
    alive = record is not None and record.alive
    detail = record.detail if record else "not started"
    health: Health = "dead"
    if record is not None and alive:
        reason = server.probe(record.started_at)
        health = "healthy" if reason is None else "starting" if record.phase == "starting" else "unhealthy"
        detail = reason or ""
    return ComponentStatus(
        name=server.name,
        health=health,
        pid=record.pid if record and alive else None,
        port=server.port,
        url=server.url,
        restarts=max(0, record.starts - 1) if record else 0,
        since=record.started_at if record and alive else None,
        detail=detail,
    )


def _summarise(components: tuple[ComponentStatus, ...]) -> State:
    if all(component.health == "healthy" for component in components):
        return "up"
    return "down" if all(component.health == "dead" for component in components) else "partial"
