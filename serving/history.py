"""Files of past transactions, of any columns, as the canonical frame that replay, backfill and training read.

A column mapping (TOML, ``serving/mappings`` holds those that ship) says for each canonical column where it comes from:

========== ==========================================================================================================
key        meaning
========== ==========================================================================================================
column     name of the source column
constant   the same value in every row
row_number true: the 0-based number of the row in the file, for files without transaction ids
unit       of ``amount_minor``: ``major`` or ``minor``; of ``event_time_ms``: ``ms``, ``s``, ``us``, ``ns`` or ``datetime``
decimals   of ``major`` amounts (default: those of the row's currency)
format     of ``datetime`` text (default: ISO 8601); a time without zone is UTC
prefix     text before every value of a text column
values     table from the source's words to ours; a word that is not listed is an error
optional   true: the column may be absent from the file, and is then missing
========== ==========================================================================================================

The frame keeps the order of the file.  Rows that cannot be read are an error, never dropped: a replay that loses rows cannot be
compared with a backfill.  Values that can be read are not judged here (a negative amount passes: the stream's parser decides).
"""

from __future__ import annotations

import gc
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fraud.currency import CURRENCIES
from fraud.errors import InvalidEvent
from fraud.events import Transaction

__all__ = [
    "CANONICAL_SCHEMA",
    "LABEL_SCHEMA",
    "ColumnMapping",
    "ColumnSource",
    "HistoryError",
    "detect_mapping",
    "from_transactions",
    "labels_from_history",
    "load_mapping",
    "read_history",
    "shipped_mappings",
    "tenant_of",
    "to_transactions",
]

CANONICAL_SCHEMA: pl.Schema = pl.Schema(
    {
        "transaction_id": pl.String,
        "tenant_id": pl.String,
        "card_id": pl.String,
        "merchant_id": pl.String,
        "amount_minor": pl.Int64,
        "currency": pl.String,
        "event_time_ms": pl.Int64,
        "user_id": pl.String,
        "device_id": pl.String,
        "ip_address": pl.String,
        "ip_hash": pl.String,
        "ip_country": pl.String,
        "ip_region": pl.String,
        "ip_asn": pl.Int64,
        "ip_lat": pl.Float64,
        "ip_lon": pl.Float64,
        "transaction_type": pl.String,
        "channel": pl.String,
        "declined": pl.Boolean,
        "merchant_name": pl.String,
        "merchant_mcc": pl.Int32,
        "merchant_country": pl.String,
        "lat": pl.Float64,
        "lon": pl.Float64,
        "city": pl.String,
        "country": pl.String,
        "card_type": pl.String,
        "card_country": pl.String,
        "card_age_days": pl.Int32,
        "billing_lat": pl.Float64,
        "billing_lon": pl.Float64,
        "billing_country": pl.String,
        "batch_id": pl.String,
        "is_fraud": pl.Boolean,
        "scenario": pl.String,
    }
)
LABEL_SCHEMA: pl.Schema = pl.Schema(
    {
        "transaction_id": pl.String,
        "tenant_id": pl.String,
        "card_id": pl.String,
        "merchant_id": pl.String,
        "transaction_time_ms": pl.Int64,
        "label_time_ms": pl.Int64,
        "is_fraud": pl.Boolean,
        "user_id": pl.String,
        "source": pl.String,
    }
)

_MAPPINGS = Path(__file__).parent / "mappings"
_REQUIRED = ("transaction_id", "tenant_id", "card_id", "merchant_id", "amount_minor", "currency", "event_time_ms")
# What a file that does not say means; the same values as the fields' defaults in fraud.events.
_FILLED: Mapping[str, str | bool] = {"tenant_id": "default", "transaction_type": "purchase", "declined": False}
_TIME_UNITS = ("ms", "s", "us", "ns", "datetime")
_UNITS: Mapping[str, tuple[str, ...]] = {"amount_minor": ("minor", "major"), "event_time_ms": _TIME_UNITS}
_ISO_FORMATS = tuple(
    f"%Y-%m-%d{rest}" for rest in (" %H:%M:%S%.f", "T%H:%M:%S%.f", "T%H:%M:%S%.f%#z", " %H:%M:%S%.f%#z", " %H:%M", "T%H:%M", "")
)
_ROW = "__row"
_EXACT_MINOR = 2.0**52  # below it every integer and every half is a float, so that rounding to minor units is exact


