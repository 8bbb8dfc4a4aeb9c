"""What the supervisor writes down about each process, and what everybody else reads: pid files and the list of events."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from infra.layout import Layout, read_json, write_json
from infra.processes import Identity, is_alive

__all__ = ["SUPERVISOR", "Event", "Phase", "Record", "append_event", "load_record", "load_records", "read_events", "save_record"]

Phase = Literal["starting", "ready", "backoff", "stopped"]

SUPERVISOR = "supervisor"


@dataclass(frozen=True)
class Record:
    """One process as last seen.

    ``starts`` counts all starts since ``up``, ``failures`` the starts in a row that never got ready.
    """

    name: str
    pid: int | None
    mark: str
    phase: Phase
    starts: int = 0
    failures: int = 0
    started_at: float = 0.0  # seconds of the epoch
    detail: str = ""

    @property
    def identity(self) -> Identity | None:
        """The process itself, to ask whether it lives or to stop it."""
        return None if self.pid is None else Identity(self.pid, self.mark)

    @property
    def alive(self) -> bool:
        """Whether the recorded process, and not a later one with its pid, still runs."""
        identity = self.identity
        return identity is not None and is_alive(identity)


@dataclass(frozen=True)
class Event:
    """Something that happened to a process: started, ready, died, restarting, adopted, stopped, resumed, failed."""

    time: str  # ISO 8601, UTC
    component: str
    event: str
    detail: str = ""


def save_record(layout: Layout, record: Record) -> None:
    """Replace the pid file of ``record.name``."""
    write_json(layout.pid_file(record.name), asdict(record))


def load_record(layout: Layout, name: str) -> Record | None:
    """The pid file of ``name``, or None."""
    saved = read_json(layout.pid_file(name))
    return None if saved is None else Record(**saved)


def load_records(layout: Layout) -> dict[str, Record]:
    """Every pid file of this home by name, the supervisor's included."""
    found = (load_record(layout, path.stem) for path in sorted(layout.pids.glob("*.json")))
    return {record.name: record for record in found if record is not None}


def append_event(layout: Layout, component: str, event: str, detail: str = "", *, at: float | None = None) -> None:
    """Add one line to the events; short lines in append mode are written whole, so that several writers may share the file."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC).isoformat(timespec="milliseconds")
    line = json.dumps(asdict(Event(moment, component, event, detail))) + "\n"
    with layout.events_file.open("a", encoding="utf-8") as file:
        file.write(line)


def read_events(layout: Layout, limit: int = 20) -> list[Event]:
    """The last ``limit`` events, oldest first."""
    try:
        lines = layout.events_file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [Event(**_parse(line)) for line in lines[-limit:] if line.endswith("}")]


def _parse(line: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(line)
    return value
