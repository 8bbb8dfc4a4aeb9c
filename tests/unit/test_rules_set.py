"""Rule sets: reading, refusing, scoring, floors, reasons with runtime values, the hash, and the way through JSON."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.decide import Outcome
from fraud.events import Transaction
from fraud.rules import FIELDS, InvalidRules, RuleSet, columns_of

FEATURES = {"amount_usd": 0, "speed": 1, "alias_of_speed": 1}


def rule(rule_id: str = "high_amount", **more: Any) -> dict[str, Any]:
    plain = {
        "id": rule_id,
        "name": "High amount",
        "when": "amount_usd > 2000",
        "score": 0.25,
        "reason_code": "HIGH",
        "message": "{amount_usd:,.2f} USD",
    }
    return plain | more


def rule_set(*rules: dict[str, Any]) -> RuleSet:
    return RuleSet.parse({"rules": list(rules)}, FEATURES)


def matrix(*rows: tuple[float, float]) -> Any:
    return np.array(rows, dtype=np.float64)


def test_the_score_is_the_sum_of_what_fired_and_never_above_one() -> None:
    rules = rule_set(rule("a", score=0.1), rule("b", score=0.2), rule("c", score=0.9, when="amount_usd > 5000"))
    assert rules.evaluate(matrix((1, 0), (3000, 0), (9000, 0)), {}).score.tolist() == [0.0, 0.3, 1.0]


def test_a_score_of_0_05_comes_out_as_0_05() -> None:
    assert rule_set(rule(score=0.05)).evaluate(matrix((3000, 0)), {}).score[0] == 0.05


@given(st.lists(st.integers(0, 300_000), max_size=12), st.randoms())
def test_the_sum_does_not_depend_on_the_order_or_the_size_of_the_batch(millionths: list[int], random: Any) -> None:
    rules = [rule(f"r{number}", score=value / 1e6) for number, value in enumerate(millionths)]
    expected = rule_set(*rules).evaluate(matrix((3000, 0)), {}).score[0]
    random.shuffle(rules)
    assert set(rule_set(*rules).evaluate(matrix(*[(3000, 0)] * 7), {}).score.tolist()) == {expected}
    assert expected == min(1.0, sum(millionths) / 1e6)


def test_the_strongest_floor_of_the_enabled_rules_holds() -> None:
    rules = rule_set(
        rule("challenge", floor="CHALLENGE"),
        rule("deny", floor="DENY", when="amount_usd > 5000"),
        rule("shadowed", floor="DENY", when="amount_usd > 10", state="shadow"),
        rule("off", floor="DENY", when="amount_usd > 10", state="disabled"),
    )
    assert rules.evaluate(matrix((100, 0), (3000, 0), (9000, 0)), {}).floor.tolist() == [
        Outcome.ALLOW,
        Outcome.CHALLENGE,
        Outcome.DENY,
    ]


def test_a_shadow_rule_is_reported_and_counts_for_nothing() -> None:
    evaluation = rule_set(rule("shadowed", state="shadow"), rule("off", state="disabled")).evaluate(matrix((3000, 0)), {})
    assert (evaluation.score[0], evaluation.floor[0]) == (0.0, Outcome.ALLOW)
    assert [(fired.rule_id, fired.shadow) for fired in evaluation.reasons()[0]] == [("shadowed", True)]


def test_reasons_carry_the_values_that_the_rule_saw() -> None:
    rules = rule_set(
        rule("low", priority=1, severity="low", message="{alias_of_speed} km/h, from {country}, listed {card_blacklisted}"),
        rule("high", priority=2, severity="critical", floor="DENY", name="Big"),
    )
    reasons = rules.evaluate(matrix((2500.5, 12.25), (1, 1)), {"country": ["FR", "US"], "card_blacklisted": [False, None]}).reasons()
    assert reasons[1] == ()
    assert [reason.message for reason in reasons[0]] == ["2,500.50 USD", "12.25 km/h, from FR, listed false"]
    first = reasons[0][0]
    assert (first.rule_id, first.rule_name, first.severity, first.reason_code) == ("high", "Big", "critical", "HIGH")
    assert (first.score, first.floor, first.shadow) == (0.25, "DENY", False)


_NUMBERS = st.one_of(st.floats(), st.integers(-(10**6), 10**6).map(float))
_EVENTS = st.tuples(
    _NUMBERS, _NUMBERS, st.sampled_from([None, "AT", "{}"]), st.sampled_from([None, True, False]), st.none() | st.integers()
)


@given(st.lists(_EVENTS, min_size=1, max_size=8), st.data())
def test_messages_of_many_events_are_those_of_each_alone(events: list[Any], data: Any) -> None:
    """Every type of word and kind of format, missing values among them; columns as lists and one that is absent."""
    words = ["{amount_usd}", "{speed:,.1f}", "{country}", "{card_blacklisted}", "{ip_asn}", "{merchant_mcc}", " and "]
    texts = st.lists(st.sampled_from(words), max_size=5).map("".join)
    rules = rule_set(
        *(rule(f"r{i}", when="not late_event", message=f"seen {text}") for i, text in enumerate(data.draw(st.lists(texts, max_size=3))))
    )
    usd, speed, countries, listed, networks = zip(*events, strict=True)
    fields = {"country": countries, "card_blacklisted": listed, "ip_asn": networks, "late_event": [False] * len(events)}
    evaluation = rules.evaluate(np.array([usd, speed]).T.copy(), fields)
    rows = np.array(data.draw(st.lists(st.integers(0, len(events) - 1))), dtype=np.intp)
    alone = evaluation.reasons()
    for i in range(len(rules.rules)):
        assert evaluation.messages(i, rows) == [alone[row][i].message for row in rows]


def test_a_missing_value_is_written_as_missing() -> None:
    rules = rule_set(rule(message="{speed:.1f} / {country} / {ip_blacklisted} / {anomaly_score:.2f}"))
    evaluation = rules.evaluate(matrix((3000, math.nan)), {"country": [None]})
    assert evaluation.reasons()[0][0].message == "missing / missing / missing / missing"


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("", "1234567.25"),
        (":.2f", "1234567.25"),
        (":,.1f", "1,234,567.2"),
        (":,", "1,234,567"),
        (":.3", "1234567.250"),
        (":.2e", "1.23e+06"),
        (":.0%", "123456725%"),
    ],
)
def test_numbers_are_written_as_the_template_asks(spec: str, shown: str) -> None:
    evaluation = rule_set(rule(message=f"{{{{}}}} {{amount_usd{spec}}}")).evaluate(matrix((1_234_567.25, 0)), {})
    assert evaluation.reasons()[0][0].message == f"{{}} {shown}"


def test_a_whole_number_is_written_without_decimals() -> None:
    evaluation = rule_set(rule(message="{amount_usd} at {event_time_ms}")).evaluate(
        matrix((3000, 0)), {"event_time_ms": [1_700_000_000_000]}
    )
    assert evaluation.reasons()[0][0].message == "3000 at 1700000000000"


def test_only_the_fields_that_rules_read_are_asked_for() -> None:
    rules = rule_set(
        rule("a", when="card_blacklisted or amount_usd > 1", message="{country}"),
        rule("b", when='ip_country == "RU"', message="x", state="shadow"),
        rule("c", when='city == "x"', state="disabled"),
    )
    assert rules.fields == ("card_blacklisted", "country", "ip_country")


def test_a_column_that_cannot_be_had_is_missing_for_every_event() -> None:
    rules = rule_set(rule("a", when="card_blacklisted"), rule("b", when="missing(card_blacklisted)"))
    assert rules.evaluate(matrix((1, 1), (2, 2)), {}).fired.tolist() == [[False, False], [True, True]]


def test_columns_may_be_arrays() -> None:
    rules = rule_set(
        rule("flag", when="anomaly_flag"),
        rule("not_flag", when="not anomaly_flag"),
        rule("score", when="anomaly_score > 0.5"),
        rule("text", when='country == "FR"'),
    )
    columns = {
        "anomaly_flag": np.array([True, False]),
        "anomaly_score": np.array([0.6, np.nan]),
        "country": np.array(["US", "FR"], dtype=object),
    }
    fired = {r.id: row for r, row in zip(rules.rules, rules.evaluate(matrix((1, 1), (1, 1)), columns).fired.tolist(), strict=True)}
    assert fired == {"flag": [True, False], "not_flag": [False, True], "score": [True, False], "text": [False, True]}


def test_columns_of_transactions_hold_what_the_rules_read() -> None:
    tx = Transaction("t", "default", "c", "m", 3_001, "EUR", 5, country="FR")
    rules = rule_set(rule(when='currency == "EUR" and amount_minor > 3000 and not card_blacklisted', message="{country}"))
    columns = columns_of([tx, tx], rules.fields)
    assert columns == {"amount_minor": [3_001, 3_001], "country": ["FR", "FR"], "currency": ["EUR", "EUR"]}
    assert rules.evaluate(matrix((1, 1), (1, 1)), {**columns, "card_blacklisted": [False, True]}).fired.tolist() == [[True, False]]


def test_no_field_tells_the_label_or_the_raw_address() -> None:
    assert not {"is_fraud", "scenario", "batch_id", "ip_address"} & set(FIELDS)


def test_every_field_of_the_transaction_that_a_rule_may_read_exists() -> None:
    tx = Transaction("t", "default", "c", "m", 1, "EUR", 5)
    assert set(columns_of([tx], FIELDS)) == {name for name in FIELDS if hasattr(tx, name)}


def test_an_empty_set_and_an_empty_batch_are_fine() -> None:
    empty = rule_set().evaluate(matrix((1, 1)), {})
    assert (empty.score.tolist(), empty.floor.tolist(), empty.reasons()) == ([0.0], [0], [()])
    assert rule_set(rule(floor="DENY")).evaluate(np.empty((0, 2)), {}).score.shape == (0,)


# --- JSON and hash --------------------------------------------------------------------------------------------------------


def test_a_set_survives_json_with_its_hash() -> None:
    rules = rule_set(rule("a", floor="DENY", message="é {country}"), rule("b", state="shadow", severity="low", priority=-3))
    back = RuleSet.from_json(rules.to_json(), FEATURES)
    assert (back.rules, back.hash, back.to_json()) == (rules.rules, rules.hash, rules.to_json())


def test_the_hash_ignores_the_order_of_the_file_and_nothing_else() -> None:
    a, b = rule("a"), rule("b")
    assert rule_set(a, b).hash == rule_set(b, a).hash
    for change in (
        {"score": 0.26},
        {"state": "shadow"},
        {"message": "x"},
        {"floor": "DENY"},
        {"when": "amount_usd > 2001"},
        {"priority": 1},
    ):
        assert rule_set(a | change, b).hash != rule_set(a, b).hash


def test_the_hash_names_these_bytes_for_ever() -> None:
    """It stands in every recorded decision: a change of the canonical form breaks replay and must be deliberate."""
    assert rule_set(rule()).to_json() == (
        '{"rules":[{"floor":null,"id":"high_amount","message":"{amount_usd:,.2f} USD","name":"High amount","priority":0,'
        '"reason_code":"HIGH","score":0.25,"severity":"medium","state":"enabled","when":"amount_usd > 2000"}]}'
    )


# --- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "High Amount"}, "needs an id"),
        ({"id": None}, "needs an id"),
        ({"score": 1.01}, "'score' must be a number from 0 to 1"),
        ({"score": -0.1}, "'score' must be a number from 0 to 1"),
        ({"score": math.nan}, "'score' must be a number from 0 to 1"),
        ({"score": True}, "'score' must be a number from 0 to 1"),
        ({"score": "0.1"}, "'score' must be a number from 0 to 1"),
        ({"score": 0.1234567}, "at most six decimals"),
        ({"floor": "ALLOW"}, "'floor' must be CHALLENGE or DENY"),
        ({"floor": ["DENY"]}, "'floor' must be CHALLENGE or DENY"),
        ({"severity": "hihg"}, "did you mean 'high'?"),
        ({"state": "on"}, "'state' must be one of enabled, shadow, disabled"),
        ({"priority": 1.5}, "'priority' must be a whole number"),
        ({"reason_code": "high"}, "reason_code must be capitals"),
        ({"when": 5}, "'when' must be a text"),
        ({"name": " "}, "'name' must be a text that is not empty"),
        ({"name": "\ud800"}, "characters that cannot be printed"),
        ({"wehn": "x"}, "unknown key 'wehn'; did you mean 'when'?"),
        ({"message": "{amout_usd}"}, "message: unknown name 'amout_usd'; did you mean 'amount_usd'?"),
        ({"message": "{amount_usd"}, "message: "),
        ({"message": "{}"}, "must be a plain name"),
        ({"message": "{amount_usd.__class__}"}, "must be a plain name"),
        ({"message": "{amount_usd!r}"}, "must be a plain name"),
        ({"message": "{amount_usd:>999999999}"}, "format '>999999999' does not suit 'amount_usd', a number"),
        ({"message": "{amount_usd:{speed}}"}, "does not suit"),
        ({"message": "{country:.2f}"}, "format '.2f' does not suit 'country', a string"),
        ({"message": "x" * 501}, "longer than 500"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_a_helpful_message(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRules) as caught:
        rule_set(rule() | change)
    assert problem in str(caught.value)
    assert caught.value.rule_id == (None if "id" in change else "high_amount")


def test_a_disabled_rule_is_checked_like_the_others() -> None:
    with pytest.raises(InvalidRules, match=r"rule 'high_amount': unknown name 'nope' \(at character 1\)"):
        rule_set(rule(when="nope > 1", state="disabled"))


def test_two_rules_with_one_id_are_refused() -> None:
    with pytest.raises(InvalidRules, match="rule 'a': two rules have this id"):
        rule_set(rule("a"), rule("b"), rule("a"))


@pytest.mark.parametrize("data", [None, [], {}, {"rules": {}}, {"rules": [1]}, {"rules": [], "more": 1}, {"rules": [{}]}])
def test_anything_but_a_list_of_rules_is_refused(data: object) -> None:
    with pytest.raises(InvalidRules):
        RuleSet.parse(data, FEATURES)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff", '{"rules": 5}', json.dumps({"rules": [rule()] * 501})])
def test_anything_but_the_json_of_a_rule_set_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidRules):
        RuleSet.from_json(text, FEATURES)
