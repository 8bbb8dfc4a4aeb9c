"""A batch with a rollout in it: a challenger decides for its share of the cards, what is in force for all others.

A decision says by its hashes which of them it was, so that a replay and a backtest need not know of the rollout.  A challenger that fails
decides nothing: what is in force steps in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fraud.events import Transaction
from fraud.rollout import is_chosen
from fraud.rules import RuleSet
from serving.challengers import Challenger, Versions
from serving.model import Model
from serving.records import Decision
from serving.scoring import ScoringInput

__all__ = ["OnFailed", "Score", "score_by_card"]

T = TypeVar("T")

Score = Callable[[ScoringInput, RuleSet | None, Model | None], list[Decision]]
OnFailed = Callable[[int, Exception], None]


def score_by_card(
    batch: ScoringInput,
    versions: Versions,
    *,
    live: Callable[[ScoringInput], list[Decision]],
    tried: Score,
    on_failed: OnFailed,
) -> list[Decision]:
    """Decide every event of a batch, in its order.

    Args:
        batch: with the extra features that either set asks for.
        versions: what is in force, and the challengers.
        live: decides with what is in force.
        tried: decides with the versions that it is given; whatever it raises, ``live`` decides.
        on_failed: told of how many events, and why.
    """
    if not versions.has_rollout:
        return live(batch)
    versions = versions.deciding
    arms: dict[tuple[bool, bool], list[int]] = {}
    for i, tx in enumerate(batch.transactions):
        arm = _is_tried(versions.rules_challenger, _hash_of, tx), _is_tried(versions.model_challenger, _sha256_of, tx)
        arms.setdefault(arm, []).append(i)
    decisions: dict[int, Decision] = {}
    for arm, places in arms.items():
        decisions |= zip(places, _decide(batch.rows(places), versions, arm, live, tried, on_failed), strict=True)
    return [decisions[i] for i in range(len(batch.transactions))]


def _decide(
    batch: ScoringInput,
    versions: Versions,
    arm: tuple[bool, bool],
    live: Callable[[ScoringInput], list[Decision]],
    tried: Score,
    on_failed: OnFailed,
) -> list[Decision]:
    if arm == (False, False):
        return live(batch)
    rules = versions.rules_challenger.version if arm[0] and versions.rules_challenger is not None else versions.rules
    model = versions.model_challenger.version if arm[1] and versions.model_challenger is not None else versions.model
    try:
        return tried(batch, rules, model)
    except Exception as error:  # noqa: BLE001 - whatever it is: a payment must not wait for the repair of something that is being tried
        on_failed(len(batch.transactions), error)
        return live(batch)


def _is_tried(challenger: Challenger[T] | None, name: Callable[[T], str], tx: Transaction) -> bool:
    return challenger is not None and is_chosen(name(challenger.version), tx.tenant_id, tx.card_id, challenger.traffic_percentage)


def _hash_of(rules: RuleSet) -> str:
    return rules.hash


def _sha256_of(model: Model) -> str:
    return model.sha256
