"""History files of any columns become the canonical frame, exactly and in their order, or an error that says where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.events import Label, Transaction
from generator.generate import generate
from serving.history import (
    CANONICAL_SCHEMA,
    LABEL_SCHEMA,
    ColumnMapping,
    ColumnSource,
    HistoryError,
    detect_mapping,
    from_transactions,
    labels_from_history,
    load_mapping,
    read_history,
    shipped_mappings,
    to_transactions,
)

T0_MS = 1_522_540_831_000  # 2018-04-01 00:00:31 UTC
SHARED = Path(__file__).parents[3] / "shared" / "data"

Write = Callable[[pl.DataFrame], Path]


@pytest.fixture(params=["parquet", "csv"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Writes a frame as a file of either kind."""

    def to_file(frame: pl.DataFrame) -> Path:
        path = tmp_path / f"history.{request.param}"
        if request.param == "csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path)
        return path

    return to_file


def handbook_rows(count: int = 4) -> pl.DataFrame:
    """A few rows of the Handbook's shape, invented."""
    return pl.DataFrame(
        {
            "TRANSACTION_ID": list(range(count)),
            "TX_DATETIME": [datetime(2018, 4, 1, 0, 0, 31) + timedelta(minutes=i) for i in range(count)],  # noqa: DTZ001 - as the file
            "CUSTOMER_ID": [596 + i for i in range(count)],
            "TERMINAL_ID": [3156] * count,
            "TX_AMOUNT": [57.16 + i for i in range(count)],
            "TX_FRAUD": [0, 1] * (count // 2),
            "TX_FRAUD_SCENARIO": [0, 2] * (count // 2),
        }
    )


def amounts(values: list[float] | list[str], **source: object) -> list[int]:
    """Amounts in minor units of a frame of major ones."""
    frame = pl.DataFrame({"id": range(len(values)), "amount": values})
    path = Path(source.pop("path"))  # type: ignore[arg-type]
    frame.write_parquet(path)
    columns = {name: ColumnSource(column="id") for name in ("transaction_id", "card_id", "merchant_id", "event_time_ms")}
    columns |= {"amount_minor": ColumnSource(column="amount", unit="major", **source), "currency": ColumnSource(constant="USD")}  # type: ignore[arg-type]
    return read_history(path, ColumnMapping("test", columns))["amount_minor"].to_list()


# --- mappings that ship ------------------------------------------------------------------------------------------------


def test_handbook_rows_become_transactions(write: Write) -> None:
    frame = read_history(write(handbook_rows()))
    assert frame.schema == CANONICAL_SCHEMA
    second = frame.row(1, named=True)
    expected = {
        "transaction_id": "1",
        "tenant_id": "default",
        "card_id": "597",
        "user_id": "597",
        "merchant_id": "3156",
        "amount_minor": 5816,
        "currency": "USD",
        "event_time_ms": T0_MS + 60_000,
        "transaction_type": "purchase",
        "declined": False,
        "is_fraud": True,
    }
    assert {name: value for name, value in second.items() if value is not None} == expected


def test_the_injected_scenario_of_the_handbook_is_never_read(write: Write) -> None:
    rows = handbook_rows()
    other = rows.with_columns(TX_FRAUD_SCENARIO=3 - pl.col("TX_FRAUD_SCENARIO"))
    assert read_history(write(rows)).equals(read_history(write(other)))


def test_mappings_are_recognised_by_their_columns() -> None:
    handbook = handbook_rows().columns
    assert detect_mapping(handbook).name == "handbook"
    assert detect_mapping([*handbook, "TX_TIME_SECONDS", "TX_TIME_DAYS"]).name == "simulated-101"
    assert detect_mapping(CANONICAL_SCHEMA.names()).name == "canonical"
    sparkov = [
        "trans_date_trans_time",
        "cc_num",
        "merchant",
        "category",
        "amt",
        "lat",
        "long",
        "merch_lat",
        "merch_long",
        "city_pop",
    ]
    assert detect_mapping(sparkov).name == "sparkov"
    with pytest.raises(HistoryError, match="no shipped mapping"):
        detect_mapping(["a", "b"])


def test_every_shipped_mapping_loads_by_name() -> None:
    assert {mapping.name for mapping in shipped_mappings()} == {"canonical", "handbook", "simulated-101", "sparkov"}
    assert load_mapping("sparkov") == next(mapping for mapping in shipped_mappings() if mapping.name == "sparkov")


def test_the_canonical_mapping_knows_every_field_of_a_transaction() -> None:
    names = [field.name for field in fields(Transaction) if field.name != "decided"]  # what the API has answered is in no history
    assert names == CANONICAL_SCHEMA.names()
    assert set(names) == set(load_mapping("canonical").columns)
    assert [field.name for field in fields(Label)] == LABEL_SCHEMA.names()


def test_sparkov_rows_have_home_as_billing_place_and_the_merchants_place(write: Write) -> None:
    rows = pl.DataFrame(
        {
            "trans_date_trans_time": [datetime(2019, 1, 1, 0, 1, 59)] * 2,  # noqa: DTZ001 - as the file
            "cc_num": ["4465", "36738"],
            "merchant": ["fraud_A, B and C", "fraud_D"],
            "category": ["shopping_pos", "misc_net"],
            "amt": [6.92, 107.0],
            "lat": [41.25, 39.5],
            "long": [-73.5, -94.75],
            "merch_lat": [40.75, 39.75],
            "merch_long": [-72.75, -95.25],
            "is_fraud": [0, 1],
        }
    )
    frame = read_history(write(rows))
    names = ["transaction_id", "merchant_mcc", "channel", "lat", "billing_lat", "lon", "billing_lon", "card_country", "is_fraud"]
    assert frame.select(names).rows() == [
        ("sparkov-0", 5311, "pos", 40.75, 41.25, -72.75, -73.5, "US", False),
        ("sparkov-1", 5969, "ecom", 39.75, 39.5, -95.25, -94.75, "US", True),
    ]


def test_generated_history_survives_a_file_unchanged(write: Write) -> None:
    frame = generate(2000, seed=1, start_ms=T0_MS, fraud_rate=0.2, users=200, merchants=300)
    assert read_history(write(frame)).equals(frame)


def test_canonical_files_need_only_the_required_columns(write: Write) -> None:
    required = ["transaction_id", "card_id", "merchant_id", "amount_minor", "currency", "event_time_ms"]
    frame = generate(50, seed=1, start_ms=T0_MS, users=50, merchants=300).select(required)
    read = read_history(write(frame))
    assert read.select(required).equals(frame)
    assert read["tenant_id"].to_list() == ["default"] * 50
    assert read["device_id"].null_count() == 50


@pytest.mark.parametrize("name", ["handbook", "simulated-101", "sparkov"])
def test_measured_files_read_with_exact_amounts(name: str) -> None:
    path = SHARED / f"{name}.parquet"
    if not path.is_file():
        pytest.skip("the files to measure with are not here")
    frame = read_history(path, limit=20_000, offset=1000)
    assert frame.height == 20_000
    raw = pl.scan_parquet(path).slice(1000, 20_000).select(pl.col("TX_AMOUNT" if name != "sparkov" else "amt")).collect().to_series()
    cents = [int(Decimal(repr(value)).scaleb(2).to_integral_value(ROUND_HALF_UP)) for value in raw]
    assert frame["amount_minor"].to_list() == cents


# --- order, offset, limit, tenant --------------------------------------------------------------------------------------


def test_rows_keep_the_order_of_the_file(write: Write) -> None:
    rows = handbook_rows(1000).sample(fraction=1.0, shuffle=True, seed=1)
    assert read_history(write(rows))["transaction_id"].to_list() == [str(number) for number in rows["TRANSACTION_ID"]]


def test_offset_and_limit_cut_out_the_middle(write: Write) -> None:
    path = write(handbook_rows(100))
    whole = read_history(path)
    assert read_history(path, offset=10, limit=5).equals(whole.slice(10, 5))
    assert read_history(path, offset=95, limit=50).equals(whole.slice(95))
    assert read_history(path, limit=0).height == 0


def test_row_numbers_are_those_of_the_file_whatever_the_offset(write: Write) -> None:
    path = write(handbook_rows(20).select("TX_DATETIME", "CUSTOMER_ID", "TX_AMOUNT"))
    columns = {
        "transaction_id": ColumnSource(row_number=True, prefix="r-"),
        "card_id": ColumnSource(column="CUSTOMER_ID", prefix="c-"),
        "merchant_id": ColumnSource(constant="m"),
        "amount_minor": ColumnSource(column="TX_AMOUNT", unit="major"),
        "currency": ColumnSource(constant="EUR"),
        "event_time_ms": ColumnSource(column="TX_DATETIME", unit="datetime"),
    }
    frame = read_history(path, ColumnMapping("test", columns), offset=7, limit=2)
    assert frame.select("transaction_id", "card_id", "merchant_id", "currency").rows() == [
        ("r-7", "c-603", "m", "EUR"),
        ("r-8", "c-604", "m", "EUR"),
    ]


def test_a_tenant_can_be_put_over_a_file(write: Write) -> None:
    assert set(read_history(write(handbook_rows()), tenant_id="acme")["tenant_id"]) == {"acme"}


# --- amounts -----------------------------------------------------------------------------------------------------------


def test_every_two_decimal_amount_is_exact(tmp_path: Path) -> None:
    cents = [*range(200_000), *range(99_000_000, 99_050_000)]
    values = [number / 100 for number in cents]
    assert amounts(values, path=tmp_path / "a.parquet") == cents


def test_sums_of_amounts_mean_the_nearest_cent(tmp_path: Path) -> None:
    assert amounts([85.64999999999999, 52.300000000000004, 57.16], path=tmp_path / "a.parquet") == [8565, 5230, 5716]


def test_halves_round_up_as_decimals_do_not_as_products_do(tmp_path: Path) -> None:
    """100 * 1.005 is 100.49999999999999, yet the file says 1.005."""
    assert amounts([1.005, 2.675, 0.125, -1.005, 1.0049], path=tmp_path / "a.parquet") == [101, 268, 13, -101, 100]


def test_amounts_as_text_and_as_narrow_floats_are_exact(tmp_path: Path) -> None:
    assert amounts(["57.16", " 57.17", "1e2", "0.1"], path=tmp_path / "a.parquet") == [5716, 5717, 10000, 10]
    narrow = pl.Series([57.16, 16777.21, 0.29], dtype=pl.Float32)
    assert amounts(narrow, path=tmp_path / "b.parquet") == [5716, 1677721, 29]  # type: ignore[arg-type]


def test_decimals_follow_the_currency_of_the_row(write: Write) -> None:
    rows = pl.DataFrame({"id": [1, 2, 3], "amount": [12.5, 1250.0, 1.234], "currency": ["USD", "JPY", "KWD"], "t": [1, 2, 3]})
    columns = {name: ColumnSource(column="id") for name in ("transaction_id", "card_id", "merchant_id")}
    columns |= {"amount_minor": ColumnSource(column="amount", unit="major"), "currency": ColumnSource(column="currency")}
    columns |= {"event_time_ms": ColumnSource(column="t")}
    assert read_history(write(rows), ColumnMapping("test", columns))["amount_minor"].to_list() == [1250, 1250, 1234]


@given(st.lists(st.decimals(min_value=-(10**11), max_value=10**11, places=2), min_size=1, max_size=50))
def test_any_amount_of_whole_cents_comes_back(tmp_path_factory: pytest.TempPathFactory, values: list[Decimal]) -> None:
    path = tmp_path_factory.mktemp("amounts") / "a.parquet"
    assert amounts([float(value) for value in values], path=path) == [int(value * 100) for value in values]


# --- times -------------------------------------------------------------------------------------------------------------


def times(tmp_path: Path, column: pl.Series, **source: str) -> list[int]:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"t": column}).with_columns(id=pl.lit("x"), amount=pl.lit(1)).write_parquet(path)
    columns = {name: ColumnSource(column="id") for name in ("transaction_id", "card_id", "merchant_id")}
    columns |= {"amount_minor": ColumnSource(column="amount"), "currency": ColumnSource(constant="USD")}
    columns |= {"event_time_ms": ColumnSource(column="t", **source)}  # type: ignore[arg-type]
    return read_history(path, ColumnMapping("test", columns))["event_time_ms"].to_list()


