"""The circuit breaker, by a clock of our own."""

from __future__ import annotations

from serving.breakers import Breaker, BreakerState


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock) -> Breaker:
    breaker = Breaker("redis", failures=3, rest_s=1.0, clock=clock)
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_three_failures_in_a_row_and_lets_nobody_through() -> None:
    breaker = opened(Clock())
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admits()


def test_a_success_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker("redis", failures=3)
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_after_its_rest_one_call_tries_and_the_others_keep_waiting() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 1.0
    assert [breaker.admits() for _ in range(3)] == [True, False, False]


def test_the_try_decides() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 1.0
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    clock.now_s += 1.0
    assert breaker.admits()
    breaker.succeeded()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]


def test_a_try_that_is_never_reported_does_not_shut_the_door_for_good() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 1.0
    assert breaker.admits()
    clock.now_s += 1.0
    assert breaker.admits()
