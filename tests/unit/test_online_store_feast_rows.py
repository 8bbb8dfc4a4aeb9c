"""The on-demand view's rows are the kernel's vectors, and addresses translate into Feast's notation."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from feature_repo.on_demand import REQUEST_FIELDS, entity_row, evaluate_rows
from feature_repo.repository import connection_string
from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, Transaction
from fraud.vector import evaluate_vector

TX = Transaction(
    transaction_id="t",
    tenant_id="bank",
    card_id="c|1",
    merchant_id="m",
    amount_minor=12_345,
    currency="EUR",
    event_time_ms=1_700_000_000_000,
    user_id="u",
    channel="web",
    lat=48.1,
    lon=11.6,
    country="DE",
    card_country="AT",
    ip_country="US",
    merchant_mcc=5411,
)


def columns_of(*transactions: Transaction) -> dict[str, list[object]]:
    rows = [entity_row(tx) | {f"{kind}_state": None for kind in KINDS} for tx in transactions]
    return {name: [row[name] for row in rows] for name in rows[0]}


def names_of_the_view() -> set[str]:
    return set(CATALOGUE.names) | {f"velocity__{name}" for name in CATALOGUE.names}


def test_rows_are_evaluated_as_the_kernel_does() -> None:
    bare = Transaction("t2", "default", "c", "m", 1, "USD", 1_700_000_000_001)
    result = evaluate_rows(columns_of(TX, bare))
    assert set(result) == names_of_the_view()
    for row, tx in enumerate((TX, bare)):
        expected = evaluate_vector(tx, [None] * len(KINDS))
        assert np.array([result[name][row] for name in CATALOGUE.names]).tobytes() == expected.tobytes()


def test_the_schema_can_be_inferred_from_rows_without_keys() -> None:
    result = evaluate_rows({"amount_minor": [1], "currency": ["hello world"], "card_state": [b"hello world"]})
    assert set(result) == names_of_the_view()
    assert all(len(values) == 1 and math.isnan(values[0]) for values in result.values())


def test_an_entity_that_the_transaction_does_not_name_has_the_empty_key() -> None:
    row = entity_row(TX)
    assert (row["card_key"], row["user_key"], row["device_key"], row["ip_key"]) == ("bank|c|1", "bank|u", "", "")


def test_request_fields_are_fields_of_the_transaction_and_never_its_labels() -> None:
    known = {field.name for field in fields(Transaction)}
    assert set(REQUEST_FIELDS) <= known - {"is_fraud", "scenario", "batch_id"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost:6379/0", "localhost:6379,db=0"),
        ("redis://cache", "cache:6379"),
        ("rediss://app:s%40cret@cache:7000/2", 'cache:7000,db=2,username="app",password="s@cret",ssl=true'),
        ("redis://:123@cache", 'cache:6379,password="123"'),
    ],
)
def test_addresses_translate(url: str, expected: str) -> None:
    assert connection_string(url) == expected


@pytest.mark.parametrize("url", ["http://cache", "cache:6379", "redis://:a%2Cb@cache"])
def test_addresses_that_feast_cannot_reach_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis://|comma"):
        connection_string(url)
