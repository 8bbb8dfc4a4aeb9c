"""Class-data archives of the Java servers: loading classes from one halves the processor time of a server's start.

The bootstrap records them once (``infra.warmup``).  Java checks an archive against the class path that it was recorded with and goes on
without it when they differ, so a missing or old archive costs time and nothing else.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["archive_flags", "archive_path", "kind_of"]


def kind_of(server: str) -> str:
    """Which archive a server uses: all TaskManagers share one."""
    return server.split("-", maxsplit=1)[0]


def archive_path(jars: Path, kind: str) -> Path:
    """Where the archive of one kind of server lies, beside the jars that it mirrors."""
    return jars / "classes" / f"{kind}.jsa"


def archive_flags(jars: Path, kind: str) -> tuple[str, ...]:
    """Options of the Java command; none when nothing was recorded."""
    path = archive_path(jars, kind)
    return (f"-XX:SharedArchiveFile={path}", "-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off") if path.exists() else ()
