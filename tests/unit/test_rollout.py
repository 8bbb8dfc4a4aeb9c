"""The share of the cards for which a challenger decides, and what steps in when it fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.sides import LIMIT_S, Sides
from fraud.catalogue import CATALOGUE
from fraud.events import Transaction
from fraud.rollout import is_chosen
from fraud.rules import RuleSet
from serving.breakers import BreakerState
from serving.challengers import Challenger, Versions
from serving.records import Decision
from serving.scoring import Scorer
from tests.scoring_world import RULES, FakeModel, InForce, payment
from tests.unit.test_shadow import batch

HALF = RuleSet(RULES.rules[::2], CATALOGUE.index)
percentages = st.floats(0.0, 100.0, exclude_max=True)
names = st.text(max_size=20)


@given(names, names, names, percentages, percentages)
def test_a_card_that_is_chosen_stays_chosen_when_the_share_grows(challenger: str, tenant: str, card: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert is_chosen(challenger, tenant, card, less) <= is_chosen(challenger, tenant, card, more)
    assert not is_chosen(challenger, tenant, card, 0.0)
    assert is_chosen(challenger, tenant, card, 100.0)


@pytest.mark.parametrize("percent", [0.5, 10.0, 50.0, 99.0])
def test_the_share_is_what_it_says_it_is(percent: float) -> None:
    """Of 20,000 cards; four standard deviations around it."""
    chosen = sum(is_chosen("a" * 64, "acme", f"card-{i}", percent) for i in range(20_000)) / 200
    assert abs(chosen - percent) < 4 * (percent * (100 - percent) / 20_000) ** 0.5


def test_two_challengers_choose_apart_and_two_tenants_too() -> None:
    cards = [f"card-{i}" for i in range(20_000)]
    ours = [is_chosen("a" * 64, "acme", card, 50.0) for card in cards]
    for theirs in (
        [is_chosen("b" * 64, "acme", card, 50.0) for card in cards],
        [is_chosen("a" * 64, "bank", card, 50.0) for card in cards],
    ):
        assert 9_600 < sum(one == other for one, other in zip(ours, theirs, strict=True)) < 10_400


class _Door:
    """The sides of an API in which a model decides for half of the cards."""

    def __init__(self, model: FakeModel, *, live: FakeModel | None = None) -> None:
        self.now_s, self.worked_s = 100.0, 0.0
        model.sha256 = "c" * 64
        in_force = InForce(live or FakeModel(0.1), RULES, model_challenger=Challenger("c" * 64, model, 50.0))  # type: ignore[arg-type]
        self.sides = Sides(Scorer("api", "test"), in_force, clock=lambda: self.now_s, work=lambda: self.worked_s)

    def decide(self) -> list[Decision]:
        """Of 40 cards, in their order."""
        asked = batch(40)
        asked.transactions = [payment(card_id=f"c-{i}") for i in range(40)]
        made = self.sides.score(asked, self.sides.versions)
        assert [one.transaction for one in made] == asked.transactions
        return made


def chosen(tx: Transaction) -> bool:
    return is_chosen("c" * 64, tx.tenant_id, tx.card_id, 50.0)


def test_a_decision_says_which_model_made_it() -> None:
    made = _Door(FakeModel(0.8)).decide()
    assert [one.model_sha256 == "c" * 64 for one in made] == [chosen(one.transaction) for one in made]
    assert {(one.model_sha256, one.model_score) for one in made} == {("c" * 64, 0.8), (FakeModel.sha256, 0.1)}


def test_what_is_in_force_steps_in_for_a_challenger_that_fails() -> None:
    model = FakeModel(error=ValueError("of a test"))
    door = _Door(model)
    for _ in range(5):
        made = door.decide()
        assert {(one.model_sha256, one.degraded) for one in made} == {(FakeModel.sha256, None)}
    assert model.calls == 3
    assert {name: breaker.state for name, breaker in door.sides.breakers.items()} == {
        "model": BreakerState.CLOSED,
        "rules": BreakerState.CLOSED,
        "challenger": BreakerState.OPEN,
    }
    model.error = None
    door.now_s += 2.0
    assert "c" * 64 in {one.model_sha256 for one in door.decide()}


def test_a_challenger_that_is_slow_is_left_out() -> None:
    door = _Door(FakeModel(on_predict=lambda: setattr(door, "worked_s", door.worked_s + 41 * LIMIT_S)))
    tried = ["c" * 64 in {one.model_sha256 for one in door.decide()} for _ in range(5)]
    assert tried == [True, True, True, False, False]


def test_a_challenger_of_a_side_that_is_down_does_not_decide_alone() -> None:
    versions = Versions(RULES, None, Challenger(HALF.hash, HALF, 50.0), Challenger(FakeModel.sha256, FakeModel(), 50.0))  # type: ignore[arg-type]
    assert (versions.deciding.rules_challenger, versions.deciding.model_challenger) == (Challenger(HALF.hash, HALF, 50.0), None)
    assert not Versions(RULES, None, Challenger(HALF.hash, HALF, 0.0)).deciding.has_rollout
