"""``./fraudguard`` as a person runs it on a stack, with ``--json``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.settings import REPO_ROOT


def on_the_command_line(home: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and result of a command over the state in ``home``; nothing where it gave none."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments, "--json"],
        env={**os.environ, "FRAUDGUARD_HOME": str(home)},
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}