@pytest.mark.parametrize(
    ("values", "source", "expected"),
    [
        ([1_522_540_831], {"unit": "s"}, T0_MS),
        ([1_522_540_831.25], {"unit": "s"}, T0_MS + 250),
        (["1522540831"], {"unit": "s"}, T0_MS),
        ([T0_MS], {}, T0_MS),
        ([T0_MS * 1000 + 999], {"unit": "us"}, T0_MS),
        ([T0_MS * 1_000_000], {"unit": "ns"}, T0_MS),
        (["2018-04-01 00:00:31"], {"unit": "datetime"}, T0_MS),
        (["2018-04-01T02:00:31.5+02:00"], {"unit": "datetime"}, T0_MS + 500),
        (["2018-04-01T00:00:31Z"], {"unit": "datetime"}, T0_MS),
        (["01/04/2018 00:00:31"], {"unit": "datetime", "format": "%d/%m/%Y %H:%M:%S"}, T0_MS),
        ([datetime(2018, 4, 1, 0, 0, 31)], {}, T0_MS),  # noqa: DTZ001 - naive means UTC
        ([datetime(2018, 4, 1, 5, 30, 31, tzinfo=timezone(timedelta(hours=5, minutes=30)))], {"unit": "datetime"}, T0_MS),
        ([date(2018, 4, 1)], {"unit": "datetime"}, T0_MS - 31_000),
        ([datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)], {}, -1000),
    ],
)
def test_times_become_milliseconds_utc(tmp_path: Path, values: list[object], source: dict[str, str], expected: int) -> None:
    assert times(tmp_path, pl.Series(values), **source) == [expected]


