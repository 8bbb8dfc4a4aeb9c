"""What the soak makes of its samples, and the endless traffic that it and the fault tests send."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from fraud.events import Label, Transaction
from infra.campaign import endless
from infra.soak import _Series

START_MS = 1_700_000_000_000


def test_growth_is_a_share_of_the_mean_an_hour() -> None:
    """From 100 to 110 in half an hour: 20 of 105 an hour."""
    series = _Series()
    for step in range(31):
        series.add(step * 60.0, 100.0 + step / 3.0)
    summary = series.summary()
    assert (summary["first"], summary["last"], summary["max"]) == (100.0, 110.0, 110.0)
    assert summary["slope_percent_per_hour"] == pytest.approx(100 * 20 / 105, abs=0.01)


def test_a_constant_does_not_grow() -> None:
    series = _Series()
    for at_s in (0.0, 5.0, 10.0):
        series.add(at_s, 7.0)
    assert series.summary()["slope_percent_per_hour"] == 0.0


def test_endless_traffic_is_due_at_its_own_event_time_over_many_slices() -> None:
    """1,200 events at 100/s are more than two slices: due times go on from one to the next, ids never repeat, labels come too."""
    items = list(
        islice(endless("t", 100.0, seed=1, start_ms=START_MS, is_over=lambda: False, users=300, merchants=30), 1_200),
    )
    assert all(earlier.due_s <= later.due_s for earlier, later in pairwise(items))
    transactions = [item for item in items if isinstance(item.record, Transaction)]
    assert {item.record.tenant_id for item in items} == {"t"}
    assert len({item.record.transaction_id for item in transactions}) == len(transactions)
    assert all(abs(item.record.event_time_ms - START_MS - item.due_s * 1000) < 3_000 for item in transactions)  # type: ignore[union-attr]
    assert any(isinstance(item.record, Label) for item in items)


def test_endless_traffic_ends_when_it_is_over() -> None:
    counted = 0

    def is_over() -> bool:
        return counted == 10

    for _ in endless("t", 100.0, seed=1, start_ms=START_MS, is_over=is_over, users=300, merchants=30):
        counted += 1
    assert counted == 10
