"""How a draft is put beside the rules in force, and what the routes take; over a real broker: tests/integration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.bodies import RuleBody, RuleSetBody
from fraud.catalogue import CATALOGUE
from fraud.rules import Rule, RuleSet, State
from serving.rule_book import with_shadow
from serving.rules_file import DEFAULT_RULES_PATH, load_rules


def rule(name: str, score: float = 0.5, state: State = State.ENABLED) -> Rule:
    return Rule(name, name, "amount_minor > 100", score, "R", "m", state=state)


def rule_set(*rules: Rule) -> RuleSet:
    return RuleSet(rules, CATALOGUE.index)


names = st.sampled_from(["a", "b", "c", "a_shadow", "a_shadow2", "b_shadow", "z" * 64])
rules = st.builds(rule, names, st.sampled_from([0.1, 0.5]), st.sampled_from(list(State)))
sets = st.lists(rules, unique_by=lambda one: one.id).map(lambda found: rule_set(*found))


@given(sets, sets)
def test_a_shadow_changes_nothing_that_counts(base: RuleSet, draft: RuleSet) -> None:
    both = with_shadow(base, draft)
    assert set(base.rules) <= set(both.rules)
    added = [one for one in both.rules if one not in base.rules]
    assert {one.state for one in added} <= {State.SHADOW}
    assert all(len(one.id) <= 64 for one in both.rules)


@given(sets, sets)
def test_every_rule_of_a_draft_that_is_new_and_not_disabled_is_tried(base: RuleSet, draft: RuleSet) -> None:
    tried = [one for one in draft.rules if one.state is not State.DISABLED and one not in base.rules]
    assert len(with_shadow(base, draft).rules) == len(base.rules) + len(tried)


def test_a_rule_that_stands_in_both_with_the_same_words_is_not_tried_twice() -> None:
    assert with_shadow(rule_set(rule("a")), rule_set(rule("a"))).rules == (rule("a"),)


def test_the_id_of_a_rule_in_force_stays_its_own() -> None:
    both = with_shadow(rule_set(rule("a"), rule("a_shadow")), rule_set(rule("a", 0.9)))
    assert {one.id: one.score for one in both.rules} == {"a": 0.5, "a_shadow": 0.5, "a_shadow2": 0.9}


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
