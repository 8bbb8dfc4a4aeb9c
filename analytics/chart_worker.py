"""Draws charts in a process of its own, ``python -m analytics.chart_worker``: a chart a line in, a picture a line out.

Drawing takes tens of milliseconds of pure Python.  In the API's process that would be time in which nobody is scored.
The worker ends when its input does, so it outlives nobody.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Any

from analytics.charts import CHARTS, Chart, Place
from fraud.errors import Unavailable

__all__ = ["ChartWorker", "main"]

_PATIENCE_S = 30.0  # matplotlib's first start on a machine looks through its fonts
_ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "MPLCONFIGDIR", "TMPDIR")  # and none of the API's secrets


class ChartWorker:
    """Starts the process with the first chart, and again when it has died; one chart at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def draw(self, chart: Chart) -> str:
        """The picture, as SVG; raises Unavailable."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps([type(chart).__name__, asdict(chart)]) + "\n")
                process.stdin.flush()
                ready, _, _ = select.select([process.stdout], [], [], _PATIENCE_S)
                line = process.stdout.readline() if ready else ""
            except BrokenPipeError:
                line = ""
            if not line:
                self._end()
                raise Unavailable("charts", "the process that draws has ended, or hangs")
            picture: str = json.loads(line)
            return picture

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            command = [sys.executable, "-m", "analytics.chart_worker"]
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def main() -> None:
    """Draw until the input ends."""
    from analytics.drawing import draw  # noqa: PLC0415 - the API starts this and loads no plotting

    for line in sys.stdin:
        name, values = json.loads(line)
        if "places" in values:
            values["places"] = [Place(**place) for place in values["places"]]
        chart: Any = CHARTS[name](**values)
        sys.stdout.write(json.dumps(draw(chart).decode()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
