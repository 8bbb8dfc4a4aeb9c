"""Values of the ledger's topics to rows of the lake's tables, as Arrow tables: columns for everybody, the record itself for us."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from analytics.ledger_rows import Extracted, LedgerRows, Value
from serving import ledger

__all__ = ["SCHEMAS", "TOPIC_OF", "LakeRows"]

_MOMENT = pa.timestamp("us", "UTC")
_KEY = [("tenant_id", pa.string()), ("decision_id", pa.string()), ("transaction_id", pa.string())]
_PLACE = [("day", pa.date32()), ("recorded_at", _MOMENT), ("partition", pa.int32()), ("offset", pa.int64())]
_TRANSACTION = [
    *(("event_time", _MOMENT), ("card_id", pa.string()), ("merchant_id", pa.string()), ("user_id", pa.string())),
    *(("device_id", pa.string()), ("amount_minor", pa.int64()), ("currency", pa.string()), ("currency_exponent", pa.int16())),
    *(("base_minor", pa.int64()), ("transaction_type", pa.string()), ("channel", pa.string()), ("declined", pa.bool_())),
    *(("merchant_name", pa.string()), ("merchant_mcc", pa.int32()), ("merchant_country", pa.string()), ("city", pa.string())),
    *(("country", pa.string()), ("lat", pa.float64()), ("lon", pa.float64()), ("ip_hash", pa.string()), ("ip_country", pa.string())),
    *(("card_type", pa.string()), ("card_country", pa.string()), ("card_age_days", pa.int32()), ("billing_country", pa.string())),
    *(("known_fraud", pa.bool_()), ("scenario", pa.string())),
]
_DECISION = [
    *(("outcome", pa.string()), ("score", pa.float64()), ("model_score", pa.float64()), ("rules_score", pa.float64())),
    *(("degraded", pa.string()), ("late_event", pa.bool_()), ("model_sha256", pa.string()), ("rule_set_hash", pa.string())),
    *(("code_version", pa.string()), ("door", pa.string())),
]
_RECORD = [("record", pa.binary())]  # the value as the ledger has it: what backfill and backtest read

SCHEMAS = {
    "transactions": pa.schema([*_KEY, *_PLACE, *_TRANSACTION, *_DECISION, *_RECORD]),
    "ml_features": pa.schema(
        [*_KEY, *_PLACE, ("event_time", _MOMENT), ("catalogue_version", pa.string()), ("features", pa.list_(pa.float64()))]
    ),
    "labels": pa.schema(
        [
            *_KEY,
            *_PLACE,
            ("label_time", _MOMENT),
            ("transaction_time", _MOMENT),
            ("is_fraud", pa.bool_()),
            ("source", pa.string()),
            *_RECORD,
        ]
    ),
}
TOPIC_OF = {"transactions": ledger.DECISIONS, "ml_features": ledger.DECISIONS, "labels": ledger.LABELS_APPLIED}


class LakeRows:
    """Reads records of the topics ``fraud-events`` and ``labels-applied``."""

    def __init__(self, rows: LedgerRows) -> None:
        self._rows = rows

    def decisions(self, values: Sequence[Value]) -> Extracted:
        """Rows of transactions and ml_features."""
        found = self._rows.decisions(values)
        if not found.tables:
            return found
        transactions, decisions = found.tables["transactions"], found.tables["decisions"]
        own = {name: decisions[name] for name in decisions.column_names if name not in transactions.column_names}
        columns = {name: transactions[name] for name in transactions.column_names} | own | _places(values, found)
        tables = {name: _shaped(columns, SCHEMAS[name]) for name in ("transactions", "ml_features")}
        return Extracted(tables, found.rejects, found.positions)

    def labels(self, values: Sequence[Value]) -> Extracted:
        """Rows of labels."""
        found = self._rows.labels(values)
        if not found.tables:
            return found
        labels = found.tables["labels"]
        columns = {name: labels[name] for name in labels.column_names} | _places(values, found)
        return Extracted({"labels": _shaped(columns, SCHEMAS["labels"])}, found.rejects, found.positions)


def _places(values: Sequence[Value], found: Extracted) -> dict[str, pa.Array]:
    """Where each good record stands, and the record."""
    bad = {(one.partition, one.offset) for one in found.rejects}
    good = [one for one in values if (one.partition, one.offset) not in bad]
    moments = pa.array([1_000 * one.recorded_ms for one in good], pa.int64()).cast(_MOMENT)
    return {
        "day": pc.cast(moments, pa.date32()),
        "recorded_at": moments,
        "partition": pa.array([one.partition for one in good], pa.int32()),
        "offset": pa.array([one.offset for one in good], pa.int64()),
        "record": pa.array([one.value for one in good], pa.binary()),
    }


def _shaped(columns: dict[str, pa.Array | pa.ChunkedArray], schema: pa.Schema) -> pa.Table:
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)
