"""The decision: model probability, rules score and forced floor become a score and an outcome.

Batch-shaped like everything on the hot path: arrays of ``B`` events, a batch of one is a batch.  A side that is down is given as
``None`` for the whole batch, and the degraded ladder answers.  This module must not know where the numbers come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_POLICY", "Decisions", "Outcome", "Policy", "decide"]


class Outcome(IntEnum):
    """What the caller is told to do, in order of strength: authorise, ask for a second factor, block."""

    ALLOW = 0
    CHALLENGE = 1
    DENY = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """Weights and cuts of the decision; all are shares in 0..1.

    The degraded cuts are strict (a score *above* them is denied) and know no challenge, as the source writes them.

    Raises:
        ValueError: a share outside 0..1, weights that do not sum to one, or a challenge cut above the deny cut.
    """

    model_weight: float = 0.7
    rules_weight: float = 0.3
    challenge_from: float = 0.3
    deny_from: float = 0.7
    rules_alone_deny_above: float = 0.7
    model_alone_deny_above: float = 0.5

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in 0..1, not {getattr(self, name)}")
        if abs(self.model_weight + self.rules_weight - 1.0) > 1e-9:
            raise ValueError("model_weight and rules_weight must sum to 1")
        if self.challenge_from > self.deny_from:
            raise ValueError("challenge_from must not be above deny_from")


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of a batch: ``score`` float64[B] in 0..1, ``outcome`` int8[B] of :class:`Outcome`, and how they were degraded.

    ``degraded`` is ``None`` when model and rules both answered, else ``model_down``, ``rules_down`` or ``model_and_rules_down``.
    """

    score: NDArray[np.float64]
    outcome: NDArray[np.int8]
    degraded: str | None


def decide(
    model: NDArray[np.float64] | None,
    rules: NDArray[np.float64] | None,
    floor: NDArray[np.int8] | None,
    *,
    size: int,
    policy: Policy = DEFAULT_POLICY,
) -> Decisions:
    """Combine the two scores, cut, then raise each outcome to its forced floor.

    Args:
        model: calibrated fraud probabilities, ``float64[B]``; ``None`` when the model is down.
        rules: rule scores, ``float64[B]``; ``None`` when the rules are down.
        floor: strongest outcome forced by a rule, ``int8[B]``; ``None`` when nothing is forced.
        size: ``B``, which neither side tells when both are down.
        policy: weights and cuts.

    Returns:
        Scores and outcomes.  A score that is not a number is denied: every comparison is written so that NaN fails closed.
    """
    score, outcome, degraded = _unforced(model, rules, size, policy)
    if floor is not None:
        outcome = np.maximum(outcome, floor)
    return Decisions(score, outcome, degraded)


def _unforced(
    model: NDArray[np.float64] | None,
    rules: NDArray[np.float64] | None,
    size: int,
    policy: Policy,
) -> tuple[NDArray[np.float64], NDArray[np.int8], str | None]:
    deny, challenge = np.int8(Outcome.DENY), np.int8(Outcome.CHALLENGE)
    if model is not None and rules is not None:
        score = policy.model_weight * model + policy.rules_weight * rules
        below_deny = (score < policy.deny_from).view(np.int8)
        below_challenge = (score < policy.challenge_from).view(np.int8)
        return score, deny - below_deny * (deny - challenge) - below_challenge * challenge, None
    if rules is not None:
        return rules, deny - (rules <= policy.rules_alone_deny_above).view(np.int8) * deny, "model_down"
    if model is not None:
        return model, deny - (model <= policy.model_alone_deny_above).view(np.int8) * deny, "rules_down"
    return np.ones(size), np.full(size, deny), "model_and_rules_down"
