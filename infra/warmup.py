"""Start every Java server once and record the classes that it loaded: ``python -m infra.warmup JARS_FOLDER``, by the bootstrap.

Also the first proof that the servers run on this machine; a failure is reported and costs no more than slower starts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fraud.errors import Unavailable
from infra.archives import archive_path, kind_of
from infra.layout import Layout
from infra.plan import make_plan, save_plan
from infra.processes import start
from infra.servers import Server, build_servers
from infra.settings import StackSettings
from serving.atomic_write import write_atomically

__all__ = ["record_archives"]

_PATIENCE_S = 180.0
_STOPPED_BY_SIGTERM = 143  # what Java answers after an orderly end, with the archive written


def record_archives(jars: Path) -> list[str]:
    """Record the archive of each kind of Java server; returns the kinds.  ``Unavailable`` when one does not start."""
    for old in archive_path(jars, "any").parent.glob("*.jsa"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="fraudguard-") as folder:
        layout = Layout(Path(folder))
        layout.create()
        plan = make_plan(layout, StackSettings.on_free_ports(taskmanagers=1, jars_dir=jars))
        save_plan(plan)
        servers = [server for server in build_servers(plan) if server.name != "redis"]
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for server in servers:
                running[server.name] = _start(server, layout)
            _wait_until_ready(servers, running)
            for child in running.values():
                child.terminate()
            return [kind_of(name) for name, child in running.items() if _keep(layout, jars, name, child)]
        finally:
            for child in running.values():
                child.kill()
                child.wait()


def _start(server: Server, layout: Layout) -> subprocess.Popen[bytes]:
    server.prepare()
    java, *rest = server.argv
    argv = [java, f"-XX:ArchiveClassesAtExit={_recorded(layout, server.name)}", *rest]
    return start(argv, environment=server.environment, folder=server.folder, log_file=layout.log_file(server.name))


def _recorded(layout: Layout, name: str) -> Path:
    return layout.run / f"{kind_of(name)}.jsa"


def _wait_until_ready(servers: list[Server], running: dict[str, subprocess.Popen[bytes]]) -> None:
    began, waiting = time.time(), list(servers)
    while waiting:
        waiting = [server for server in waiting if server.probe(began) is not None]
        for name, child in running.items():
            if child.poll() is not None:
                raise Unavailable(name, f"it ended with {child.returncode} on its first start")
        if time.time() - began > _PATIENCE_S:
            raise Unavailable(waiting[0].name, f"it did not get ready within {_PATIENCE_S:.0f} s")
        time.sleep(0.2)


def _keep(layout: Layout, jars: Path, name: str, child: subprocess.Popen[bytes]) -> bool:
    """Move a complete archive to the jars."""
    try:
        code = child.wait(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return False
    recorded, kept = _recorded(layout, name), archive_path(jars, kind_of(name))
    if code != _STOPPED_BY_SIGTERM or not recorded.exists():
        return False
    write_atomically(kept, recorded.read_bytes())  # the temporary folder may be on another disk, where no move is atomic
    return True


def main(jars: Path) -> int:
    """Record, and say what happened; never a failure of the bootstrap."""
    began = time.monotonic()
    try:
        kinds = record_archives(jars)
    except (Unavailable, OSError) as error:
        print(f"fraudguard: the trial start did not work, so later starts are slower: {error}", file=sys.stderr)
        return 1
    print(f"fraudguard: trial start of {', '.join(kinds)}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