class HistoryError(InvalidEvent):
    """A file or a mapping that cannot be read; ``code`` is unreadable_file, bad_mapping, missing_column or bad_rows."""


@dataclass(frozen=True, slots=True)
class ColumnSource:
    """Where one canonical column comes from; exactly one of ``column``, ``constant`` and ``row_number`` is given."""

    column: str | None = None
    constant: str | int | float | bool | None = None
    row_number: bool = False
    unit: str | None = None
    decimals: int | None = None
    format: str | None = None
    prefix: str = ""
    values: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """A named set of column sources; ``requires`` are further columns by which a file is recognised."""

    name: str
    columns: Mapping[str, ColumnSource]
    requires: tuple[str, ...] = ()

    @property
    def needed(self) -> frozenset[str]:
        """Names of the source columns without which a file cannot be read with this mapping."""
        return frozenset(self.requires) | {s.column for s in self.columns.values() if s.column is not None and not s.optional}

    @property
    def known(self) -> frozenset[str]:
        """Names of all source columns that the mapping reads or recognises."""
        return frozenset(self.requires) | {s.column for s in self.columns.values() if s.column is not None}


# --- mappings ----------------------------------------------------------------------------------------------------------


def load_mapping(source: str | Path) -> ColumnMapping:
    """Load a shipped mapping by name or any mapping by path; raises HistoryError (bad_mapping)."""
    path = _MAPPINGS / f"{source}.toml"
    if not path.is_file():
        path = Path(source)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HistoryError("bad_mapping", f"no mapping {str(source)!r}: give a file or one of {', '.join(_shipped_names())}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HistoryError("bad_mapping", f"{path.name}: {error}") from error
    return _parse_mapping(path.stem, document)


@cache
def shipped_mappings() -> tuple[ColumnMapping, ...]:
    """Return the mappings that ship with the project, by name."""
    return tuple(load_mapping(name) for name in _shipped_names())


def detect_mapping(columns: Iterable[str]) -> ColumnMapping:
    """Choose the shipped mapping that reads most of a file's columns; raises HistoryError (bad_mapping) if none fits."""
    present = frozenset(columns)
    fitting = [mapping for mapping in shipped_mappings() if mapping.needed <= present]
    if not fitting:
        names, found = ", ".join(_shipped_names()), ", ".join(sorted(present))
        raise HistoryError("bad_mapping", f"no shipped mapping ({names}) fits the columns {found}: give a mapping file")
    return max(fitting, key=lambda mapping: len(mapping.known & present))


def _shipped_names() -> list[str]:
    return sorted(path.stem for path in _MAPPINGS.glob("*.toml"))


def _parse_mapping(stem: str, document: Mapping[str, Any]) -> ColumnMapping:
    name = str(document.get("name", stem))
    unknown = sorted(set(document) - {"name", "requires", "columns"})
    if unknown:
        raise HistoryError("bad_mapping", f"{name}: unknown key {', '.join(unknown)}")
    tables = document.get("columns")
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise HistoryError("bad_mapping", f"{name}: needs a table [columns.NAME] for each column")
    requires = document.get("requires", [])
    if not isinstance(requires, list) or not all(isinstance(column, str) for column in requires):
        raise HistoryError("bad_mapping", f"{name}: requires is a list of column names")
    sources = {target: _parse_source(name, target, table) for target, table in tables.items()}
    absent = [target for target in _REQUIRED if target not in sources and target not in _FILLED]
    if absent:
        raise HistoryError("bad_mapping", f"{name}: no source for {', '.join(absent)}")
    return ColumnMapping(name, sources, tuple(requires))


_KEY_TYPES: Mapping[str, tuple[type, ...]] = {
    "column": (str,),
    "constant": (str, int, float, bool),
    "row_number": (bool,),
    "unit": (str,),
    "decimals": (int,),
    "format": (str,),
    "prefix": (str,),
    "values": (dict,),
    "optional": (bool,),
}


def _parse_source(name: str, target: str, table: Mapping[str, Any]) -> ColumnSource:
    where = f"{name}: columns.{target}"
    if target not in CANONICAL_SCHEMA:
        raise HistoryError("bad_mapping", f"{where}: no such canonical column")
    for key, value in table.items():
        if key not in _KEY_TYPES:
            raise HistoryError("bad_mapping", f"{where}: unknown key {key} (known: {', '.join(_KEY_TYPES)})")
        if type(value) not in _KEY_TYPES[key]:
            raise HistoryError("bad_mapping", f"{where}: {key} has the wrong type")
    if sum(key in table for key in ("column", "constant", "row_number")) != 1:
        raise HistoryError("bad_mapping", f"{where}: needs exactly one of column, constant, row_number")
    source = ColumnSource(**table)
    _check_source(where, target, source)
    return source


def _check_source(where: str, target: str, source: ColumnSource) -> None:
    dtype = CANONICAL_SCHEMA[target]
    if source.unit is not None and source.unit not in _UNITS.get(target, ()):
        raise HistoryError("bad_mapping", f"{where}: unit {source.unit!r} is not one of {', '.join(_UNITS.get(target, ('none',)))}")
    if source.prefix and dtype != pl.String:
        raise HistoryError("bad_mapping", f"{where}: only text columns take a prefix")
    if source.decimals is not None and not 0 <= source.decimals <= 4:
        raise HistoryError("bad_mapping", f"{where}: decimals is 0 to 4")
    given = [*source.values.values(), *([] if source.constant is None else [source.constant])]
    try:
        pl.Series(given, dtype=dtype, strict=True)
    except (TypeError, pl.exceptions.PolarsError):
        raise HistoryError("bad_mapping", f"{where}: a constant or one of the values is not of type {dtype}") from None


# --- reading -----------------------------------------------------------------------------------------------------------


def tenant_of(path: str | Path) -> str:
    """The tenant under which a file is put that names none: its own name, so that two replays into one stack do not meet.

    The ids of public data sets are small numbers, which every one of them uses, and so does the generator.
    """
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(path).stem.lower())
    return kept[:64] or "file"


