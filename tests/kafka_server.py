"""A private Kafka on free ports, with the topics of the system, for tests that need the real one and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from infra.layout import Layout
from infra.plan import make_plan
from infra.servers import build_servers
from infra.settings import StackSettings
from infra.topics import create_topics


class KafkaServer:
    """A broker of our own; ``start`` after ``kill`` comes back with its data on the same port."""

    def __init__(self, folder: Path) -> None:
        layout = Layout(folder)
        layout.create()
        plan = make_plan(layout, StackSettings.on_free_ports(kafka_heap_mb=256))
        self.bootstrap = plan.addresses.bootstrap_servers
        self._server = next(server for server in build_servers(plan) if server.name == "kafka")
        self._log = folder / "kafka.out"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._server.prepare()
        began_s = time.time()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._server.argv, env=dict(self._server.environment), cwd=self._server.folder, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + 60
        while (problem := self._server.probe(began_s)) is not None:
            assert self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline_s, problem
            time.sleep(0.1)
        create_topics(self.bootstrap, partitions=2, retention_ms=604_800_000)

    def pause(self) -> None:
        """Leave it alive and silent until ``resume``."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
