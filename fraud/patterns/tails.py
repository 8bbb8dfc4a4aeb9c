"""Upper tails of counts, and how improbable regular spacing is, as natural logarithms: the numbers get too small for floats."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["binomial_tail", "negative_binomial_tail", "poisson_tail", "regularity_tail"]

_ENOUGH = 1e-12  # a term that adds less than this share of the sum ends it


def poisson_tail(count: int, mean: float) -> float:
    """Log of P(X >= count) for a Poisson X; 0 up to its mean, where it says nothing against honesty."""
    if count <= mean:
        return 0.0
    first = count * math.log(mean) - mean - math.lgamma(count + 1)
    return _sum(first, count, lambda k: mean / (k + 1))


def binomial_tail(count: int, trials: int, chance: float) -> float:
    """Log of P(X >= count) for ``trials`` of which each succeeds with ``chance``; 0 up to the mean."""
    if count <= trials * chance:
        return 0.0
    odds = chance / (1.0 - chance)
    first = _log_choose(trials, count) + count * math.log(chance) + (trials - count) * math.log1p(-chance)
    return _sum(first, count, lambda k: (trials - k) / (k + 1) * odds)


def negative_binomial_tail(count: int, seen: int, exposure: float) -> float:
    """Log of P(X >= count) for a Poisson X whose rate is only known from ``seen`` events; 0 up to the mean.

    ``exposure`` is the length of X's time in units of the time in which those events were seen.  The rate's posterior is
    Gamma(seen + 1), so X is negative binomial: little history makes the tail fat (Gelman et al., Bayesian Data Analysis, 2.6).
    """
    shape = seen + 1
    if count <= shape * exposure:
        return 0.0
    q = exposure / (1.0 + exposure)
    first = _log_choose(count + shape - 1, count) + shape * math.log1p(-q) + count * math.log(q)
    return _sum(first, count, lambda k: (k + shape) / (k + 1) * q)


def regularity_tail(variation: float, gaps: int) -> float:
    """Log of an upper bound of P(coefficient of variation of ``gaps`` intervals <= variation) for a Poisson process.

    Given its first and last event, the intervals of a Poisson process are uniform on a simplex of ``gaps - 1`` dimensions (Feller,
    vol. 2, I.7).  A coefficient of variation of at most c is the ball of radius ``c / sqrt(gaps)`` around its centre, so the
    probability is at most the ball's volume over the simplex's, and equal to it while the ball lies inside.
    """
    if gaps < 2 or variation >= 1.0:
        return 0.0
    if variation <= 0.0:
        return -math.inf
    dimensions = gaps - 1
    ball = dimensions / 2 * math.log(math.pi) - math.lgamma(dimensions / 2 + 1) + dimensions * math.log(variation / math.sqrt(gaps))
    simplex = 0.5 * math.log(gaps) - math.lgamma(gaps)
    return min(0.0, ball - simplex)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _sum(log_first: float, count: int, ratio: Callable[[int], float]) -> float:
    """Log of a series by its first term and the ratio of term k + 1 to term k."""
    total = term = 1.0
    k = count
    while term > _ENOUGH * total:
        term *= ratio(k)
        total += term
        k += 1
    return min(0.0, log_first + math.log(total))
