"""Files that are read at any moment: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Replace the file at ``path`` in one step; its folder is made where it is missing.

    Any number of threads and processes may write the same file: the last one counts.

    Args:
        path: the file.
        content: text is written as UTF-8.
        durable: the content is on the disk before it takes the name, so that a power loss leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # there only when a step above failed
