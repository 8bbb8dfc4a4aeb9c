"""Start, recognise and stop operating-system processes; knows nothing of what they serve.

A process is identified by its pid *and* its start mark: pids are recycled, and killing a stranger is worse than leaving an orphan.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra import shares

__all__ = ["Identity", "identify", "is_alive", "live_members", "start", "stop_groups"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


@dataclass(frozen=True)
class Identity:
    """One process: ``pid`` and a ``mark`` that no later process with the same pid can have."""

    pid: int
    mark: str


def identify(pid: int) -> Identity | None:
    """The identity of a running process; None when there is none, or only its unreaped remains."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, _start_mark(process))
    except _GONE:
        return None


def _start_mark(process: psutil.Process) -> str:
    # Clock ticks since boot do not move when somebody sets the wall clock, which psutil's create_time does.
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii", errors="replace")
        return f"{_BOOT_ID.read_text(encoding='ascii').strip()}/{stat.rsplit(')', 1)[1].split()[19]}"
    except (FileNotFoundError, ProcessLookupError):
        return f"{process.create_time():.2f}"


def is_alive(identity: Identity) -> bool:
    """Whether exactly this process still runs."""
    return identify(identity.pid) == identity


def start(
    argv: Sequence[str], *, environment: Mapping[str, str], folder: Path, log_file: Path, share: shares.Share | None = None
) -> subprocess.Popen[bytes]:
    """Start a process as leader of its own session, so that it outlives its starter and its children stop with it.

    ``share`` is its part of the processor, that of whoever starts it where none is given.
    """
    with_share = () if share is None else (sys.executable, "-I", "-S", str(Path(shares.__file__)), *map(str, share))
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [*with_share, *argv],
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def live_members(identity: Identity) -> list[int]:
    """Pids that still run in the session of ``identity``, which may itself be gone already.

    While any member lives the kernel does not give the session's number to a new process, so a leader's pid that now belongs to
    somebody else means that the session is over.
    """
    leader = identify(identity.pid)
    if leader is not None and leader != identity:
        return []
    return [pid for pid in psutil.pids() if _session_of(pid) == identity.pid and identify(pid) is not None]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def stop_groups(identities: Sequence[Identity], *, grace_s: float, reap: Callable[[], None] = lambda: None) -> list[int]:
    """SIGTERM the sessions, wait up to ``grace_s`` seconds, SIGKILL what is left; returns pids that survived even that.

    ``reap`` is called while waiting: a parent must collect its dead children.
    """
    for identity in identities:
        _signal_members(identity, signal.SIGTERM)
    if _wait_until_gone(identities, grace_s, reap):
        return []
    for identity in identities:
        _signal_members(identity, signal.SIGKILL)
    _wait_until_gone(identities, 5.0, reap)
    return [pid for identity in identities for pid in live_members(identity)]


def _signal_members(identity: Identity, number: signal.Signals) -> None:
    for pid in live_members(identity):
        try:
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # a stopped process would never see its SIGTERM
        except ProcessLookupError:
            continue


def _wait_until_gone(identities: Sequence[Identity], patience_s: float, reap: Callable[[], None]) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        gone = not any(live_members(identity) for identity in identities)
        reap()  # after the look: what counts as gone may still be a zombie, and nobody else collects it
        if gone:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
