"""The embedded ClickHouse as a process of its own on a free port, for tests; it can be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from pydantic import SecretStr

from analytics.settings import HouseSettings
from analytics.store import prepare
from infra.ports import HOST, find_free_ports
from infra.settings import REPO_ROOT

WRITER_PASSWORD, READER_PASSWORD = "writer's", "reader's"

_PROGRAM = """
import sys
from pathlib import Path
from analytics.accounts import Account, Accounts, ReaderLimits
from analytics.engine import EngineSettings
from analytics.protocol import ProtocolSettings
from analytics.server import serve
from analytics.settings import READER, WRITER
folder, port, writer, reader, seconds = sys.argv[1:]
serve(
    EngineSettings(Path(folder), limits=ReaderLimits(100_000, float(seconds), 300_000_000)),
    Accounts(Account(WRITER, writer, False), Account(READER, reader, True)),
    port=int(port),
    protocol=ProtocolSettings(concurrent_readers=2, wait_s=1.0, max_statement_bytes=100_000, max_insert_bytes=64 << 20),
)
"""


class ClickHouseEngine:
    """``start`` after ``kill`` comes back with its tables on the same port."""

    def __init__(self, folder: Path, *, reader_seconds: float = 20.0) -> None:
        self.port = find_free_ports(1)[0]
        self.url = f"http://{HOST}:{self.port}"
        self._folder = folder / "clickhouse"
        self._log = folder / "clickhouse.out"
        self._reader_seconds = reader_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> HouseSettings:
        return HouseSettings(
            url=self.url, password=SecretStr(WRITER_PASSWORD), reader_password=SecretStr(READER_PASSWORD), answer_timeout_s=30
        )

    def start(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        arguments = [str(self._folder), str(self.port), WRITER_PASSWORD, READER_PASSWORD, str(self._reader_seconds)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *arguments],
                cwd=REPO_ROOT,
                env={**os.environ, "PYTHONPATH": str(REPO_ROOT)},
                stdout=log,
                stderr=log,
            )
        deadline_s = time.monotonic() + 90
        while not self.answers():
            assert self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline_s, "the engine does not answer"
            time.sleep(0.1)

    def migrate(self) -> None:
        prepare(self.settings)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=2) as answer:
                return bool(answer.read() == b"Ok.\n")
        except OSError:
            return False

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=60)

    def pause(self) -> None:
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
