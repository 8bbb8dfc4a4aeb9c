"""Shares with their intervals: how much chance there is in counts of this size."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Share", "Z", "share"]

Z = 1.959963984540054  # 97.5 % of the normal distribution lie below


@dataclass(frozen=True, slots=True)
class Share:
    """``hits`` of ``of`` as a share, with Wilson's interval; ``value`` is None of nothing."""

    hits: int
    of: int
    value: float | None
    low: float
    high: float


def share(hits: int, of: int) -> Share:
    """A share and its interval of 95 % (Wilson 1927; Brown, Cai, DasGupta 2001 recommend it)."""
    if of == 0:
        return Share(0, 0, None, 0.0, 1.0)
    p, z2 = hits / of, Z * Z
    centre = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = Z * math.sqrt(p * (1 - p) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    # at the ends the formula gives 0 and 1 but for rounding
    return Share(hits, of, p, 0.0 if hits == 0 else centre - half, 1.0 if hits == of else centre + half)
