"""Shares, truth, money and the estimate for what has no label, against numbers worked out elsewhere."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.backtest_measures import (
    Counts,
    Money,
    counts_of,
    estimate_unlabelled,
    measure,
    money_of,
)
from analytics.shares import share
from training.truth import FRAUD, GOOD, UNKNOWN, truth_of


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    # R: binom::binom.confint(methods = "wilson")
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (1, 100, 0.00177, 0.05449), (81, 263, 0.25529, 0.36621)],
)
def test_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    found = share(hits, of)
    assert found.value == hits / of
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-6)


def test_a_share_of_nothing_has_no_value_and_may_be_anything() -> None:
    assert (share(0, 0).value, share(0, 0).low, share(0, 0).high) == (None, 0.0, 1.0)


@given(st.integers(1, 10**9), st.data())
def test_an_interval_holds_its_share_and_stays_within_0_and_1(of: int, data: st.DataObject) -> None:
    found = share(data.draw(st.integers(0, of)), of)
    assert 0.0 <= found.low <= found.hits / of <= found.high <= 1.0


def test_the_truth_is_the_label_and_without_one_what_was_allowed_long_enough_ago() -> None:
    truth = truth_of(
        {1: 1, 2: 0},
        np.array([1, 2, 3, 4, 5]),
        allowed=np.array([True, False, True, False, True]),
        event_time_ms=np.array([10, 20, 30, 40, 50]),
        mature_before_ms=30,
    )
    assert truth.tolist() == [FRAUD, GOOD, GOOD, UNKNOWN, UNKNOWN]


def test_measures_leave_the_unknown_out() -> None:
    truth = np.array([FRAUD, FRAUD, FRAUD, GOOD, GOOD, UNKNOWN], dtype=np.int8)
    found = measure(truth, np.array([True, True, False, True, False, True]))
    assert found.stopped == Counts(4, 2, 1, 1)
    assert (found.precision.hits, found.precision.of) == (2, 3)
    assert (found.recall.hits, found.recall.of) == (2, 3)
    assert (found.false_positive_rate.hits, found.false_positive_rate.of) == (1, 2)


def test_money_is_summed_exactly_by_currency() -> None:
    """Amounts beyond what a float holds."""
    frame = pl.DataFrame({"transaction.currency": ["JPY", "EUR", "EUR", "EUR"], "transaction.amount_minor": [7, 2**53, 1, 5]})
    truth = np.array([UNKNOWN, FRAUD, FRAUD, GOOD], dtype=np.int8)
    found = money_of(frame, truth, np.ones(4, dtype=np.bool_))
    assert found == (Money("EUR", 2**53 + 1, 5, 0), Money("JPY", 0, 0, 7))
    assert money_of(frame, truth, np.zeros(4, dtype=np.bool_)) == ()


def test_unlabelled_events_take_the_rate_of_labelled_ones_of_like_score() -> None:
    """Forty labelled in one tenth, ten of them fraud; a tenth with three labelled ones takes the model's word."""
    truth = np.array([FRAUD] * 10 + [GOOD] * 30 + [UNKNOWN] * 8 + [FRAUD] * 3 + [UNKNOWN] * 2 + [UNKNOWN], dtype=np.int8)
    scores = np.array([0.25] * 48 + [0.95] * 3 + [0.92, 0.96] + [np.nan])
    found = estimate_unlabelled(truth, scores, np.ones(len(truth), dtype=np.bool_))
    rate = share(10, 40)
    assert [(band.low, band.events, band.labelled, band.from_model) for band in found.bands] == [
        (0.0, 1, 0, True),
        (0.2, 8, 40, False),
        (0.9, 2, 3, True),
    ]
    assert found.fraud == pytest.approx(8 * 0.25 + 2 * 0.94 + 0.5)
    assert (found.fraud_low, found.fraud_high) == pytest.approx((8 * rate.low, 8 * rate.high + 2 + 1))
    assert (found.events, found.from_model) == (11, 3)


def test_an_estimate_of_nothing_is_nothing() -> None:
    found = estimate_unlabelled(np.array([FRAUD], dtype=np.int8), np.array([0.5]), np.ones(1, dtype=np.bool_))
    assert (found.events, found.fraud, found.bands) == (0, 0, ())
    assert counts_of(np.array([FRAUD], dtype=np.int8), np.zeros(1, dtype=np.bool_)) == Counts(0, 0, 0, 0)
