"""The environment of the peers that ``bench peers`` compares with: made on first use, apart from the one that everything else runs in.

Packages come from ``peers.lock`` and Spark's Kafka connector from ``peers-jars.lock``, both checked against their hashes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fraud.errors import Unavailable
from infra.jars import fetch_jars, parse_lock

__all__ = ["JARS_LOCK", "PEERS_LOCK", "SAME_AS_OURS", "connector_jars", "locked_version", "prepare", "python_of"]

PEERS_LOCK = Path(__file__).resolve().parent / "peers.lock"
JARS_LOCK = Path(__file__).resolve().parent / "peers-jars.lock"
# whatever computes a feature or a score: other versions would compare libraries, and could differ in the last bit
SAME_AS_OURS = frozenset({"numpy", "numba", "llvmlite", "lightgbm", "scipy", "geoip2fast", "pyyaml"})

_STAMP = "peers.sha256"


def python_of(home: Path) -> Path:
    """The interpreter of the peers."""
    return home / "peers-venv" / "bin" / "python"


def connector_jars(home: Path) -> list[Path]:
    """Spark's Kafka connector on disk."""
    return [home / "peers-jars" / jar.part / jar.file_name for jar in parse_lock(JARS_LOCK.read_text(encoding="utf-8"))]


def prepare(home: Path, say: Callable[[str], None]) -> Path:
    """Install what the locks ask for unless it is there, and return the interpreter.

    Raises:
        Unavailable: a package or a jar could not be had; what pip said is in ``peers-venv.log``.
    """
    venv = home / "peers-venv"
    wanted = hashlib.sha256(PEERS_LOCK.read_bytes()).hexdigest()
    stamp = venv / _STAMP
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        say("installing bytewax, Quix Streams and Spark into an environment of their own (1.5 GB, once)")
        _run([sys.executable, "-m", "venv", "--clear", str(venv)], home)
        # the lock is complete, so --no-deps loses nothing
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--no-deps", "--require-hashes"]
        _run([str(python_of(home)), "-m", "pip", "install", *options, "-r", str(PEERS_LOCK)], home)
        stamp.write_text(wanted, encoding="ascii")
    if fetch_jars(parse_lock(JARS_LOCK.read_text(encoding="utf-8")), home / "peers-jars"):
        say("fetched Spark's Kafka connector")
    return python_of(home)


def _run(command: list[str], home: Path) -> None:
    log = home / "peers-venv.log"
    with log.open("ab") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise Unavailable("peers", f"their environment could not be made; see {log}")


def locked_version(package: str) -> str:
    """The version of a package that ``peers.lock`` pins."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", PEERS_LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise Unavailable("peers", f"{package} is not in {PEERS_LOCK.name}")
    return found[1]
