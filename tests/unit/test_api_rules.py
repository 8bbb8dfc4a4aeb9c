"""What the routes of rules take; how a draft is tried, over a real broker: tests/integration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from api.bodies import RuleBody, RuleSetBody
from fraud.catalogue import CATALOGUE
from fraud.rules import Rule, RuleSet, State
from serving.rules_file import DEFAULT_RULES_PATH, load_rules


def rule(name: str, score: float = 0.5, state: State = State.ENABLED) -> Rule:
    return Rule(name, name, "amount_minor > 100", score, "R", "m", state=state)


def rule_set(*rules: Rule) -> RuleSet:
    return RuleSet(rules, CATALOGUE.index)


def test_the_shipped_rules_go_through_the_body_of_the_api_and_back() -> None:
    shipped = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    body = RuleSetBody(rules=[RuleBody(**one.to_plain()) for one in shipped.rules])
    assert RuleSet.parse(body.model_dump(), CATALOGUE.index).hash == shipped.hash


@pytest.mark.parametrize(
    "changed",
    [
        {"score": 1.1},
        {"score": float("nan")},
        {"score": "0.5"},
        {"floor": "ALLOW"},
        {"priority": 1.5},
        {"priority": True},
        {"state": "on"},
        {"when": "x" * 4_097},
        {"author": "eve"},
    ],
    ids=str,
)
def test_a_body_is_strict(changed: dict[str, Any]) -> None:
    good = rule("a").to_plain()
    RuleBody(**good)
    with pytest.raises(ValidationError):
        RuleBody(**(good | changed))


def test_a_set_differs_by_its_rules_and_not_by_their_order() -> None:
    assert rule_set(rule("a"), rule("b")).hash == rule_set(rule("b"), rule("a")).hash
    assert rule_set(rule("a")).hash != rule_set(replace(rule("a"), score=0.4)).hash
