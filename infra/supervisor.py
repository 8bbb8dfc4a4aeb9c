"""Keep the servers of one stack running: start them in parallel, restart what dies, stop them on SIGTERM.

Runs detached as ``python -m infra.supervisor HOME``; ``infra.stack`` starts and stops it.  It never decides what a server is
(``infra.servers``) and never removes data.  If it is killed, its servers go on, and the next ``up`` starts one that adopts them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from fraud.errors import Unavailable
from infra.jobs import JobResumer, count_taskmanagers
from infra.layout import Layout
from infra.plan import Plan, load_plan
from infra.ports import require_free
from infra.processes import Identity, identify, is_alive, start, stop_groups
from infra.records import SUPERVISOR, Phase, Record, append_event, load_record, save_record
from infra.servers import Server, build_servers
from infra.supervisor_metrics import announce_flink, start_exporter, withdraw
from serving import logs

__all__ = ["Backoff", "Crew", "Keeper", "Orders", "run"]

_POLL_S = 0.2
_GRACE_S = 12.0  # Kafka needs a few seconds to hand over; a JVM that needs longer is stuck
_STEADY_S = 30.0
_JOIN_S = 10.0  # a keeper in the middle of a start must not start one more after the sweep

_log = structlog.get_logger()


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next start: doubling from ``first_s`` to ``longest_s``, afresh after a steady run."""

    first_s: float = 0.2
    longest_s: float = 30.0
    steady_s: float = _STEADY_S
    _round: int = 0

    def next(self, ran_s: float) -> tuple[float, Backoff]:
        """The pause after a run of ``ran_s`` seconds, and the state that remembers it."""
        number = 0 if ran_s >= self.steady_s else self._round
        return min(self.first_s * 2.0**number, self.longest_s), replace(self, _round=number + 1)


class Orders:
    """What the supervisor was told from outside: stop, or (SIGHUP, from ``up``) try failed starts again without waiting."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._hurried = 0

    def hurry(self) -> None:
        """End every pause that is going on."""
        self._hurried += 1

    def pause(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Wait, unless told to hurry or to stop, or ``is_over``."""
        hurried, deadline = self._hurried, time.monotonic() + seconds
        while hurried == self._hurried and time.monotonic() < deadline and not is_over() and not self.stopping.wait(_POLL_S):
            pass


class Keeper:
    """Keeps one server running, on a thread of its own, until ``stopping`` is set or it is dismissed.

    ``on_ready`` is called each time a newly started or adopted process is ready.
    """

    def __init__(self, server: Server, layout: Layout, orders: Orders, on_ready: Callable[[Server], None]) -> None:
        self.server = server
        self._layout = layout
        self._orders = orders
        self._stopping = orders.stopping
        self._dismissed = threading.Event()
        self._on_ready = on_ready
        self._child: subprocess.Popen[bytes] | None = None
        self._record = load_record(layout, server.name) or Record(server.name, None, "", "starting")

    @property
    def identity(self) -> Identity | None:
        """The process that runs, or ran last."""
        return self._record.identity

    def reap(self) -> None:
        """Collect the dead child, so that it does not linger as a zombie."""
        if self._child is not None:
            self._child.poll()

    def dismiss(self) -> None:
        """Start the server no more; whoever dismisses it also stops it."""
        self._dismissed.set()

    def mark_stopped(self) -> None:
        """Write down that the process was stopped on purpose."""
        self._save("stopped", pid=None, mark="")

    def _is_over(self) -> bool:
        return self._stopping.is_set() or self._dismissed.is_set()

    def run(self) -> None:
        """Start, wait until ready, wait until dead, pause, again."""
        backoff = Backoff()
        adopted = self._record.alive
        if adopted:
            self._note("adopted", f"pid {self._record.pid}")
        while not self._is_over():
            if not adopted and not self._start():
                pause_s, backoff = backoff.next(0.0)
            else:
                became_ready = self._wait_until_ready(announce=not adopted or self._record.phase != "ready")
                self._wait_until_dead()
                if self._is_over():
                    return
                self._note_death(became_ready=became_ready)
                pause_s, backoff = backoff.next(time.time() - self._record.started_at)
            adopted = False
            self._orders.pause(pause_s, self._dismissed.is_set)

    def _start(self) -> bool:
        try:
            self._stop_leftovers()
            self._save("starting", pid=None, mark="", detail="preparing")
            for port, setting in self.server.ports.items():
                require_free(self.server.name, port, setting)
            self.server.prepare()
            self._child = start(
                self.server.argv,
                environment=self.server.environment,
                folder=self.server.folder,
                log_file=self._layout.log_file(self.server.name),
                share=self.server.share,
            )
        except (Unavailable, OSError, subprocess.SubprocessError) as error:
            self._save("backoff", failures=self._record.failures + 1, detail=str(error))
            self._note("failed", str(error))
            return False
        identity = identify(self._child.pid)
        self._save(
            "starting",
            pid=self._child.pid,
            mark=identity.mark if identity else "",
            starts=self._record.starts + 1,
            started_at=time.time(),
            detail="starting",
        )
        self._note("started", f"pid {self._child.pid}")
        return True

    def _stop_leftovers(self) -> None:
        """Children of a killed server still hold its ports and files."""
        identity = self._record.identity
        if identity is not None:
            stop_groups([identity], grace_s=1.0)

    def _wait_until_ready(self, *, announce: bool) -> bool:
        while not self._is_over() and self._is_running():
            reason = self.server.probe(self._record.started_at)
            if reason is None:
                if announce:
                    self._save("ready", failures=0, detail="")
                    self._note("ready", f"after {time.time() - self._record.started_at:.1f} s")
                self._on_ready(self.server)
                return True
            if reason != self._record.detail:
                self._save(self._record.phase, detail=reason)
            self._stopping.wait(_POLL_S)
        return False

    def _wait_until_dead(self) -> None:
        while not self._is_over() and self._is_running():
            self._stopping.wait(_POLL_S)

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        identity = self._record.identity
        return identity is not None and is_alive(identity)

    def _note_death(self, *, became_ready: bool) -> None:
        how = _describe_exit(None if self._child is None else self._child.returncode)
        failures = 0 if became_ready else self._record.failures + 1
        self._save("backoff", failures=failures, detail=how)
        self._note("died", f"pid {self._record.pid}: {how}, {time.time() - self._record.started_at:.1f} s after its start")
        self._child = None

    def _save(self, phase: Phase, **changes: object) -> None:
        self._record = replace(self._record, phase=phase, **changes)  # type: ignore[arg-type]
        save_record(self._layout, self._record)

    def _note(self, event: str, detail: str) -> None:
        append_event(self._layout, self.server.name, event, detail)
        _log.info("server", process=self.server.name, change=event, detail=detail)


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "gone"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def run(home: Path) -> int:
    """Supervise the stack that ``HOME/run/stack.json`` describes until SIGTERM; returns the exit status."""
    logs.configure(SUPERVISOR)
    layout = Layout(home)
    plan = load_plan(layout)
    if plan is None:
        print(f"no plan in {layout.plan_file}", file=sys.stderr)
        return 2
    orders = Orders()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: orders.stopping.set())
    signal.signal(signal.SIGHUP, lambda *_: orders.hurry())
    try:
        servers = build_servers(plan)
    except Unavailable as error:
        append_event(layout, SUPERVISOR, "failed", str(error))
        raise
    resumer = JobResumer(plan, frozenset(server.name for server in servers), orders.stopping)
    crew = Crew(plan, orders, resumer)
    crew.match(servers)
    resuming = threading.Thread(target=resumer.run, daemon=True)
    resuming.start()
    append_event(layout, SUPERVISOR, "started", f"pid {os.getpid()}")
    _export(plan, crew)
    while not _stops_or_changes(plan, orders.stopping, crew.count_taskmanagers()):
        crew.match(build_servers(plan))
    resuming.join(timeout=10.0)
    crew.stop()
    return 0


