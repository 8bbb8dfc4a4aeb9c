"""The committed ledger into the lake: from where each table stands to where the ledger ends now, and what was erased goes.

Not a process but a command: a lake is asked for months, not for this second.  Whoever wants it every minute calls it every minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from analytics.erasure import Forgotten
from analytics.lag import Place, behind, topic_ids
from analytics.lake import Lake, Subject
from analytics.lake_rows import LakeRows
from analytics.ledger_reader import Batch, LedgerReader
from analytics.ledger_rows import LedgerRows, Tables, Value
from serving import ledger
from serving.codec import Codec
from training.ledger_history import LEDGER_TOPICS

__all__ = ["Synced", "sync"]

_BATCH_RECORDS = 20_000
_LINGER_S = 0.5


@dataclass(slots=True)
class Synced:
    """What one run brought: rows by table, decisions deleted because somebody was erased, records that say nothing we can read."""

    rows: dict[str, int] = field(default_factory=dict)
    erased: int = 0
    rejected: int = 0


def sync(bootstrap_servers: str, codec: Codec, lake: Lake, on_behind: Callable[[int], None]) -> Synced:
    """Bring the lake up to the ledger's end as it is at the start; ``on_behind`` hears how many records are to come.

    Erasures are read from their first on, every time: whoever was erased is looked for again, in case an earlier run ended before.

    Raises:
        Unavailable: Kafka or the storage does not answer; what was committed stays, and the next run goes on from there.
    """
    lake.prepare()
    lake.finish_erasure()
    ids = topic_ids(bootstrap_servers, LEDGER_TOPICS)
    ends = ledger.end_offsets(bootstrap_servers, LEDGER_TOPICS)
    places = [Place(end.topic, ids[end.topic], end.partition) for end in ends]
    done = lake.offsets([place for place in places if place.topic != ledger.ERASURES_APPLIED])
    reader = LedgerReader(bootstrap_servers, ids, done)
    ledger_rows = LedgerRows(codec)
    synced, erased, rows = Synced(), _Erased(ledger_rows), LakeRows(ledger_rows)
    try:
        while left := sum(behind(ids, ends, done).values()):
            on_behind(left)
            batch = reader.read(_BATCH_RECORDS, _LINGER_S)
            _append(lake, rows, batch, synced)
            erased.note(batch)
            done |= batch.moved
    finally:
        reader.close()
    # only now: what is older than an erasure was committed before it, and so is here
    synced.erased = erased.leave(lake)
    return synced


def _append(lake: Lake, rows: LakeRows, batch: Batch, synced: Synced) -> None:
    tables: Tables = {}
    for topic, extract in ((ledger.DECISIONS, rows.decisions), (ledger.LABELS_APPLIED, rows.labels)):
        found = extract(batch.values.get(topic, []))
        tables |= found.tables
        synced.rejected += len(found.rejects)
    lake.append(tables, batch.moved)
    for name, table in tables.items():
        synced.rows[name] = synced.rows.get(name, 0) + table.num_rows


class _Erased:
    """Whom the stream has erased, as far as a run has read."""

    def __init__(self, rows: LedgerRows) -> None:
        self._rows = rows
        self._forgotten = Forgotten()
        self._subjects: set[Subject] = set()

    def note(self, batch: Batch) -> None:
        """Take note of a batch's erasures."""
        values = batch.values.get(ledger.ERASURES_APPLIED)
        if not values:
            return
        found = self._rows.erasures(values).positions()
        self._forgotten.remember(found)
        for tenant_id, kind, key in found.select("tenant_id", "kind", "key").iter_rows():
            self._subjects.add(Subject(tenant_id, kind, key.removeprefix(f"{tenant_id}|")))

    def leave(self, lake: Lake) -> int:
        """Delete what is older than its subject's erasure, a tenant's in one go; returns how many decisions went."""
        older: dict[str, set[str]] = {}
        for subject in self._subjects:
            older.setdefault(subject.tenant_id, set()).update(self._older(lake.values_of(subject)))
        return sum(lake.delete(tenant_id, sorted(decision_ids)) for tenant_id, decision_ids in sorted(older.items()))

    def _older(self, values: list[Value]) -> list[str]:
        """The decisions of a subject to be erased."""
        if not values:
            return []
        ids: list[str] = self._forgotten.older(self._rows.decisions(values).positions())["decision_id"].to_list()
        return ids
