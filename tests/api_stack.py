"""The servers that the API talks to, without Flink: Kafka, registry and Redis, and the API itself, each to be stopped and started."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.identity import Role
from infra.api_access import Access
from infra.layout import Layout
from infra.plan import Plan, make_plan, save_plan
from infra.processes import identify, start, stop_groups
from infra.servers import build_servers
from infra.settings import StackSettings
from infra.topics import create_topics

NEEDED = ("kafka", "registry", "redis", "api")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: ``body`` as it came."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class ApiStack:
    """A private set of servers in ``home``."""

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment or {}
        layout = Layout(home)
        layout.create()
        self.plan: Plan = make_plan(layout, StackSettings.on_free_ports())
        save_plan(self.plan)
        self._servers = {server.name: server for server in build_servers(self.plan) if server.name in NEEDED}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.access = Access(layout)
        _, self.key = self.access.key_file.create("acme", "tests", Role.SERVICE)

    @property
    def url(self) -> str:
        return self.plan.addresses.api_url

    def up(self) -> None:
        """Start everything; topics included."""
        for name in NEEDED:
            self._spawn(name)
        for name in NEEDED[:-1]:
            self.wait(name)
        create_topics(self.plan.addresses.bootstrap_servers, partitions=2, retention_ms=3_600_000)
        self.wait("api")

    def _spawn(self, name: str) -> None:
        server = self._servers[name]
        server.folder.mkdir(parents=True, exist_ok=True)
        server.prepare()
        environment = {**server.environment, "FRAUDGUARD_API_TENANT_LIMITS": '{"acme": 1000000}'}
        environment |= {"FRAUDGUARD_API_IP_REQUESTS_PER_MIN": "1000000", "FRAUDGUARD_API_BUFFERED_EVENTS": "50"}
        environment |= self._environment
        self._processes[name] = start(server.argv, environment=environment, folder=server.folder, log_file=self.log(name))

    def log(self, name: str) -> Path:
        return self.plan.layout.log_file(name)

    def wait(self, name: str, timeout_s: float = 90.0) -> None:
        server, process = self._servers[name], self._processes[name]
        begun, deadline = time.time(), time.monotonic() + timeout_s
        while (why := server.probe(begun)) is not None:
            assert process.poll() is None, self.log(name).read_text()[-3000:]
            assert time.monotonic() < deadline, f"{name}: {why}"
            time.sleep(0.1)

    def start(self, name: str) -> None:
        self._spawn(name)
        self.wait(name)

    def stop(self, name: str) -> None:
        """Kill a server as a crash would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def down(self) -> None:
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            identity = identify(process.pid)
            if identity is not None:
                stop_groups([identity], grace_s=10, reap=lambda process=process: process.poll())  # type: ignore[misc]
            process.wait()

    @property
    def api_pid(self) -> int:
        return self._processes["api"].pid

    def ask(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None, key: str | None = None) -> Answer:
        """A request as a service of the tenant acme makes it."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        for name, value in {"Content-Type": "application/json", "X-API-Key": key or self.key, **(headers or {})}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), dict(error.headers))
