"""A disk that a test can fill: a tmpfs of some megabytes, where this machine lets us mount one."""

from __future__ import annotations

import errno
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["SmallDisk", "small_disk"]

_BLOCKS = (bytes(64 * 1024), bytes(1))  # the last byte too


class SmallDisk:
    """Mounted at ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Without a byte of room while the block runs, whatever others give back meanwhile."""
        stopping = threading.Event()
        self._fill()
        keeper = threading.Thread(target=self._keep_full, args=(stopping,))
        keeper.start()
        try:
            yield
        finally:
            stopping.set()
            keeper.join()
            self._ballast.unlink()

    def _keep_full(self, stopping: threading.Event) -> None:
        while not stopping.wait(0.05):
            self._fill()

    def _fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            for block in _BLOCKS:
                try:
                    while True:
                        ballast.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A disk until the block ends; whoever writes to it must be gone by then.  Skips the test where we may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
