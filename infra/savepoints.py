"""Which savepoints stay on disk: of those that our commands took of a job, the newest few; Flink itself never deletes one.

Only what was written down here is ever removed: savepoints that somebody else took, or whose owner died before this, stay.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.jobs import load_tickets
from infra.layout import Layout, read_json
from serving.atomic_write import write_atomically

__all__ = ["KEPT", "retain"]

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


def _read(file: Path) -> list[str]:
    return list((read_json(file) or {}).get("savepoints", ()))


def _write(file: Path, locations: Collection[str]) -> None:
    write_atomically(file, json.dumps({"savepoints": list(locations)}))


def _remove(layout: Layout, location: str) -> None:
    folder = Path(unquote(urlsplit(location).path))
    if folder.is_relative_to(layout.savepoints):
        (folder / "_metadata").unlink(missing_ok=True)  # half of a savepoint must not look like a whole one
        shutil.rmtree(folder, ignore_errors=True)