def read_history(
    path: str | Path,
    mapping: ColumnMapping | str | Path | None = None,
    *,
    limit: int | None = None,
    offset: int = 0,
    tenant_id: str | None = None,
) -> pl.DataFrame:
    """Read transactions in file order as a frame of ``CANONICAL_SCHEMA``.

    Args:
        path: a Parquet file, or CSV with a header line.
        mapping: a mapping, the name of a shipped one, or the path of one; ``None`` recognises the file by its columns.
        limit: at most so many rows.
        offset: skip so many rows first.
        tenant_id: put the rows under this tenant, so that two replays into one stack do not meet.

    Raises:
        HistoryError: unreadable_file, bad_mapping, missing_column, or bad_rows with the number of bad rows and the first one.
    """
    path = Path(path)
    scan = _scan(path)
    schema = _schema(path, scan)
    if mapping is None:
        mapping = detect_mapping(schema.names())
    elif not isinstance(mapping, ColumnMapping):
        mapping = load_mapping(mapping)
    if tenant_id is not None:
        mapping = replace(mapping, columns={**mapping.columns, "tenant_id": ColumnSource(constant=tenant_id)})
    absent = sorted(mapping.needed - set(schema.names()))
    if absent:
        raise HistoryError("missing_column", f"{path.name}: mapping {mapping.name} needs {', '.join(absent)}")
    columns = {target: source for target, source in mapping.columns.items() if source.column is None or source.column in schema}
    frame = _collect(path, scan.with_row_index(_ROW).slice(offset, limit).select(_expressions(columns, schema)))
    header_lines = 0 if _is_parquet(path) else 1
    _check_rows(path, frame, columns, first_line=offset + header_lines + 1)
    return frame.select(CANONICAL_SCHEMA.names())


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise HistoryError("unreadable_file", f"{path.name}: {error.strerror or error}") from error


