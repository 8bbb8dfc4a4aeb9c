"""``features backfill``: over a file or over what was recorded, with a check against what somebody else computed.

Composition only; the computation is ``training.backfill``'s, the comparison ``training.parity``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from analytics.history import EventHistory
from fraud.catalogue import CATALOGUE
from fraud.events import KINDS
from infra.replay import read_for_replay
from serving.enrich import Enricher
from serving.history import labels_from_history
from training import backfill
from training.enrichment import enrich_frame
from training.parity import compare

__all__ = ["backfill_file", "backfill_recorded"]

_ROWS_PER_GROUP = 100_000

Say = Callable[[str], None]


def backfill_file(
    path: Path,
    *,
    out: Path | None,
    check: Path | None,
    limit: int | None,
    label_delay_ms: int | None,
    enricher: Enricher,
    mapping: str | None = None,
    say: Say,
) -> dict[str, Any]:
    """Features of a history file in file order; ``label_delay_ms`` None leaves the labels out."""
    began = time.perf_counter()
    frame = enrich_frame(read_for_replay(path, mapping, limit=limit, tenant=None), enricher)
    say(f"read {frame.height:,} transactions")
    labels = backfill.no_labels() if label_delay_ms is None else backfill.label_table(labels_from_history(frame, label_delay_ms))
    events = backfill.event_matrix(frame)
    first = backfill.first_occurrences(events)
    repeated = int((~first).sum())
    if repeated:
        frame, events = frame.filter(pl.Series(first)), np.ascontiguousarray(events[first])
    result = backfill.run(events, labels, backfill.file_order(events, labels))
    computed_s = time.perf_counter() - began
    say(f"computed {CATALOGUE.size} features of {len(events):,} events in {computed_s:.1f} s")
    report: dict[str, Any] = {
        "order": "file",
        "events": len(events),
        "labels": len(labels.facts),
        "repeated": repeated,
        "features": CATALOGUE.size,
        "catalogue_version": CATALOGUE.version,
        "seconds": round(computed_s, 2),
        "events_per_s": round(len(events) / computed_s),
    }
    if out is not None:
        write_features(out, frame, result)
        report |= {"out": str(out), "seconds_with_writing": round(time.perf_counter() - began, 2)}
    if check is not None:
        report |= asdict(compare(frame, result.features, pl.read_parquet(check)))
    return report


def backfill_recorded(
    source: EventHistory, *, out: Path | None, check: Path | None, say: Say, on_read: Callable[[float], None] = lambda _done: None
) -> dict[str, Any]:
    """Features of every committed decision, in the order that the ledger recorded; always compared with the record itself.

    Raises:
        IncompleteLedger: an entity's numbering has gaps.
    """
    began = time.perf_counter()
    history = source.read(on_read)
    say(f"read {history.frame.height:,} decisions and {len(history.labels.facts):,} applied labels")
    history.check_complete()
    result = history.recompute()
    seconds = time.perf_counter() - began
    report: dict[str, Any] = {
        "order": "ledger",
        "events": len(history.events),
        "labels": len(history.labels.facts),
        "duplicates": history.repeated,
        "features": CATALOGUE.size,
        "catalogue_version": CATALOGUE.version,
        "seconds": round(seconds, 2),
        "events_per_s": round(len(history.events) / seconds),
        "of_other_catalogue_versions": int((~history.of_this_catalogue).sum()),
        "answered_early_by_api": len(history.early.rows),
        "answered_without_store": int(history.blind.sum()),
        "differing_from_record": int(history.differing(result.features).sum()),
    }
    if out is not None:
        write_features(out, history.frame, result)
        report["out"] = str(out)
    if check is not None:
        report |= asdict(compare(history.frame, result.features, pl.read_parquet(check)))
    return report


def write_features(path: Path, frame: pl.DataFrame, result: backfill.Backfill) -> None:
    """Parquet with the ids, the entities' numbers and one column a feature; NaN is missing."""
    names = {f"{kind}_seq": result.seqs[:, i] for i, kind in enumerate(KINDS)}
    schema = pa.schema(
        [("tenant_id", pa.string()), ("transaction_id", pa.string()), ("event_time_ms", pa.int64())]
        + [(name, pa.int64()) for name in names]
        + [(name, pa.float64()) for name in CATALOGUE.names]
    )
    tenants = frame["tenant_id"].to_arrow().cast(pa.string())
    ids = frame["transaction_id"].cast(pl.String).to_arrow().cast(pa.string())
    times = pa.array(frame["event_time_ms"].to_numpy())
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
        for start in range(0, frame.height, _ROWS_PER_GROUP):
            rows = slice(start, min(start + _ROWS_PER_GROUP, frame.height))
            columns: list[NDArray[Any]] = [seqs[rows] for seqs in names.values()]
            columns += list(np.ascontiguousarray(result.features[rows].T))
            length = rows.stop - rows.start
            table = pa.table([tenants.slice(start, length), ids.slice(start, length), times.slice(start, length), *columns], schema=schema)
            writer.write_table(table)
