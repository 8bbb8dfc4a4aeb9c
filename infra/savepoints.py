"""Which savepoints stay on disk: of those that our commands took of a job, the newest few.

Only what was written down here is ever removed: savepoints that somebody else took, or whose owner died before this, stay.  A job
that starts from one gets a copy, since Flink deletes what a job has claimed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.jobs import load_tickets
from infra.layout import Layout, read_json
from serving.atomic_write import write_atomically

__all__ = ["KEPT", "claimable", "retain"]

_COPIES = "from-savepoints"
_METADATA = "_metadata"  # makes a snapshot of a folder

KEPT = 3  # the one to go on from, and two to go back to


def retain(layout: Layout, name: str, location: str) -> list[str]:
    """Write down a completed savepoint of the job ``name`` and remove those beyond the newest ``KEPT``; returns what was removed.

    One that a ticket starts from stays, however old: until the job's first checkpoint there is nothing else to restore.
    """
    file = layout.jobs / f"{name}.savepoints"
    known = [*_read(file), location]
    needed = {ticket.restore_from for ticket in load_tickets(layout)}
    surplus = [old for old in known[:-KEPT] if old not in needed]
    # first on disk and then from the list: a crash in between leaves a name without a savepoint, which the next call passes over
    for old in surplus:
        _remove(layout, old)
    _write(file, [kept for kept in known if kept not in surplus])
    return surplus


def claimable(layout: Layout, snapshot: str) -> str:
    """What a job may take for its own: of a savepoint a copy, in links to the same files; a checkpoint of its last run as it is.

    The copy of an earlier attempt is completed and used again, for that attempt may be running.
    """
    folder = _folder(snapshot)
    if not folder.is_relative_to(layout.savepoints):
        _complete(layout, folder)
        return snapshot
    copy = layout.checkpoints / _COPIES / folder.relative_to(layout.savepoints)
    copy.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: file.name == _METADATA):  # last: it makes a savepoint of the folder
        _link(file, copy)
    return copy.as_uri()


def _complete(layout: Layout, checkpoint: Path) -> None:
    """Link what a checkpoint believes to lie beside it and what lies in the savepoint that its job began with.

    A job with a changelog that starts from a savepoint names the savepoint's files in its first checkpoints by their bare names (Flink
    2.2.1), until it has written its whole state itself: within one JobManager's life they are found, and by the next one they are not.
    """
    metadata = (checkpoint / _METADATA).read_bytes()
    for root in (layout.savepoints, layout.checkpoints / _COPIES):
        for file in root.rglob("*"):
            name = file.name.encode()
            if file.is_file() and file.name != _METADATA and name in metadata and b"/" + name not in metadata:
                _link(file, checkpoint)


def _link(file: Path, folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(file, folder / file.name)


def _read(file: Path) -> list[str]:
    return list((read_json(file) or {}).get("savepoints", ()))


def _write(file: Path, locations: Collection[str]) -> None:
    write_atomically(file, json.dumps({"savepoints": list(locations)}))


def _remove(layout: Layout, location: str) -> None:
    folder = _folder(location)
    if folder.is_relative_to(layout.savepoints):
        (folder / _METADATA).unlink(missing_ok=True)  # half of a savepoint must not look like a whole one
        shutil.rmtree(folder, ignore_errors=True)


def _folder(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))