def test_a_date_that_could_be_read_two_ways_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="event_time_ms: 1 of 1"):
        times(tmp_path, pl.Series(["01/02/2020 10:00"]), unit="datetime")


def test_a_unit_that_contradicts_the_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="its unit is datetime"):
        times(tmp_path, pl.Series([datetime(2018, 4, 1, tzinfo=UTC)]), unit="s")
    with pytest.raises(HistoryError, match="give unit ms, s, us or ns"):
        times(tmp_path, pl.Series([1]), unit="datetime")


# --- errors ------------------------------------------------------------------------------------------------------------


def failure(path: Path, mapping: ColumnMapping | str | Path | None = None) -> HistoryError:
    with pytest.raises(HistoryError) as caught:
        read_history(path, mapping)
    return caught.value


def test_bad_values_are_counted_and_the_first_is_found(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    rows = handbook_rows(6).with_columns(TX_AMOUNT=pl.Series(["1.5", "2.5", "secret", "", "nan", "4"]))
    rows.write_csv(path)
    error = failure(path)
    assert error.code == "bad_rows"
    assert "amount_minor: 3 of 6 values of TX_AMOUNT cannot be read, the first in line 4" in error.detail
    assert "secret" not in str(error)
    with pytest.raises(HistoryError, match="2 of 3 values of TX_AMOUNT cannot be read, the first in line 5"):
        read_history(path, offset=3)


def test_all_bad_columns_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    handbook_rows(2).with_columns(TX_DATETIME=pl.Series(["yesterday", "2018-04-01"]), CUSTOMER_ID=pl.Series([None, 1])).write_parquet(path)
    error = failure(path)
    assert "event_time_ms: 1 of 2 values of TX_DATETIME cannot be read, the first in row 1" in error.detail
    assert "card_id: 1 of 2 values of CUSTOMER_ID" in error.detail


def test_infinite_and_huge_amounts_are_bad_and_negative_ones_are_left_to_the_stream(tmp_path: Path) -> None:
    for value in (float("inf"), 1e17, None):
        with pytest.raises(HistoryError, match="amount_minor: 1 of 2"):
            amounts([1.0, value], path=tmp_path / "a.parquet")  # type: ignore[list-item]
    assert amounts([-5.0], path=tmp_path / "a.parquet") == [-500]


def test_optional_values_that_cannot_be_read_are_errors_but_missing_ones_are_not(write: Write) -> None:
    frame = generate(3, seed=1, start_ms=T0_MS, users=50, merchants=300)
    broken = frame.with_columns(merchant_mcc=pl.Series(["5411", None, "grocery"]), is_fraud=pl.Series(["true", None, "0"]))
    error = failure(write(broken))
    assert "merchant_mcc: 1 of 3" in error.detail
    assert "is_fraud" not in error.detail


def test_a_word_outside_the_table_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    handbook_rows(2).with_columns(kind=pl.Series(["a", "b"])).write_parquet(path)
    columns = {**load_mapping("handbook").columns, "channel": ColumnSource(column="kind", values={"a": "pos"})}
    assert "channel: 1 of 2 values of kind" in failure(path, ColumnMapping("test", columns)).detail


def test_a_missing_column_is_named(write: Write) -> None:
    error = failure(write(handbook_rows().drop("TX_AMOUNT")), "handbook")
    assert (error.code, error.detail.split(": ")[1]) == ("missing_column", "mapping handbook needs TX_AMOUNT")


def test_files_that_are_not_tables_are_refused(tmp_path: Path) -> None:
    empty, broken, ragged = tmp_path / "empty.csv", tmp_path / "broken.parquet", tmp_path / "ragged.csv"
    empty.touch()
    broken.write_bytes(b"PAR1" + bytes(range(256)))
    ragged.write_text("transaction_id,card_id\n1,2\n3,4,5,6\n")
    for path in (empty, broken, tmp_path / "absent.csv", tmp_path):
        assert failure(path).code == "unreadable_file"
    columns = {
        name: ColumnSource(constant=1 if name in ("amount_minor", "event_time_ms") else "x")
        for name in ("merchant_id", "amount_minor", "currency", "event_time_ms")
    }
    columns |= {name: ColumnSource(column=name) for name in ("transaction_id", "card_id")}
    assert failure(ragged, ColumnMapping("test", columns)).code == "unreadable_file"


BASE = """
[columns.transaction_id]
column = "i"
[columns.card_id]
column = "c"
[columns.merchant_id]
column = "m"
[columns.amount_minor]
column = "a"
[columns.currency]
constant = "USD"
[columns.event_time_ms]
column = "t"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + 'colum = "x"', "unknown key colum"),
        (BASE + "unit = 3", "unit has the wrong type"),
        (BASE + 'unit = "minutes"', "unit 'minutes' is not one of ms, s, us, ns, datetime"),
        (BASE + 'constant = "x"', "exactly one of column, constant, row_number"),
        (BASE + 'prefix = "x"', "only text columns take a prefix"),
        (BASE + '[columns.colour]\ncolumn = "x"', "no such canonical column"),
        (BASE + '[columns.lat]\nconstant = "x"', "not of type Float64"),
        (BASE + '[columns.channel]\ncolumn = "x"\nvalues = { a = 1 }', "not of type String"),
        (BASE + "decimals = 9", "decimals is 0 to 4"),
        (BASE.replace("card_id", "user_id"), "no source for card_id"),
        ("requires = 3\n" + BASE, "requires is a list"),
        ("speed = 3\n" + BASE, "unknown key speed"),
        ("", "needs a table"),
        ("[columns", "mapping.toml"),
    ],
)
def test_a_bad_mapping_says_which_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(text)
    with pytest.raises(HistoryError) as caught:
        load_mapping(path)
    assert caught.value.code == "bad_mapping"
    assert message in caught.value.detail


def test_an_absent_mapping_lists_those_that_ship() -> None:
    with pytest.raises(HistoryError, match="canonical, handbook, simulated-101, sparkov"):
        load_mapping("nosuch")


def test_an_own_mapping_reads_an_own_file(write: Write, tmp_path: Path) -> None:
    mapping = tmp_path / "own.toml"
    mapping.write_text(BASE + 'unit = "s"\n[columns.declined]\ncolumn = "d"\noptional = true\n')
    rows = pl.DataFrame({"i": [7.0, 8.0], "c": ["x", "y"], "m": [1, 2], "a": [100, 200], "t": [1, 2]})
    frame = read_history(write(rows), mapping)
    assert frame.select("transaction_id", "amount_minor", "event_time_ms", "declined").row(1)[1:] == (200, 2000, False)
    assert frame["transaction_id"][1] in ("8", "8.0")  # CSV keeps the text


# --- transactions and labels -------------------------------------------------------------------------------------------


def test_frames_and_transactions_convert_back_and_forth() -> None:
    frame = generate(300, seed=1, start_ms=T0_MS, fraud_rate=0.3, users=50, merchants=300)
    transactions = to_transactions(frame)
    assert from_transactions(transactions).equals(frame)
    assert to_transactions(frame, 10, 20) == transactions[10:20]
    assert to_transactions(frame, 290) == transactions[290:]
    assert to_transactions(frame, 20, 10) == []
    assert from_transactions(iter([])).schema == CANONICAL_SCHEMA


def test_absent_and_missing_columns_take_the_defaults_of_a_transaction() -> None:
    small = {
        "transaction_id": ["1"],
        "card_id": ["c"],
        "merchant_id": ["m"],
        "amount_minor": [1],
        "currency": ["USD"],
        "event_time_ms": [2],
    }
    expected = Transaction("1", "default", "c", "m", 1, "USD", 2)
    assert to_transactions(pl.DataFrame(small)) == [expected]
    assert to_transactions(pl.DataFrame({**small, "declined": [None], "transaction_type": [None]})) == [expected]


def test_labels_come_after_the_delay_for_frauds_only(write: Write) -> None:
    frame = read_history(write(handbook_rows(4)))
    known = labels_from_history(frame, 7 * 86_400_000)
    assert known.schema == LABEL_SCHEMA
    assert known.select("transaction_id", "transaction_time_ms", "label_time_ms", "is_fraud", "user_id", "source").rows() == [
        ("1", T0_MS + 60_000, T0_MS + 60_000 + 604_800_000, True, "597", "chargeback"),
        ("3", T0_MS + 180_000, T0_MS + 180_000 + 604_800_000, True, "599", "chargeback"),
    ]


def test_labels_are_sorted_by_their_time_and_leave_out_what_is_unknown() -> None:
    frame = generate(200, seed=1, start_ms=T0_MS, fraud_rate=0.3, users=50, merchants=300)
    frame = frame.sample(fraction=1.0, shuffle=True, seed=2).with_columns(is_fraud=pl.when(pl.col("channel") != "pos").then("is_fraud"))
    known = labels_from_history(frame, 5, fraud_only=False, source="analyst")
    assert known["label_time_ms"].is_sorted()
    assert known.height == frame.height - frame["is_fraud"].null_count()
    assert not known["is_fraud"].all()
    with pytest.raises(ValueError, match="negative"):
        labels_from_history(frame, -1)
