"""A circuit breaker: what fails again and again is left alone for a while, so that nobody waits for it in vain.

Closed, it lets every call through.  After ``failures`` in a row it opens: calls are not made.  After ``rest_s`` one call may try;
its success closes the breaker, its failure opens it again.  This module knows neither what is called nor how long that may take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

__all__ = ["Breaker", "BreakerState"]


class BreakerState(StrEnum):
    """Whether calls are made."""

    CLOSED = "closed"
    OPEN = "open"
    TRYING = "trying"


class Breaker:
    """Guards one dependency; belongs to one thread.

    Args:
        name: of the dependency.
        failures: in a row, after which it opens.
        rest_s: how long it then stays open before one call may try.
        clock: seconds, monotonic.
    """

    def __init__(self, name: str, *, failures: int = 3, rest_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.state = BreakerState.CLOSED
        self._allowed = failures
        self._rest_s = rest_s
        self._clock = clock
        self._in_a_row = 0
        self._opened_s = 0.0

    def admits(self) -> bool:
        """Whether a call may be made now; whoever is told yes reports back."""
        if self.state is BreakerState.CLOSED:
            return True
        # one that was admitted and never reported (its caller went away) must not shut the door for good
        if self._clock() - self._opened_s < self._rest_s:
            return False
        self.state = BreakerState.TRYING
        self._opened_s = self._clock()
        return True

    def succeeded(self) -> None:
        """A call was answered in time."""
        self._in_a_row = 0
        self.state = BreakerState.CLOSED

    def failed(self) -> None:
        """A call failed, or took too long."""
        self._in_a_row += 1
        if self.state is BreakerState.TRYING or self._in_a_row >= self._allowed:
            self.state = BreakerState.OPEN
            self._opened_s = self._clock()
