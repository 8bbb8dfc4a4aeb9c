"""Feast's own feature server, for as long as a bench asks it: in the Redis of the stack, in a process of its own.

It reads plain numbers that were computed beforehand and decides nothing: what a caller would get who keeps finished features in the
store.  Feast's reads are not as of the request (see docs/adr/0001), so its answers are quicker to make than they are right.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from feature_repo.repository import connection_string
from fraud.errors import Unavailable
from infra.feast_server import PROJECT, body
from infra.http_load import HttpLoad, request_bytes
from infra.plan import Plan
from infra.ports import find_free_ports
from infra.processes import identify, start, stop_groups
from infra.settings import REPO_ROOT

__all__ = ["FeatureServer", "feature_server"]

_PATH = "/get-online-features"
_READY_S = 180.0  # it imports Feast twice and writes ten thousand rows
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class FeatureServer:
    """A running one."""

    host: str
    port: int
    pid: int

    def load(self, count: int) -> HttpLoad:
        """Questions for every feature of five entities each."""
        address = f"{self.host}:{self.port}"
        return HttpLoad(self.host, self.port, [request_bytes(_PATH, body(number), {}, address) for number in range(count)])

    def cpu_s(self) -> float:
        """CPU time of its processes so far."""
        leader = psutil.Process(self.pid)
        times = [one.cpu_times() for one in (leader, *leader.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


@contextmanager
def feature_server(plan: Plan) -> Iterator[FeatureServer]:
    """Run one; raises Unavailable when it does not come up."""
    folder, (port,) = plan.layout.home / "bench-peers" / PROJECT, find_free_ports(1)
    argv = [sys.executable, "-m", "infra.feast_server", str(folder), connection_string(plan.addresses.redis_url), str(port)]
    log = plan.layout.log_file("bench-feast")
    folder.mkdir(parents=True, exist_ok=True)
    process = start(argv, environment={**os.environ, "PYTHONPATH": str(REPO_ROOT)}, folder=folder, log_file=log)
    identity = identify(process.pid)
    try:
        server = FeatureServer("127.0.0.1", port, process.pid)
        deadline_s = time.monotonic() + _READY_S
        while not _answers(server):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise Unavailable("feast", f"its feature server does not come up, see {log}")
            time.sleep(0.5)
        yield server
    finally:
        if identity is not None:
            stop_groups([identity], grace_s=_GRACE_S, reap=lambda: _reap(process))
        process.wait()


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.poll()


def _answers(server: FeatureServer) -> bool:
    asked = Request(f"http://{server.host}:{server.port}{_PATH}", body(0), {"Content-Type": "application/json"})
    try:
        with urlopen(asked, timeout=5) as answer:  # noqa: S310 - our own
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
