"""The comparison notices every bit, and knows tenants and ties."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fraud.catalogue import CATALOGUE
from training.parity import NotComparable, bits_differ, compare

NAMES = list(CATALOGUE.names)


def _frame(ids: list[str], tenant: str = "t") -> pl.DataFrame:
    return pl.DataFrame(
        {"tenant_id": [tenant] * len(ids), "transaction_id": ids, "card_id": ["c"] * len(ids), "event_time_ms": [0] * len(ids)}
    )


def _reference(frame: pl.DataFrame, features: np.ndarray) -> pl.DataFrame:
    return frame.with_columns([pl.Series(name, features[:, i]) for i, name in enumerate(NAMES)])


def test_the_smallest_difference_counts_and_missing_equals_missing() -> None:
    ours = np.array([1.0, np.nan, 0.0, 1.0])
    theirs = np.array([np.nextafter(1.0, 2.0), np.nan, -0.0, 1.0])
    assert bits_differ(ours, theirs).tolist() == [True, False, True, False]


def test_rows_meet_by_tenant_and_transaction_in_any_order() -> None:
    rng = np.random.default_rng(1)
    features = rng.random((3, len(NAMES)))
    frame = _frame(["1", "2", "3"])
    shuffled = _reference(frame, features)[[2, 0, 1]]
    other_tenant = _reference(_frame(["1"], tenant="u"), rng.random((1, len(NAMES))))
    parity = compare(frame, features, pl.concat([other_tenant, shuffled]))
    assert (parity.compared_rows, parity.differing_rows, parity.missing_rows) == (3, 0, 1)


def test_a_difference_is_counted_by_row_entity_and_feature() -> None:
    features = np.zeros((2, len(NAMES)))
    reference = _reference(_frame(["1", "2"]), features)
    features[1, CATALOGUE.index["merchant_count_tx_1h"]] = 1.0
    parity = compare(_frame(["1", "2"]), features, reference)
    assert parity.differing_rows == 1
    assert parity.by_entity["merchant"] == 1
    assert parity.by_entity["card"] == 0
    assert parity.by_feature == {"merchant_count_tx_1h": 1}


def test_nothing_in_common_is_an_error_and_not_a_pass() -> None:
    features = np.zeros((1, len(NAMES)))
    with pytest.raises(NotComparable):
        compare(_frame(["1"]), features, _reference(_frame(["2"]), features))
    with pytest.raises(NotComparable):
        compare(_frame(["1"]), features, _frame(["1"]))