def _scan(path: Path) -> pl.LazyFrame:
    if _is_parquet(path):
        return pl.scan_parquet(path)
    # Everything as text: a column whose type changes after the inferred rows would otherwise fail without a row number.
    return pl.scan_csv(path, infer_schema=False)


def _schema(path: Path, scan: pl.LazyFrame) -> pl.Schema:
    try:
        return scan.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unreadable(path, error) from error


def _collect(path: Path, scan: pl.LazyFrame) -> pl.DataFrame:
    try:
        frame = scan.collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unreadable(path, error) from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def _unreadable(path: Path, error: Exception) -> HistoryError:
    # Only the first line, and not much of it: engines quote the data that they stumbled over.
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return HistoryError("unreadable_file", f"{path.name}: neither Parquet nor CSV that can be read ({reason})")


def _expressions(columns: Mapping[str, ColumnSource], schema: pl.Schema) -> list[pl.Expr]:
    """Build one expression a canonical column, and ``__bad_NAME`` for those in which a row can be bad."""
    expressions: list[pl.Expr] = []
    decimals = _decimals(columns, schema)
    for target, dtype in CANONICAL_SCHEMA.items():
        source = columns.get(target)
        if source is None:
            expressions.append(pl.lit(_FILLED.get(target), dtype=dtype).alias(target))
            continue
        value = _convert(target, source, schema, decimals).cast(dtype)
        expressions.append((value.fill_null(_FILLED[target]) if target in _FILLED else value).alias(target))
        if source.column is not None:
            bad = value.is_null() if target in _REQUIRED and target not in _FILLED else value.is_null() & _present(source.column, schema)
            expressions.append(bad.alias(f"__bad_{target}"))
    return expressions


def _present(column: str, schema: pl.Schema) -> pl.Expr:
    present = pl.col(column).is_not_null()
    return present & pl.col(column).is_not_nan() if schema[column].is_float() else present


def _convert(target: str, source: ColumnSource, schema: pl.Schema, decimals: pl.Expr) -> pl.Expr:
    dtype = CANONICAL_SCHEMA[target]
    if source.row_number:
        value: pl.Expr = pl.col(_ROW).cast(pl.String if dtype == pl.String else pl.Int64)
    elif source.column is None:
        value = pl.lit(source.constant, dtype=dtype)
    elif source.values:
        words = list(source.values)
        value = _text(pl.col(source.column), schema[source.column]).replace_strict(
            words, [source.values[word] for word in words], default=None, return_dtype=dtype
        )
    else:
        value = _typed(target, source, schema, decimals)
    return pl.lit(source.prefix) + value if source.prefix else value


def _typed(target: str, source: ColumnSource, schema: pl.Schema, decimals: pl.Expr) -> pl.Expr:
    assert source.column is not None
    column, given, dtype = pl.col(source.column), schema[source.column], CANONICAL_SCHEMA[target]
    if given == pl.String and dtype != pl.String:
        column = column.str.strip_chars()
    if target == "event_time_ms":
        return _time_ms(source, column, given)
    if target == "amount_minor" and source.unit == "major":
        return _minor_units(column, given, decimals)
    if dtype == pl.String:
        return _text(column, given)
    if dtype == pl.Boolean:
        return _boolean(column, given)
    if dtype.is_float():
        return column.cast(pl.Float64, strict=False).fill_nan(None)
    return _whole(column, given).cast(dtype, strict=False)


