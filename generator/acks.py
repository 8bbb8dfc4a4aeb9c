"""What the broker acknowledged, on disk: the sender's half of the evidence that nothing was lost.

One JSON array a line, in order of acknowledgement.  A line counts as written once :meth:`AckLog.sync` has returned.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from fraud.events import Label, Transaction, decision_id

__all__ = ["Ack", "AckLog", "identity_of", "read_acks"]


class Ack(NamedTuple):
    """One acknowledged record.

    ``number`` counts the sends of a run from 0, ``identity`` is that of :func:`identity_of` ("" for bytes that are no record),
    ``offset`` is -1 where the broker did not say (``acks=0``), ``acked_ms`` is wall clock.
    """

    number: int
    identity: str
    topic: str
    partition: int
    offset: int
    acked_ms: float


def identity_of(record: Transaction | Label) -> str:
    """The decision id of a transaction; of a label a text that names it and that no decision id equals."""
    if isinstance(record, Transaction):
        return decision_id(record.tenant_id, record.transaction_id)
    return f"label {record.tenant_id} {record.transaction_id} {record.label_time_ms}"


class AckLog:
    """Appends acknowledgements to ``path``; one thread writes, any may look at ``acked_ms``.

    ``acked_ms`` maps each identity to the wall clock of its first acknowledgement.  Sends are numbered here, so that several
    drivers in turn may share a log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sends = 0
        self.acked_ms: dict[str, float] = {}
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.sync()
        self._file.close()

    def number(self) -> int:
        """The number of the next send."""
        self._sends += 1
        return self._sends - 1

    def write(self, ack: Ack) -> None:
        """Take one acknowledgement."""
        self.acked_ms.setdefault(ack.identity, ack.acked_ms)
        self._file.write(json.dumps(ack) + "\n")

    def sync(self) -> None:
        """Have everything so far on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())


def read_acks(path: Path) -> Iterator[Ack]:
    """Every acknowledgement of a log; a torn last line is none."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield Ack(*json.loads(line))
