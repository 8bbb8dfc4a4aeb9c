"""Where TaskManagers keep files that need not outlive them: in memory, where the machine has room."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

__all__ = ["give_back", "memory_folder"]

_TMPFS = Path("/dev/shm")  # noqa: S108 - where Linux mounts one for everybody
_LEAST_FREE_BYTES = 4 * 1024**3


def memory_folder(home: Path) -> Path | None:
    """The folder of one ``home`` in the machine's tmpfs, not made yet; None where there is no tmpfs or less than 4 GiB free in it."""
    try:
        free_bytes = shutil.disk_usage(_TMPFS).free if _TMPFS.is_mount() else 0
    except OSError:
        return None
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    return _TMPFS / f"fraudguard-{name}" if free_bytes >= _LEAST_FREE_BYTES else None


def give_back(folder: Path) -> None:
    """Free what stopped TaskManagers left behind in ``folder``; one with something else in it stays."""
    for left in folder.glob("taskmanager-*"):
        shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty, or gone
        folder.rmdir()
