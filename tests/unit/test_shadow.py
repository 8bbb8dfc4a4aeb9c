"""Challengers behind decisions: which are asked, what is counted, and how one that fails or is slow is left alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from fraud.catalogue import CATALOGUE
from fraud.rules import RuleSet
from serving.challengers import Challenger, Versions
from serving.codec import MAX_VALUE_BYTES
from serving.records import Decision
from serving.scoring import Scorer, ScoringInput
from serving.shadow import ShadowLane
from tests.scoring_world import CODEC, RULES, FakeModel, payment


class _Trial:
    """A lane with clocks of its own and a model of the test."""

    def __init__(self, model: FakeModel) -> None:
        self.now_s, self.worked_s = 100.0, 0.0
        self.counted: Counter[tuple[str, str]] = Counter()
        self.model = model
        self.lane = ShadowLane(self._count, clock=lambda: self.now_s, work=lambda: self.worked_s)

    def _count(self, kind: str, result: str, events: int) -> None:
        self.counted[kind, result] += events

    def ask(self, *decisions: Decision, rules: Any = None) -> list[str]:
        versions = Versions(RULES, None, rules, Challenger(self.model.sha256, self.model, 0.0))  # type: ignore[arg-type]  # a model by its answer
        return [shadow.outcome for shadow in self.lane.ask(batch(len(decisions)), decisions, versions)]


def batch(size: int) -> ScoringInput:
    nothing: Any = [[] for _ in range(size)]
    return ScoringInput([payment() for _ in range(size)], np.full((size, CATALOGUE.size), np.nan), [False] * size, nothing, nothing)


def decided(size: int = 2, **changes: Any) -> list[Decision]:
    decisions = Scorer("stream", "test").score(batch(size), RULES, None)
    for decision in decisions:
        for name, value in changes.items():
            setattr(decision, name, value)
    return decisions


def test_agreement_and_difference_are_counted_by_event() -> None:
    trial = _Trial(FakeModel(0.99))
    allowed, denied = decided(1, outcome="ALLOW"), decided(2, outcome="CHALLENGE")
    assert trial.ask(*allowed, *denied) == ["CHALLENGE"] * 3
    assert trial.counted == {("model", "same"): 2, ("model", "other"): 1}


def test_what_the_challenger_has_decided_it_is_not_asked_about() -> None:
    trial = _Trial(FakeModel(0.99))
    theirs = decided(1, model_sha256=FakeModel.sha256)
    assert trial.ask(*theirs) == []
    assert trial.ask(*theirs, *decided(1)) == ["CHALLENGE"]
    assert trial.model.calls == 1


def test_one_that_fails_rests_after_three_times_and_is_asked_again_later() -> None:
    trial = _Trial(FakeModel(error=MemoryError("of a test")))
    for _ in range(5):
        assert trial.ask(*decided(2)) == []
    assert (trial.model.calls, trial.counted) == (3, {("model", "failed"): 6, ("model", "left_out"): 4})
    trial.now_s += 31
    trial.model.error = None
    assert len(trial.ask(*decided(2))) == 2
    trial.model.error = ValueError("once more")
    trial.ask(*decided(2))
    trial.model.error = None
    assert len(trial.ask(*decided(2))) == 2  # one failure is no row


def test_one_that_is_slow_answers_and_rests_after_three_times() -> None:
    trial = _Trial(FakeModel(on_predict=lambda: setattr(trial, "worked_s", trial.worked_s + 1.0)))
    assert [len(trial.ask(*decided(2))) for _ in range(5)] == [2, 2, 2, 0, 0]
    assert trial.counted == {("model", "slow"): 6, ("model", "left_out"): 4}


def chatty(characters: int) -> RuleSet:
    """A hundred rules that fire on every payment, with messages of so many characters together."""
    item = {"name": "n", "when": "amount_minor >= 0", "score": 0.1, "reason_code": "R", "message": "m" * (characters // 100)}
    return RuleSet.parse({"rules": [item | {"id": f"r{i}"} for i in range(100)]}, CATALOGUE.index)


@pytest.mark.parametrize(("characters", "answers", "result"), [(32_700, 2, "same"), (32_800, 0, "failed")])
def test_one_whose_messages_no_record_can_hold_has_failed(characters: int, answers: int, result: str) -> None:
    trial, rules = _Trial(FakeModel()), chatty(characters)
    versions = Versions(RULES, None, Challenger(rules.hash, rules, 0.0), None)
    decisions = decided(2, outcome="DENY")
    shadows = trial.lane.ask(batch(2), decisions, versions)
    assert len(shadows) == answers
    assert trial.counted["rules", result] == 2
    assert all(len(CODEC.encode_shadow_decision(shadow)) < MAX_VALUE_BYTES for shadow in shadows)


def test_a_failure_of_one_challenger_is_not_the_others() -> None:
    trial = _Trial(FakeModel(error=ValueError("of a test")))
    rules = Challenger(RULES.hash, RULES, 0.0)
    outcomes = [trial.ask(*decided(2, rule_set_hash="0" * 64), rules=rules) for _ in range(5)]
    assert [len(one) for one in outcomes] == [2] * 5
    assert trial.counted["rules", "same"] == 10
