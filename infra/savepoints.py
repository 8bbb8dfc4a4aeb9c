"""Which savepoints stay on disk: of those that our commands took of a job, the newest few.

Only what was written down here is ever removed: savepoints that somebody else took, or whose owner died before this, stay.  A job
that starts from one gets a copy, since Flink deletes what a job has claimed.
"""

from __future__ import annotations

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
        return snapshot
    copy = layout.checkpoints / "from-savepoints" / folder.relative_to(layout.savepoints)
    copy.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: file.name == "_metadata"):  # last: it makes a savepoint of the folder
        if not (copy / file.name).exists():
            os.link(file, copy / file.name)
    return copy.as_uri()


def _read(file: Path) -> list[str]:
    return list((read_json(file) or {}).get("savepoints", ()))


def _write(file: Path, locations: Collection[str]) -> None:
    write_atomically(file, json.dumps({"savepoints": list(locations)}))


def _remove(layout: Layout, location: str) -> None:
    folder = _folder(location)
    if folder.is_relative_to(layout.savepoints):
        (folder / "_metadata").unlink(missing_ok=True)  # half of a savepoint must not look like a whole one
        shutil.rmtree(folder, ignore_errors=True)


def _folder(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))
