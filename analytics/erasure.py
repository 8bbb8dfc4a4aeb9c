"""Which rows of the ledger belong to somebody who was erased: those with a lower number in the log of the subject.

The stream says at which number it has erased an entity.  The sink reads the topics side by side, so what is older may come later, or
once more after a failure; it is the number that decides, never the order of arrival.  Nothing here keeps a token: a subject is a hash.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from analytics.ledger_rows import Tables
from fraud.events import hash64

__all__ = ["ERASED", "GONE", "ROW", "Forgotten", "without"]

ERASED = {"kind": pl.String, "subject": pl.Int64, "seq": pl.Int64, "version": pl.UInt64}
"""A subject that was erased, at which number of its log, and when the ledger took the record of it (ms)."""

GONE = {"tenant_id": pl.String, "decision_id": pl.String, "until": pl.UInt64}
"""A decision of which every row up to a version goes."""

ROW = {"tenant_id": pl.String, "decision_id": pl.String, "version": pl.UInt64}
"""What a record of the ledger has written, in whichever table."""

# A job that begins from nothing numbers its logs from 1 again.  What is recorded so long after an erasure is not older than it,
# whatever its number says; both stand in one stream, whose transactions last a checkpoint.
_SAME_LOG_MS = 600_000


class Forgotten:
    """The subjects that were erased, as :data:`ERASED`."""

    def __init__(self, erased: pl.DataFrame | None = None) -> None:
        self._erased = pl.DataFrame(schema=ERASED) if erased is None else erased

    def __bool__(self) -> bool:
        return not self._erased.is_empty()

    def remember(self, erasures: pl.DataFrame) -> None:
        """Take more of them: kind, key, seq and version."""
        more = erasures.with_columns(_subjects(erasures["key"])).select(pl.col(name).cast(dtype) for name, dtype in ERASED.items())
        self._erased = pl.concat([self._erased, more]).group_by("kind", "subject").agg(pl.col("seq", "version").max())

    def older(self, positions: pl.DataFrame) -> pl.DataFrame:
        """Of records' positions (as of ``Extracted``) those to be erased: tenant_id, decision_id, version, until."""
        theirs = positions.with_columns(_subjects(positions["key"])).join(self._erased, on=["kind", "subject"], suffix="_erased")
        before = (pl.col("seq").is_null() & (pl.col("version") <= pl.col("version_erased"))) | (pl.col("seq") < pl.col("seq_erased"))
        same_log = pl.col("version") <= pl.col("version_erased") + _SAME_LOG_MS
        return (
            theirs.filter(before & same_log).group_by(ROW.keys()).agg(pl.max_horizontal("version", "version_erased").max().alias("until"))
        )


def without(tables: Tables, gone: pl.DataFrame) -> Tables:
    """The tables' rows but those of the records that are gone (tenant_id, decision_id, version)."""
    if gone.is_empty():
        return tables
    kept = {name: table.filter(_kept(table, gone)) for name, table in tables.items()}
    return {name: table for name, table in kept.items() if table.num_rows}


def _kept(table: pa.Table, gone: pl.DataFrame) -> pa.Array:
    rows = pl.DataFrame({name: pl.from_arrow(table[name]) for name in ROW}).with_columns(pl.col("tenant_id", "decision_id").cast(pl.String))
    marked = rows.join(gone.select(*ROW, gone=pl.lit(value=True)), on=list(ROW), how="left", maintain_order="left")
    return marked["gone"].is_null().to_arrow()


def _subjects(keys: pl.Series) -> pl.Series:
    """``hash64`` of each key; of a key that stands there often, once."""
    known = {key: hash64(key) for key in keys.unique().to_list()}
    return pl.Series("subject", [known[key] for key in keys.to_list()], dtype=pl.Int64)
