"""Percentiles of latencies: nearest ranks of what is known."""

from __future__ import annotations

import numpy as np
import pytest

from infra.percentiles import percentiles_ms


def test_percentiles_are_nearest_ranks_of_what_is_known() -> None:
    latencies_ms = np.array([*np.arange(1, 101), np.nan])
    assert percentiles_ms(latencies_ms) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 100.0, "max": 100.0}


@pytest.mark.parametrize("nothing", [[], [float("nan")]])
def test_without_an_answer_there_are_no_percentiles(nothing: list[float]) -> None:
    assert percentiles_ms(nothing) == {}


def test_one_latency_is_every_percentile_and_the_order_of_arrival_does_not_matter() -> None:
    assert set(percentiles_ms([12.5]).values()) == {12.5}
    assert percentiles_ms([3.0, 1.0, 2.0]) == percentiles_ms([1.0, 2.0, 3.0])
    assert percentiles_ms([3.0, 1.0, 2.0])["p50"] == 2.0
