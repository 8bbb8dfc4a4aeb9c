"""Values of the ledger's topics to rows of ClickHouse's tables, thousands at a time, as Arrow tables.

What columns can be read of is read as columns (:mod:`serving.avro_columns`); the few decisions that carry more, contributions or the
features of another catalogue, are decoded one by one.  The codec stays the authority on what a value says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.currency import CURRENCIES, to_base_minor_batch
from fraud.errors import InvalidEvent
from fraud.events import decision_id, hash64
from serving.avro_columns import Columns
from serving.codec import Codec
from serving.column_decoder import ColumnDecoder
from serving.records import Decision

__all__ = ["IDENTITIES", "Extracted", "LedgerRows", "Reject", "Tables", "Value"]

Ints = NDArray[np.int64]
Tables = dict[str, pa.Table]
Positions = Callable[[], pl.DataFrame]
_FoundIn = Callable[[Columns, Sequence[bytes | None]], tuple[Tables, Positions]]

IDENTITIES = {"card": "card_id", "user": "user_id", "device": "device_id", "ip": "ip_hash"}
"""The kinds of subject that can be erased, and the column of transactions that names one."""

_TX = "transaction."
_SAME = (
    *("card_id", "merchant_id", "user_id", "device_id", "amount_minor", "currency", "transaction_type", "channel", "declined"),
    *("merchant_name", "merchant_mcc", "merchant_country", "city", "country", "lat", "lon", "ip_hash", "ip_country", "ip_region"),
    *("ip_asn", "ip_lat", "ip_lon", "card_type", "card_country", "card_age_days", "billing_lat", "billing_lon", "billing_country"),
    *("batch_id", "scenario"),
)
_KEY = ("tenant_id", "decision_id", "transaction_id", "event_time_ms")
_DECISION = (
    *("outcome", "score", "model_score", "model_raw", "rules_score", "anomaly_score", "floor", "degraded", "late_event", "model_sha256"),
    *("rule_set_hash", "catalogue_version", "code_version", "door", "contribution_base", "latency_ms", "stream_score", "trace_id"),
)
_RULE = ("rule_id", "reason_code", "severity", "score", "floor", "mode", "message")
_POSITION = ("kind", "seq")
_EXTRA = ("name", "value")
_DECISION_FIELDS = (
    *_KEY,
    *_DECISION,
    *(f"{_TX}{name}" for name in (*_SAME, "is_fraud")),
    *(f"rules.{name}" for name in _RULE),
    *(f"{array}.{name}" for array in ("entities", "served_at") for name in _POSITION),
    *(f"extra_features.{name}" for name in _EXTRA),
    "blacklisted.item",
)
_LABEL_FIELDS = (
    *("tenant_id", "transaction_id", "is_fraud", "label_time_ms", "transaction_time_ms", "source"),
    *(f"entities.{name}" for name in (*_POSITION, "key")),
)
_SHADOW = (
    *("kind", "hash", "outcome", "score", "model_score", "rules_score", "floor"),
    *("live_outcome", "live_score", "live_model_sha256", "live_rule_set_hash", "door"),
)
_SHADOW_RULE = ("rule_id", "mode", "message")
_SHADOW_FIELDS = (*_KEY, *_SHADOW, *(f"rules.{name}" for name in _SHADOW_RULE), *(f"entities.{name}" for name in (*_POSITION, "key")))
_ERASURE_FIELDS = ("tenant_id", "kind", "key", "seq", "requested_ms")
_TIMESTAMP = pa.timestamp("ms", "UTC")
_EXPONENTS = {code: currency.exponent for code, currency in CURRENCIES.items()}


@dataclass(frozen=True, slots=True)
class Value:
    """One record of a topic: where it stands, when the broker took it, its bytes."""

    partition: int
    offset: int
    recorded_ms: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that says nothing we can read, and why."""

    partition: int
    offset: int
    recorded_ms: int
    code: str
    detail: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Extracted:
    """Rows by table, what could not be read, and where the rest stands in the logs of those whom it names.

    ``positions`` makes a frame of tenant_id, decision_id, version, kind, key (of the entity's state) and seq (null where the record
    does not tell); it is asked for only where somebody was erased.
    """

    tables: Tables
    rejects: list[Reject]
    positions: Positions


