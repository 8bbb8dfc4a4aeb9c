"""What the bench makes of latencies: the rate of the answers, and whether a queue grew."""

from __future__ import annotations

import numpy as np
import pytest

from infra.bench_stream import is_held, working_rate
from infra.load import Measured


def _measured(latency_s: np.ndarray, rate: float = 100.0) -> Measured:
    due_s = np.arange(len(latency_s)) / rate
    return Measured(due_s, {"fast": latency_s, "ledger": latency_s})


def test_a_steady_wait_is_held_and_a_growing_one_is_not() -> None:
    rng = np.random.default_rng(1)
    steady = 0.05 + 0.02 * rng.random(900)
    assert is_held(_measured(steady))
    assert not is_held(_measured(steady + np.linspace(0, 5, 900)))
    assert not is_held(_measured(steady + 5))


def test_an_event_without_an_answer_is_not_held() -> None:
    latency_s = np.full(900, 0.05)
    latency_s[10] = np.nan
    assert not is_held(_measured(latency_s))


def test_the_working_rate_is_that_of_the_answers() -> None:
    # all due at once, answered at 250/s
    measured = Measured(np.zeros(1_000), {"fast": np.arange(1_000) / 250})
    assert working_rate(measured) == pytest.approx(250.0)
