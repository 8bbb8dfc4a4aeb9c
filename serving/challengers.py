"""Challengers: a rule set or a model that is tried beside the one in force.

A challenger decides for a share of the cards, ``traffic_percentage``.  For all others it is asked behind the decision (``serving.shadow``),
which it cannot reach.  So 0 is a shadow, more is a rollout, and whatever is in force has the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from fraud.catalogue import CATALOGUE
from fraud.errors import InvalidEvent
from fraud.events import Transaction
from fraud.extra import in_order
from fraud.rollout import is_chosen
from fraud.rules import InvalidRules, RuleSet
from serving.model import Model
from serving.records import RuleSetVersion

__all__ = ["Challenger", "Versions", "features_asked_by", "rules_challenger", "share"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Challenger(Generic[T]):
    """What is tried, by the hash that decisions carry, and for how many percent of the cards it decides."""

    hash: str
    version: T
    traffic_percentage: float

    def decides(self, tx: Transaction) -> bool:
        """Whether the card of a transaction is in its share."""
        return is_chosen(self.hash, tx.tenant_id, tx.card_id, self.traffic_percentage)


@dataclass(frozen=True, slots=True)
class Versions:
    """What decides a batch, and what is tried beside it; ``None`` is a side that is down, or that has no challenger."""

    rules: RuleSet | None
    model: Model | None
    rules_challenger: Challenger[RuleSet] | None = None
    model_challenger: Challenger[Model] | None = None

    @property
    def extra(self) -> tuple[str, ...]:
        """The features beyond the catalogue that either rule set asks for, in the order of their columns."""
        names, tried = () if self.rules is None else self.rules.extra, self.rules_challenger
        if tried is None or set(tried.version.extra) <= set(names):
            return names
        return in_order([*{*names, *tried.version.extra}])

    @property
    def has_rollout(self) -> bool:
        """Whether a challenger decides for some cards."""
        return any(one is not None and one.traffic_percentage > 0.0 for one in (self.rules_challenger, self.model_challenger))

    @property
    def deciding(self) -> Versions:
        """Without the challengers that are only asked behind decisions, and without those of a side that is down."""
        return replace(
            self,
            rules_challenger=None if self.rules is None else _with_traffic(self.rules_challenger),
            model_challenger=None if self.model is None else _with_traffic(self.model_challenger),
        )


def _with_traffic(challenger: Challenger[T] | None) -> Challenger[T] | None:
    return challenger if challenger is not None and challenger.traffic_percentage > 0.0 else None


def share(traffic_percentage: float) -> float:
    """The percentage, if it is one that leaves something to what is in force; raises InvalidEvent."""
    if not 0.0 <= traffic_percentage < 100.0:
        raise InvalidEvent("bad_percentage", f"traffic_percentage is {traffic_percentage}, not 0 to less than 100")
    return traffic_percentage


def rules_challenger(body: str, traffic_percentage: float) -> Challenger[RuleSet]:
    """The rules of a control record that are tried beside its own; raises InvalidRules, InvalidEvent."""
    rules = RuleSet.from_json(body, CATALOGUE.index)
    return Challenger(rules.hash, rules, share(traffic_percentage))


def features_asked_by(version: RuleSetVersion) -> tuple[str, ...]:
    """The features beyond the catalogue that a record which comes into force asks for; raises InvalidRules for one that cannot.

    A challenger that cannot be used is not tried, and the set in force is not its victim.
    """
    rules, tried = RuleSet.from_json(version.body, CATALOGUE.index), version.challenger_body
    try:
        return Versions(rules, None, None if tried is None else rules_challenger(tried, version.traffic_percentage)).extra
    except (InvalidRules, InvalidEvent):
        return rules.extra