def _text(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    if not given.is_float():
        return column.cast(pl.String)
    # A column of ids with a hole is often kept as floats: 7.0 is the id 7.
    whole = column.cast(pl.Int64, strict=False)
    return pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))


def _boolean(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    if given == pl.Boolean:
        return column
    word = _text(column, given).str.to_lowercase()
    return word.replace_strict(["0", "1", "false", "true"], [False, True, False, True], default=None, return_dtype=pl.Boolean)


def _whole(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    """Integers of a column; null where there is none or where it would have to be rounded."""
    if given.is_integer():
        return column.cast(pl.Int64, strict=False)
    exact = column.cast(pl.Int64, strict=False)
    if given == pl.String:
        return exact.fill_null(_whole(column.cast(pl.Float64, strict=False), pl.Float64()))
    return pl.when(exact == column).then(exact)


def _time_ms(source: ColumnSource, column: pl.Expr, given: pl.DataType) -> pl.Expr:
    unit = source.unit or ("datetime" if given.is_temporal() else "ms")
    if unit == "datetime":
        if given in (pl.String, pl.Categorical):
            return _parsed_ms(column.cast(pl.String), source.format)
        if given != pl.Date and not isinstance(given, pl.Datetime):
            raise HistoryError("bad_mapping", f"event_time_ms: {source.column} is of type {given}; give unit ms, s, us or ns")
        return column.cast(pl.Datetime("ms")).dt.timestamp("ms") if given == pl.Date else column.dt.timestamp("ms")
    if given.is_temporal():
        raise HistoryError("bad_mapping", f"event_time_ms: {source.column} is of type {given}; its unit is datetime")
    if unit == "s" and not given.is_integer():
        seconds = column.cast(pl.Float64, strict=False)
        return (seconds * 1000.0).round(0).cast(pl.Int64, strict=False)
    whole = _whole(column, given)
    return {"ms": whole, "s": whole * 1000, "us": whole // 1000, "ns": whole // 1_000_000}[unit]


def _parsed_ms(text: pl.Expr, given_format: str | None) -> pl.Expr:
    # Listed rather than inferred: inference looks at the first rows and would read 01/02/2020 as a day of February.
    formats = _ISO_FORMATS if given_format is None else (given_format,)
    parsed = [text.str.to_datetime(f, time_unit="ms", strict=False).dt.timestamp("ms") for f in formats]
    return pl.coalesce(parsed)


def _minor_units(column: pl.Expr, given: pl.DataType, decimals: pl.Expr) -> pl.Expr:
    """Amounts in major units as whole minor units, rounded half up as the decimal that a person would read."""
    # A 32-bit float means the decimal that prints as it, not the long one that it widens to.
    major = (column.cast(pl.String) if given == pl.Float32 else column).cast(pl.Float64, strict=False)
    return pl.map_batches([major, decimals], lambda columns: _round_to_minor(columns[0], columns[1]), return_dtype=pl.Int64)


def _round_to_minor(major: pl.Series, decimals: pl.Series) -> pl.Series:
    values = major.to_numpy().astype(np.float64)
    places = np.broadcast_to(decimals.to_numpy().astype(np.int64), values.shape)
    scaled = values * 10.0**places
    usable = np.abs(scaled) < _EXACT_MINOR
    scaled = np.where(usable, scaled, 0.0)
    minor = np.rint(scaled)
    # The product is off by a few units in the last place, which matters only beside a half: there the decimal decides.
    near_half = np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5) <= 1e-6 + np.abs(scaled) * 1e-15
    for i in np.flatnonzero(near_half):
        exact = Decimal(repr(float(values[i]))).scaleb(int(places[i]))
        minor[i] = float(exact.to_integral_value(ROUND_HALF_UP))
    return pl.Series(major.name, minor.astype(np.int64)).set(pl.Series(~usable), None)


def _decimals(columns: Mapping[str, ColumnSource], schema: pl.Schema) -> pl.Expr:
    """Decimals of each row's currency: those that the mapping states, else those of ISO 4217."""
    stated = columns["amount_minor"].decimals
    if stated is not None:
        return pl.lit(stated, dtype=pl.Int64)
    currency = _convert("currency", columns["currency"], schema, pl.lit(2))
    exponents = {code: entry.exponent for code, entry in CURRENCIES.items()}
    # An unknown currency cannot be scored: the stream's parser says so, with the code.
    return currency.replace_strict(exponents, default=2, return_dtype=pl.Int64)


def _check_rows(path: Path, frame: pl.DataFrame, columns: Mapping[str, ColumnSource], first_line: int) -> None:
    problems = []
    unit = "row" if _is_parquet(path) else "line"
    for target, source in columns.items():
        bad = frame.get_column(f"__bad_{target}", default=None)
        if bad is not None and bad.any():
            first = int(bad.arg_true()[0]) + first_line
            problems.append(
                f"{target}: {bad.sum()} of {frame.height} values of {source.column} cannot be read, the first in {unit} {first}"
            )
    if problems:
        raise HistoryError("bad_rows", f"{path.name}: {'; '.join(problems)}")


# --- transactions and labels -------------------------------------------------------------------------------------------

_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Transaction))


