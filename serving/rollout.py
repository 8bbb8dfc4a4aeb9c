"""A batch with a rollout in it: a challenger decides for its share of the cards, what is in force for all others.

A decision says by its hashes which of them it was, so that a replay and a backtest need not know of the rollout.  A challenger that fails
decides nothing: what is in force steps in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fraud.events import Transaction
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
    deciding = versions.deciding
    arms: dict[tuple[bool, bool], list[int]] = {}
    for i, tx in enumerate(batch.transactions):
        arms.setdefault((_decides(deciding.rules_challenger, tx), _decides(deciding.model_challenger, tx)), []).append(i)
    decisions: dict[int, Decision] = {}
    for (by_rules, by_model), places in arms.items():
        rules = _version(deciding.rules_challenger, deciding.rules, is_tried=by_rules)
        model = _version(deciding.model_challenger, deciding.model, is_tried=by_model)
        some = batch.rows(places)
        made = _decide(some, rules, model, live, tried, on_failed) if by_rules or by_model else live(some)
        decisions |= zip(places, made, strict=True)
    return [decisions[i] for i in range(len(batch.transactions))]


def _decide(
    batch: ScoringInput,
    rules: RuleSet | None,
    model: Model | None,
    live: Callable[[ScoringInput], list[Decision]],
    tried: Score,
    on_failed: OnFailed,
) -> list[Decision]:
    try:
        return tried(batch, rules, model)
    except Exception as error:  # noqa: BLE001 - whatever it is: a payment must not wait for the repair of something that is being tried
        on_failed(len(batch.transactions), error)
        return live(batch)


def _decides(challenger: Challenger[T] | None, tx: Transaction) -> bool:
    return challenger is not None and challenger.decides(tx)


def _version(challenger: Challenger[T] | None, live: T | None, *, is_tried: bool) -> T | None:
    return challenger.version if is_tried and challenger is not None else live
