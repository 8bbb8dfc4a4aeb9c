"""promtool and amtool, which check rules and routes: those of the machine, else built once with Go from pinned sources.

The versions and the hashes of every module stand in ``prometheus/tools/go.mod`` and ``go.sum``.  Without Go there are no tools, and
the tests that need them say so.  ``python -m infra.gotools`` builds them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fraud.errors import Unavailable
from infra.settings import REPO_ROOT, default_home

__all__ = ["PACKAGES", "ensure_tools", "find_go", "find_tool"]

_MODULE = REPO_ROOT / "infra" / "prometheus" / "tools"
PACKAGES = {
    "promtool": "github.com/prometheus/prometheus/cmd/promtool",
    "amtool": "github.com/prometheus/alertmanager/cmd/amtool",
}
# promtool would link the client of every cloud to check their kinds of discovery; ours are files and fixed names
_TAGS = "remove_all_sd"
_BUILD_TIMEOUT_S = 1_800.0
_USUAL_PLACES = (Path("/usr/local/go/bin/go"), Path("/usr/lib/go/bin/go"), Path("/opt/homebrew/bin/go"))


def find_go() -> Path | None:
    """The Go of this machine; None when there is none."""
    found = shutil.which("go")
    if found:
        return Path(found)
    return next((path for path in _USUAL_PLACES if os.access(path, os.X_OK)), None)


def find_tool(name: str, home: Path | None = None) -> Path | None:
    """The tool if it can be run now: built earlier into ``home``, or installed on the machine."""
    built = _folder(home) / name
    if built.exists():
        return built
    installed = shutil.which(name)
    return Path(installed) if installed else None


def ensure_tools(say: Callable[[str], None], home: Path | None = None, *, find: Callable[[], Path | None] = find_go) -> bool:
    """Build what is missing; False, with a word on why, when that cannot be done here.

    Raises:
        Unavailable: Go is there and the build failed.
    """
    missing = [name for name in PACKAGES if find_tool(name, home) is None]
    if not missing:
        return True
    go = find()
    if go is None:
        say(f"{' and '.join(missing)}: not on this machine, and no Go to build them; the tests of rules and routes are skipped")
        return False
    say(f"building {' and '.join(missing)} with {go}: once, some minutes")
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    for name in missing:
        partial = folder / f"{name}.{os.getpid()}.part"
        command = [str(go), "build", "-trimpath", "-mod=readonly", "-tags", _TAGS, "-ldflags", "-s -w", "-o", str(partial), PACKAGES[name]]
        environment = {**os.environ, "GOWORK": "off"}
        done = subprocess.run(command, cwd=_MODULE, env=environment, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise Unavailable("go", f"{name} could not be built: {(done.stderr or done.stdout).strip()[-800:]}")
        partial.replace(folder / name)
    return True


def _folder(home: Path | None) -> Path:
    """Where the tools of these very versions lie."""
    versions = hashlib.sha256((_MODULE / "go.sum").read_bytes()).hexdigest()[:12]
    return (home or default_home()) / "tools" / versions


def main() -> int:
    """Build the tools and say where they are."""
    if not ensure_tools(lambda text: print(text, file=sys.stderr)):
        return 1
    for name in PACKAGES:
        print(find_tool(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