class Crew:
    """The keepers of the servers that the stack needs now: tickets of jobs may ask for more TaskManagers, or for fewer."""

    def __init__(self, plan: Plan, orders: Orders, resumer: JobResumer) -> None:
        self._plan = plan
        self._orders = orders
        self._resumer = resumer
        self._kept: dict[str, tuple[Keeper, threading.Thread]] = {}

    @property
    def servers(self) -> list[Server]:
        """Those that are kept running."""
        return [keeper.server for keeper, _ in list(self._kept.values())]

    def count_taskmanagers(self) -> int:
        """How many of them are TaskManagers."""
        return sum(name.startswith("taskmanager") for name in self._kept)

    def match(self, servers: Sequence[Server]) -> None:
        """Keep exactly ``servers`` running."""
        for name in self._kept.keys() - {server.name for server in servers}:
            self._dismiss(name)
        for server in servers:
            if server.name not in self._kept:
                keeper = Keeper(server, self._plan.layout, self._orders, self._resumer.notice_ready)
                thread = threading.Thread(target=keeper.run, daemon=True)
                self._kept[server.name] = keeper, thread
                announce_flink(self._plan, server)
                thread.start()

    def _dismiss(self, name: str) -> None:
        keeper, thread = self._kept.pop(name)
        keeper.dismiss()
        thread.join(timeout=_JOIN_S)
        _stop([keeper], self._plan.layout)
        append_event(self._plan.layout, name, "stopped", "no job needs its slot")
        self._resumer.notice_dismissed(name)
        withdraw(self._plan.layout, name)

    def stop(self) -> None:
        """Stop everything, after the orders to stop were given."""
        for _, thread in self._kept.values():
            thread.join(timeout=_JOIN_S)
        _stop([keeper for keeper, _ in self._kept.values()], self._plan.layout)


def _export(plan: Plan, crew: Crew) -> None:
    """Serve metrics; a stack without them still runs."""
    try:
        exporter = start_exporter(plan, lambda: crew.servers)
    except OSError as error:
        append_event(plan.layout, SUPERVISOR, "failed", f"no metrics: {error}")
        _log.exception("no_metrics")
    else:
        _log.info("metrics", url=exporter.url)


def _stops_or_changes(plan: Plan, stopping: threading.Event, taskmanagers: int) -> bool:
    """Wait for the signal (True) or for tickets that ask for another number of TaskManagers than there are (False).

    Somebody may also have removed the plan: a stack whose folder is gone has no reason to run on.
    """
    while not stopping.wait(1.0):
        if not plan.layout.plan_file.exists():
            stopping.set()
        elif count_taskmanagers(plan) != taskmanagers:
            return False
    return True


def _stop(keepers: Sequence[Keeper], layout: Layout) -> None:
    """Flink first, since its clients of Kafka and Redis would only log errors; then all the rest."""
    flink = [keeper for keeper in keepers if keeper.server.name.startswith(("jobmanager", "taskmanager"))]
    for group in (flink, [keeper for keeper in keepers if keeper not in flink]):
        identities = [keeper.identity for keeper in group if keeper.identity is not None]
        stop_groups(identities, grace_s=_GRACE_S, reap=partial(_reap, group))
        if layout.pids.exists():
            for keeper in group:
                keeper.mark_stopped()


def _reap(keepers: Sequence[Keeper]) -> None:
    for keeper in keepers:
        keeper.reap()


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