def to_transactions(frame: pl.DataFrame, start: int = 0, stop: int | None = None) -> list[Transaction]:
    """Rows ``start`` to ``stop`` (exclusive, ``None`` = the end) of a canonical frame as transactions, in order.

    Optional columns may be absent.
    """
    part = frame.slice(start, None if stop is None else max(0, stop - start))
    columns: list[Sequence[Any]] = []
    for name in _FIELDS:
        if name in part.columns:
            series = part[name]
            columns.append((series.fill_null(_FILLED[name]) if name in _FILLED else series).to_list())
        else:
            columns.append([_FILLED.get(name)] * part.height)
    # Many small objects and no cycle among them: the collector would walk them again and again, at half of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(map(Transaction, *columns))
    finally:
        if collecting:
            gc.enable()


def from_transactions(transactions: Iterable[Transaction]) -> pl.DataFrame:
    """Inverse of :func:`to_transactions`: a frame of ``CANONICAL_SCHEMA``, in order."""
    rows = transactions if isinstance(transactions, Sequence) else list(transactions)
    return pl.DataFrame({name: list(map(attrgetter(name), rows)) for name in CANONICAL_SCHEMA.names()}, schema=CANONICAL_SCHEMA)


def labels_from_history(frame: pl.DataFrame, delay_ms: int, *, fraud_only: bool = True, source: str = "chargeback") -> pl.DataFrame:
    """Labels of a canonical frame, each known ``delay_ms`` after its transaction, as ``LABEL_SCHEMA`` in the order of that time.

    Rows whose ``is_fraud`` is missing have no label.  ``fraud_only`` leaves out the labels that say "not fraud", which nobody
    sends in practice.
    """
    if delay_ms < 0 or not math.isfinite(delay_ms):
        raise ValueError("delay_ms is negative")
    chosen = frame.filter(pl.col("is_fraud") if fraud_only else pl.col("is_fraud").is_not_null())
    labels = chosen.select(
        "transaction_id",
        "tenant_id",
        "card_id",
        "merchant_id",
        pl.col("event_time_ms").alias("transaction_time_ms"),
        (pl.col("event_time_ms") + delay_ms).alias("label_time_ms"),
        "is_fraud",
        "user_id",
        pl.lit(source).alias("source"),
    )
    return labels.sort("label_time_ms", maintain_order=True)
