"""The decision: weighted score, cuts, the degraded ladder and forced floors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.decide import Decisions, Outcome, Policy, decide

share = st.floats(0, 1)


def one(model: float | None, rules: float | None, floor: Outcome | None = None, policy: Policy | None = None) -> Decisions:
    """Decide a batch of one."""
    return decide(
        None if model is None else np.array([model]),
        None if rules is None else np.array([rules]),
        None if floor is None else np.array([floor], dtype=np.int8),
        size=1,
        policy=policy or Policy(),
    )


def test_the_sources_vector_scores_0_099_and_allows() -> None:
    decisions = one(0.12, 0.05)
    assert decisions.score[0] == pytest.approx(0.099, abs=1e-15)
    assert decisions.outcome[0] == Outcome.ALLOW
    assert decisions.degraded is None


@pytest.mark.parametrize(
    ("score", "outcome"),
    [
        (0.0, Outcome.ALLOW),
        (np.nextafter(0.3, 0), Outcome.ALLOW),
        (0.3, Outcome.CHALLENGE),
        (0.699999, Outcome.CHALLENGE),
        (0.7, Outcome.DENY),
        (0.92, Outcome.DENY),
    ],
)
def test_the_cuts_include_their_lower_end(score: float, outcome: Outcome) -> None:
    only_model = Policy(model_weight=1.0, rules_weight=0.0)
    assert one(score, 0.0, policy=only_model).outcome[0] == outcome


def test_rules_alone_reach_a_challenge_and_no_more() -> None:
    assert one(0.0, 1.0).outcome[0] == Outcome.CHALLENGE


@pytest.mark.parametrize(
    ("model", "rules", "outcome", "degraded"),
    [
        (None, 0.7, Outcome.ALLOW, "model_down"),
        (None, 0.7000001, Outcome.DENY, "model_down"),
        (0.5, None, Outcome.ALLOW, "rules_down"),
        (0.5000001, None, Outcome.DENY, "rules_down"),
        (None, None, Outcome.DENY, "model_and_rules_down"),
    ],
)
def test_the_degraded_ladder_has_strict_cuts_and_no_challenge(
    model: float | None, rules: float | None, outcome: Outcome, degraded: str
) -> None:
    decisions = one(model, rules)
    assert (decisions.outcome[0], decisions.degraded) == (outcome, degraded)
    alone = model if model is not None else rules
    assert decisions.score[0] == (1.0 if alone is None else alone)


@pytest.mark.parametrize(("model", "rules"), [(0.0, 0.0), (None, 0.0), (0.0, None)])
def test_a_forced_denial_holds_whatever_the_score_says_also_degraded(model: float | None, rules: float | None) -> None:
    assert one(model, rules, Outcome.DENY).outcome[0] == Outcome.DENY


def test_a_floor_never_lowers_an_outcome() -> None:
    assert one(1.0, 1.0, Outcome.CHALLENGE).outcome[0] == Outcome.DENY
    assert one(0.0, 0.0, Outcome.ALLOW).outcome[0] == Outcome.ALLOW


@pytest.mark.parametrize(("model", "rules"), [(np.nan, 0.0), (0.0, np.nan), (np.nan, None), (None, np.nan)])
def test_a_score_that_is_not_a_number_is_denied(model: float | None, rules: float | None) -> None:
    assert one(model, rules).outcome[0] == Outcome.DENY


@given(st.lists(st.tuples(share, share, st.sampled_from(Outcome)), min_size=1, max_size=40))
def test_a_batch_decides_as_its_events_alone(rows: list[tuple[float, float, Outcome]]) -> None:
    model, rules, floor = (np.array(column) for column in zip(*rows, strict=True))
    batch = decide(model, rules, floor.astype(np.int8), size=len(rows))
    alone = [one(*row) for row in rows]
    assert batch.score.tolist() == [decisions.score[0] for decisions in alone]
    assert batch.outcome.tolist() == [decisions.outcome[0] for decisions in alone]
    assert batch.outcome.dtype == np.int8


def test_an_empty_batch_is_a_batch() -> None:
    assert decide(np.empty(0), np.empty(0), None, size=0).outcome.shape == (0,)
    assert decide(None, None, None, size=0).score.shape == (0,)


@pytest.mark.parametrize(
    "bad",
    [{"deny_from": 1.2}, {"challenge_from": 0.8}, {"model_weight": 0.8}, {"rules_alone_deny_above": float("nan")}],
)
def test_a_policy_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Policy(**bad)
