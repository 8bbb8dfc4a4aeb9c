"""What the fault tests do to the servers of a stack: kill, stop and continue them, by the name under which ``status`` lists them.

The supervisor brings back what is killed; nothing here starts or repairs anything.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fraud.errors import Unavailable
from infra.layout import Layout
from infra.records import load_record

__all__ = ["freeze", "kill", "live_pid"]

_PATIENCE_S = 120.0
_POLL_S = 0.05


def live_pid(layout: Layout, name: str) -> int:
    """Pid of a server that is ready; waits for one that is just being restarted, and raises Unavailable when that takes long."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        record = load_record(layout, name)
        if record is not None and record.pid is not None and record.phase == "ready" and record.alive:
            return record.pid
        time.sleep(_POLL_S)
    raise Unavailable(name, f"it did not come back within {_PATIENCE_S:g} s")


def kill(layout: Layout, name: str) -> tuple[int, float]:
    """Kill -9 a server; returns the pid that it had and the wall clock of the kill in ms."""
    pid = live_pid(layout, name)
    moment_ms = time.time() * 1000.0
    os.kill(pid, signal.SIGKILL)
    return pid, moment_ms


@contextmanager
def freeze(layout: Layout, name: str) -> Iterator[int]:
    """Stop a server without ending it (SIGSTOP) for the length of the block; yields its pid."""
    pid = live_pid(layout, name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
