"""Decisions as a Parquet file: one row a decision, one column a feature, reasons as lists.

Written in row groups, so a long replay does not have to fit in memory.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.catalogue import CATALOGUE
from fraud.events import KINDS
from serving.records import Decision

__all__ = ["DecisionFile"]

_ROWS = 20_000

_COLUMNS: dict[str, pa.DataType] = {
    "decision_id": pa.string(),
    "tenant_id": pa.string(),
    "transaction_id": pa.string(),
    "card_id": pa.string(),
    "event_time_ms": pa.int64(),
    "outcome": pa.string(),
    "score": pa.float64(),
    "model_score": pa.float64(),
    "rules_score": pa.float64(),
    "floor": pa.string(),
    "degraded": pa.string(),
    "late_event": pa.bool_(),
    "anomaly_score": pa.float64(),
    "model_sha256": pa.string(),
    "rule_set_hash": pa.string(),
    "catalogue_version": pa.string(),
    "reason_codes": pa.list_(pa.string()),
    "reasons": pa.list_(pa.string()),
    "contributions": pa.map_(pa.string(), pa.float64()),
}


class DecisionFile:
    """Writes decisions to ``path``; use as a context manager."""

    def __init__(self, path: Path) -> None:
        seqs = {f"{kind}_seq": pa.int64() for kind in KINDS}
        features = dict.fromkeys(CATALOGUE.names, pa.float64())
        self._schema = pa.schema(list((_COLUMNS | seqs | features).items()))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[Decision] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self._writer.close()

    def add(self, decision: Decision) -> None:
        """Append one decision."""
        self._waiting.append(decision)
        if len(self._waiting) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = self._waiting
        columns: dict[str, Any] = {
            name: [getattr(d, name) for d in rows]
            for name in _COLUMNS
            if name not in ("card_id", "reason_codes", "reasons", "contributions")
        }
        columns["card_id"] = [d.transaction.card_id for d in rows]
        columns["reason_codes"] = [[rule.reason_code for rule in d.rules] for d in rows]
        columns["reasons"] = [[rule.message for rule in d.rules] for d in rows]
        columns["contributions"] = [
            None if d.contributions is None else [(CATALOGUE.names[c.feature], c.value) for c in d.contributions] for d in rows
        ]
        for kind in KINDS:
            columns[f"{kind}_seq"] = [next((p.seq for p in d.entities if p.kind == kind), None) for d in rows]
        features = np.array([d.features for d in rows])
        columns |= {name: features[:, i] for i, name in enumerate(CATALOGUE.names)}
        self._writer.write_table(pa.table({name: columns[name] for name in self._schema.names}, schema=self._schema))
        self._waiting = []