class LedgerRows:
    """Reads records of the topics ``fraud-events``, ``shadow-decisions``, ``labels-applied`` and ``erasures-applied``."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._decisions = ColumnDecoder(codec, "decision", _DECISION_FIELDS, {"features": CATALOGUE.size})
        self._shadows = ColumnDecoder(codec, "shadow_decision", _SHADOW_FIELDS)
        self._labels = ColumnDecoder(codec, "label_applied", _LABEL_FIELDS)
        self._erasures = ColumnDecoder(codec, "erasure_applied", _ERASURE_FIELDS)

    def decisions(self, values: Sequence[Value]) -> Extracted:
        """Rows of transactions, decisions, rule_hits and reasons."""
        return self._extract(self._decisions, values, self._decision_tables)

    def shadows(self, values: Sequence[Value]) -> Extracted:
        """Rows of shadow_decisions."""
        return self._extract(self._shadows, values, _shadow_tables)

    def labels(self, values: Sequence[Value]) -> Extracted:
        """Rows of labels."""
        return self._extract(self._labels, values, _label_tables)

    def erasures(self, values: Sequence[Value]) -> Extracted:
        """Rows of erasures; the positions are those of the erasures themselves, of no decision."""
        return self._extract(self._erasures, values, _erasure_tables)

    def _extract(self, decoder: ColumnDecoder, values: Sequence[Value], found_in: _FoundIn) -> Extracted:
        """All at once; only when one of them is bad, one by one."""
        try:
            return self._read(decoder, values, found_in, [])
        except InvalidEvent:
            good, rejects = [], []
            for one in values:
                try:
                    self._read(decoder, [one], found_in, [])
                except InvalidEvent as error:
                    rejects.append(Reject(one.partition, one.offset, one.recorded_ms, error.code, error.detail, len(one.value or b"")))
                else:
                    good.append(one)
            return self._read(decoder, good, found_in, rejects)

    @staticmethod
    def _read(decoder: ColumnDecoder, values: Sequence[Value], found_in: _FoundIn, rejects: list[Reject]) -> Extracted:
        columns = decoder.decode([one.value for one in values])
        moments = pl.Series("recorded_at", [one.recorded_ms for one in values], dtype=pl.Int64)
        frame = columns.frame.with_columns(moments, moments.cast(pl.UInt64).alias("version"))
        tables, positions = found_in(replace(columns, frame=frame), [one.value for one in values])
        return Extracted({name: table for name, table in tables.items() if table.num_rows}, rejects, positions)

    def _decision_tables(self, columns: Columns, values: Sequence[bytes | None]) -> tuple[Tables, Positions]:
        frame = columns.frame
        more = frame["contribution_base"].is_not_null() | (frame["catalogue_version"] != CATALOGUE.version)
        decoded = {row: self._codec.decode_decision(values[row]) for row in more.arg_true().to_list()}
        key = [
            pl.col("tenant_id"),
            pl.col("decision_id"),
            pl.col("transaction_id"),
            _time("event_time_ms").alias("event_time"),
            _time("recorded_at"),
        ]
        decisions = frame.select(
            *key,
            *_DECISION,
            *_lists(columns, "entities", "entity"),
            *_lists(columns, "served_at", "served"),
            _gathered(columns.items["blacklisted"], "item", frame.height).alias("blacklisted"),
            *(_gathered(columns.items["extra_features"], name, frame.height).alias(f"extra_{name}s") for name in _EXTRA),
            "version",
        )
        tables = {
            "transactions": _money(frame).select(
                *key,
                *(pl.col(f"{_TX}{name}").alias(name) for name in _SAME),
                pl.col(f"{_TX}is_fraud").alias("known_fraud"),
                "currency_exponent",
                "base_minor",
                "version",
            ),
            "rule_hits": _rule_hits(columns),
        }
        found = {name: _arrow(table) for name, table in tables.items()}
        features = _features(columns.vectors["features"], decoded)
        found["decisions"] = _arrow(decisions).append_column("features", features)
        found["reasons"] = _reasons(frame, decoded)
        return found, partial(_positions, frame, columns.items["entities"])


def _time(name: str) -> pl.Expr:
    """Milliseconds as a moment; a bare number would be read as seconds."""
    return pl.col(name).cast(pl.Datetime("ms", "UTC"))


def _lists(columns: Columns, array: str, prefix: str) -> list[pl.Series]:
    items = columns.items[array]
    return [_gathered(items, name, columns.frame.height).alias(f"{prefix}_{name}s") for name in _POSITION]


def _gathered(items: pl.DataFrame, name: str, rows: int) -> pl.Series:
    """Of each record the list of its items' values, empty where it has none."""
    lists = items.group_by("row", maintain_order=True).agg(pl.col(name))
    whole = pl.DataFrame({"row": pl.Series(np.arange(rows))}).join(lists, on="row", how="left", maintain_order="left")
    return whole[name].fill_null([])


def _money(frame: pl.DataFrame) -> pl.DataFrame:
    currency = frame[f"{_TX}currency"]
    base = to_base_minor_batch(frame[f"{_TX}amount_minor"].to_numpy(), currency.to_list())
    exponent = currency.replace_strict(_EXPONENTS, return_dtype=pl.UInt8).alias("currency_exponent")
    return frame.with_columns(exponent, pl.Series("base_minor", base))


