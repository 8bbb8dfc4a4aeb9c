"""Erasure in ClickHouse: rows older than what the ledger says was erased go, and none of them comes in again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import polars as pl

from analytics.erasure import GONE, ROW, Forgotten
from analytics.ledger_rows import Extracted
from analytics.store import Store
from serving import ledger

__all__ = ["Eraser"]


class Eraser:
    """Of one sink, which has no other writer beside it; every method raises Unavailable when ClickHouse does not answer."""

    def __init__(self, store: Store) -> None:
        self.deleted: Counter[str] = Counter()  # rows by table
        self._store = store
        self._forgotten = Forgotten()

    def begin(self) -> None:
        """Learn who was erased, and delete what a writer that was killed has still brought back."""
        self._forgotten = Forgotten(self._store.erased())
        if self._forgotten:
            self.deleted.update(self._store.forget(pl.DataFrame(schema=GONE)))

    def erase(self, extracted: Mapping[str, Extracted]) -> dict[str, pl.DataFrame]:
        """Apply the erasures of a batch, which are written already, to what is there.

        Returns the records of each other topic that must not be written: tenant_id, decision_id, version.
        """
        batch = dict(extracted)
        asked = batch.pop(ledger.ERASURES_APPLIED, None)
        erasures = None if asked is None else asked.positions()
        if erasures is not None:
            self._forgotten.remember(erasures)
        if not self._forgotten:
            return {topic: pl.DataFrame(schema=ROW) for topic in batch}
        older = {topic: self._forgotten.older(found.positions()) for topic, found in batch.items()}
        gone = [older[topic] for topic in (ledger.DECISIONS, ledger.SHADOWS) if topic in older]
        if erasures is not None:
            gone.append(self._forgotten.older(self._store.positions_of(erasures)))
        if erasures is not None or any(len(some) for some in gone):
            self.deleted.update(self._store.forget(pl.concat(gone).select(GONE.keys())))
        if ledger.LABELS_APPLIED in older:
            older[ledger.LABELS_APPLIED] = pl.concat(
                [older[ledger.LABELS_APPLIED].select(ROW.keys()), self._of_erased_decisions(batch[ledger.LABELS_APPLIED])]
            ).unique()
        return older

    def _of_erased_decisions(self, labels: Extracted) -> pl.DataFrame:
        """Those that came before the erasure: a label names no device and no address, so its own numbers do not tell."""
        rows = labels.positions().select(ROW.keys()).unique()
        of_erased = rows.join(self._store.gone_among(rows), on=["tenant_id", "decision_id"])
        return of_erased.filter(pl.col("version") <= pl.col("until")).select(ROW.keys())
