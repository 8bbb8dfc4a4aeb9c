"""Percentiles of measured latencies, as every report of this room gives them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["percentiles_ms"]

_PLACES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def percentiles_ms(latencies_ms: ArrayLike) -> dict[str, float]:
    """p50, p95, p99, p99.9 and the largest of latencies in milliseconds, rounded to a hundredth.

    By nearest rank: the smallest latency that at least that share of the known ones does not exceed.  NaN stands for an event
    without an answer and is left out; the result is empty when no latency is known.
    """
    latencies = np.asarray(latencies_ms, dtype=np.float64)
    known = np.sort(latencies[~np.isnan(latencies)])
    if not len(known):
        return {}
    return {name: round(float(known[math.ceil(place * len(known)) - 1]), 2) for name, place in _PLACES.items()}