def _rule_hits(columns: Columns) -> pl.DataFrame:
    owners = columns.frame.select(
        "tenant_id", "decision_id", _time("event_time_ms").alias("event_time"), _time("recorded_at"), "version", row=pl.int_range(pl.len())
    )
    hits = columns.items["rules"].with_columns(pl.int_range(pl.len()).over("row").alias("position"))
    return hits.join(owners, on="row", how="inner", maintain_order="left").drop("row")


def _features(served: NDArray[np.float64], decoded: dict[int, Decision]) -> pa.Array:
    """As served, each with its own length: another catalogue has another number of them."""
    lengths = np.full(len(served), served.shape[1], dtype=np.int32)
    own = {row: np.asarray(decision.features, dtype=np.float64) for row, decision in decoded.items()}
    if all(len(values) == served.shape[1] for values in own.values()):
        flat = served.ravel()
    else:
        rows = [own.get(row, served[row]) for row in range(len(served))]
        lengths = np.array([len(values) for values in rows], dtype=np.int32)
        flat = np.concatenate(rows)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _reasons(frame: pl.DataFrame, decoded: dict[int, Decision]) -> pa.Table:
    rows = [
        (d.tenant_id, d.decision_id, c.feature, recorded_ms, _feature_name(d, c.feature), _value(d, c.feature), c.value, recorded_ms)
        for row, d in decoded.items()
        for recorded_ms in [frame["recorded_at"][row]]
        for c in d.contributions or ()
    ]
    names = ("tenant_id", "decision_id", "position", "recorded_at", "feature", "value", "contribution", "version")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    return table.set_column(3, "recorded_at", table["recorded_at"].cast(_TIMESTAMP)) if rows else table


def _feature_name(decision: Decision, position: int) -> str:
    ours = decision.catalogue_version == CATALOGUE.version and position < CATALOGUE.size
    return CATALOGUE.names[position] if ours else str(position)


def _value(decision: Decision, position: int) -> float:
    return float(decision.features[position]) if 0 <= position < len(decision.features) else float("nan")


def _shadow_tables(columns: Columns, _values: Sequence[bytes | None]) -> tuple[Tables, Positions]:
    frame, rules = columns.frame, columns.items["rules"]
    shadows = frame.select(
        "tenant_id",
        "decision_id",
        "transaction_id",
        _time("event_time_ms").alias("event_time"),
        _time("recorded_at"),
        *_SHADOW,
        *(_gathered(rules, name, frame.height).alias(f"rule_{name.removeprefix('rule_')}s") for name in _SHADOW_RULE),
        "version",
    )
    return {"shadow_decisions": _arrow(shadows)}, partial(_named_positions, frame, columns.items["entities"])


def _label_tables(columns: Columns, _values: Sequence[bytes | None]) -> tuple[Tables, Positions]:
    frame = columns.frame
    identities = [decision_id(tenant, transaction) for tenant, transaction in frame.select("tenant_id", "transaction_id").iter_rows()]
    frame = frame.with_columns(pl.Series("decision_id", identities, dtype=pl.String))
    labels = frame.select(
        "tenant_id",
        "decision_id",
        "transaction_id",
        _time("label_time_ms").alias("label_time"),
        _time("transaction_time_ms").alias("transaction_time"),
        _time("recorded_at"),
        "is_fraud",
        "source",
        "version",
    )
    return {"labels": _arrow(labels)}, partial(_named_positions, frame, columns.items["entities"])


def _erasure_tables(columns: Columns, _values: Sequence[bytes | None]) -> tuple[Tables, Positions]:
    frame = columns.frame
    if not frame["kind"].is_in(list(IDENTITIES)).all():
        raise InvalidEvent("bad_kind", f"kind is none of {', '.join(IDENTITIES)}")
    erasures = frame.select(
        "tenant_id",
        "kind",
        pl.Series("subject", [hash64(key) for key in frame["key"]], dtype=pl.Int64),
        "seq",
        _time("requested_ms").alias("requested_at"),
        _time("recorded_at"),
        "version",
    )
    return {"erasures": _arrow(erasures)}, partial(frame.select, "tenant_id", "version", "kind", "key", "seq")


def _positions(decisions: pl.DataFrame, entities: pl.DataFrame) -> pl.DataFrame:
    rows = decisions.with_columns(row=pl.int_range(pl.len()))
    named = pl.concat(
        rows.select(
            *("row", "tenant_id", "decision_id", "version"),
            kind=pl.lit(kind),
            key=pl.concat_str("tenant_id", f"{_TX}{column}", separator="|"),
        )
        for kind, column in IDENTITIES.items()
    ).drop_nulls("key")
    return named.join(entities.select("row", "kind", "seq"), on=["row", "kind"], how="left").drop("row")


def _named_positions(records: pl.DataFrame, entities: pl.DataFrame) -> pl.DataFrame:
    rows = (
        records.select("tenant_id", "decision_id", "version").with_row_index("row").with_columns(pl.col("row").cast(entities["row"].dtype))
    )
    return rows.join(entities, on="row").drop("row")


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
