"""The language of conditions: what it means, by hand and against an interpreter that is obviously right."""

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.rules import InvalidRules, RuleSet
from fraud.rules.syntax import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, parse
from fraud.rules.tree import AllOf, AnyOf, Arithmetic, Between, Compare, In, Literal, Missing, Name, Node, Not

FEATURES = {"amount_usd": 0, "card_kmh_from_previous": 1, "card_first_seen_merchant": 2, "distance_km": 3}
Event = Mapping[str, Any]


def rule(when: str, **more: Any) -> dict[str, Any]:
    return {"id": "r", "name": "R", "when": when, "score": 0.1, "reason_code": "R", "message": "fired", **more}


def rule_set(*conditions: str) -> RuleSet:
    return RuleSet.parse({"rules": [rule(when, id=f"r{number}") for number, when in enumerate(conditions)]}, FEATURES)


def fires(when: str, *events: Event) -> list[bool]:
    """Evaluate one condition over a batch of events given as mappings; a name that is not given is missing."""
    rules = rule_set(when)
    matrix = np.array([[event.get(name, math.nan) for name in FEATURES] for event in events]).reshape(len(events), len(FEATURES))
    columns = {name: [event.get(name) for event in events] for name in rules.fields}
    fired: list[bool] = rules.evaluate(matrix, columns).fired[0].tolist()
    return fired


def test_the_example_of_the_issue_reads_as_it_says() -> None:
    when = 'amount_usd > 2000 and card_kmh_from_previous > 800 and merchant_country in ("RU", "NG") and not card_first_seen_merchant == 0'
    event = {"amount_usd": 2500.0, "card_kmh_from_previous": 900.0, "merchant_country": "RU", "card_first_seen_merchant": 1.0}
    assert fires(when, event, event | {"merchant_country": "FR"}, event | {"card_first_seen_merchant": 0.0}) == [True, False, False]


@pytest.mark.parametrize(
    ("when", "value", "expected"),
    [
        ("amount_usd > 2000", 2000.0, False),
        ("amount_usd > 2000", 2000.01, True),
        ("amount_usd >= 2_000", 2000.0, True),
        ("amount_usd < 2e3", 2000.0, False),
        ("amount_usd <= 2000.0", 2000.0, True),
        ("amount_usd == 2000", 2000.0, True),
        ("amount_usd != 2000", 2000.0, False),
        ("2000 < amount_usd", 2000.01, True),
        ("amount_usd between 10 and 20", 10.0, True),
        ("amount_usd between 10 and 20", 20.0, True),
        ("amount_usd not between 10 and 20", 20.01, True),
        ("amount_usd in (1, 2.5, -3)", -3.0, True),
        ("amount_usd in (1, 2.5,)", 2.0, False),
        ("amount_usd not in (1, 2)", 3.0, True),
        ("amount_usd + 1 * 2 == 12", 10.0, True),
        ("(amount_usd + 1) * 2 == 22", 10.0, True),
        ("amount_usd - 3 - 2 == 5", 10.0, True),
        ("amount_usd / 2 / 5 == 1", 10.0, True),
        ("-amount_usd < -5", 10.0, True),
        ("not amount_usd > 5 or amount_usd == 10", 10.0, True),
        ("not (amount_usd > 5 or amount_usd == 10)", 10.0, False),
        ("amount_usd == 1 or amount_usd == 10 and amount_usd > 100", 1.0, True),
        ("(amount_usd == 1 or amount_usd == 10) and amount_usd > 100", 1.0, False),
        ("(amount_usd > 5) == true", 10.0, True),
        ("(amount_usd > 5) != true", 10.0, False),
        ("true and amount_usd > 5", 10.0, True),
    ],
)
def test_operators_have_their_usual_meaning_and_precedence(when: str, value: float, expected: bool) -> None:
    assert fires(when, {"amount_usd": value}) == [expected]


@pytest.mark.parametrize(
    "when",
    [
        "amount_usd > 0", "amount_usd <= 0", "amount_usd == 0", "amount_usd != 0", "not amount_usd > 0", "not amount_usd != 0",
        "amount_usd in (1, 2)", "amount_usd not in (1, 2)", "amount_usd between 0 and 9", "amount_usd not between 0 and 9",
        "amount_usd + 1 > 0", "amount_usd * 0 == 0", "amount_usd == amount_usd", "(amount_usd > 0) == (amount_usd > 0)",
        'merchant_country == "RU"', 'merchant_country != "RU"', 'merchant_country not in ("RU", "NG")',
        "merchant_country != card_country",
        "not merchant_country == card_country", "card_blacklisted", "not card_blacklisted", "card_blacklisted == false",
        "card_blacklisted != true", "anomaly_score < 1",
    ],
)  # fmt: skip
def test_a_missing_value_makes_nothing_true(when: str) -> None:
    assert fires(when, {}) == [False]


def test_unknown_follows_kleene() -> None:
    """Unknown or true is true, unknown and false is false, and its negation true: only what depends on the unknown is unknown."""
    event = {"amount_usd": 10.0}
    assert fires("card_kmh_from_previous > 800 or amount_usd > 5", event) == [True]
    assert fires("not (card_kmh_from_previous > 800 and amount_usd > 50)", event) == [True]
    assert fires("not (card_kmh_from_previous > 800 or amount_usd > 50)", event) == [False]


@pytest.mark.parametrize("name", ["amount_usd", "merchant_country", "card_blacklisted", "anomaly_score"])
def test_missing_is_true_only_where_it_is_asked_for(name: str) -> None:
    present = {"amount_usd": 0.0, "merchant_country": "", "card_blacklisted": False, "anomaly_score": 0.0}
    assert fires(f"missing({name})", {}, present) == [True, False]
    assert fires(f"not missing({name})", {}, present) == [False, True]


def test_division_by_zero_is_missing_not_infinite() -> None:
    event = {"amount_usd": 5.0, "distance_km": 0.0}
    assert fires("amount_usd / distance_km > 1", event, event | {"distance_km": 2.0}) == [False, True]
    assert fires("not amount_usd / distance_km > 1", event) == [False]


def test_strings_compare_with_strings_and_with_fields() -> None:
    events = [{"ip_country": "FR", "card_country": "FR"}, {"ip_country": "RU", "card_country": "FR"}, {"ip_country": "RU"}]
    assert fires("ip_country != card_country", *events) == [False, True, False]
    assert fires("ip_country == card_country", *events) == [True, False, False]
    assert fires("'RU' == ip_country", *events) == [False, True, True]
    assert fires('card_country not in ("US", "GB")', *events) == [True, True, False]


def test_truth_fields_are_conditions_and_compare_with_each_other() -> None:
    events = [
        {"card_blacklisted": True, "ip_blacklisted": True},
        {"card_blacklisted": False, "ip_blacklisted": True},
        {"ip_blacklisted": True},
    ]
    assert fires("card_blacklisted", *events) == [True, False, False]
    assert fires("not card_blacklisted", *events) == [False, True, False]
    assert fires("card_blacklisted == ip_blacklisted", *events) == [True, False, False]
    assert fires("card_blacklisted != ip_blacklisted", *events) == [False, True, False]


@pytest.mark.parametrize(
    ("when", "position", "problem"),
    [
        ("amout_usd > 1", 1, "unknown name 'amout_usd'; did you mean 'amount_usd'?"),
        ("amount_usd > 1 and is_fraud == 1", 20, "unknown name 'is_fraud'"),
        ("amount_usd > 'x'", 12, "cannot compare 'amount_usd', a number, with 'x', a string"),
        ("merchant_country > 'x'", 18, "> orders numbers only, not a string"),
        ("amount_usd", 1, "'amount_usd' is a number, not a condition: compare it with something"),
        ("amount_usd > 1 and merchant_country", 20, "'merchant_country' is a string, not a condition"),
        ("amount_usd + 1", 12, "the calculation is a number, not a condition"),
        ("merchant_country + 1 > 2", 1, "+ works on numbers only, 'merchant_country' is a string"),
        ("amount_usd + (amount_usd > 1) > 2", 26, "+ works on numbers only, the condition is a truth value"),
        ("amount_usd in (1, 'x')", 19, "'amount_usd' is a number, but 'x' in the list is a string"),
        ("amount_usd between 1 and 'x'", 12, "cannot compare 'amount_usd', a number, with 'x', a string"),
        ("1 < 2", None, "the condition looks at no feature and no field"),
        ("amount_usd = 1", 12, "cannot read '=': write == to compare"),
        ("amount_usd > 1 && amount_usd < 2", 16, "cannot read '&': write 'and'"),
        ("merchant_country == 'RU", 21, "the string has no end"),
        ("1 < amount_usd < 2", 16, "comparisons do not chain: write 'x between a and b'"),
        ("amount_usd > 1 AND amount_usd < 2", 16, "expected 'and', 'or' or the end, found 'AND'; did you mean 'and'?"),
        ("amount_usd >", 13, "expected a name, a number or a string, the condition ends"),
        ("(amount_usd > 1", 16, "expected ')', the condition ends"),
        ("amount_usd in 1", 15, "expected '(', found '1'"),
        ("amount_usd in ()", 16, "expected a number or a string, found ')'"),
        ("amount_usd not > 1", 16, "expected 'in' or 'between', found '>'"),
        ("missing(amount_usd + 1)", 20, "expected ')', found '+'"),
        ("amount_usd > 1e999", 14, "1e999 is too large a number"),
        ("amount_usd > 1e300 * 1e300", 20, "the constant is too large a number"),
        ("amount_usd / (3 - 3) > 1", 12, "division by zero"),
        ("'a' == 'b' or amount_usd > 1", 8, "compares two constants"),
        ("amount_usd > 2,000", 15, "expected 'and', 'or' or the end, found ','"),
        ("__import__('os')", 11, "expected 'and', 'or' or the end, found '('"),
        ("", 1, "expected a name, a number or a string, the condition ends"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused_with_its_place(when: str, position: int | None, problem: str) -> None:
    with pytest.raises(InvalidRules) as caught:
        parse(when) if not when else rule_set(when)
    assert problem in caught.value.problem
    assert caught.value.position == position


@pytest.mark.parametrize(
    "when",
    [
        "(" * (MAX_DEPTH + 1) + "amount_usd > 1" + ")" * (MAX_DEPTH + 1),
        "not " * (MAX_DEPTH + 1) + "amount_usd > 1",
        "amount_usd > " + "-" * (MAX_DEPTH + 1) + "distance_km",
        " or ".join(["amount_usd > 1"] * MAX_NODES),
        "amount_usd >" + " " * MAX_CHARACTERS + "1",
    ],
)
def test_depth_and_size_are_bounded(when: str) -> None:
    with pytest.raises(InvalidRules):
        rule_set(when)


def test_the_largest_condition_allowed_still_evaluates() -> None:
    assert fires("amount_usd" + " + amount_usd" * (MAX_NODES - 2) + " > 1", {"amount_usd": 1.0}) == [True]


# --- against an interpreter: three truth values written out, one event at a time ----------------------------------------------

_NUMBERS = ["amount_usd", "distance_km", "anomaly_score"]
_TEXTS = ["merchant_country", "card_country"]
_TRUTHS = ["card_blacklisted", "anomaly_flag"]
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}

numbers = st.recursive(
    st.sampled_from([*_NUMBERS, "0", "1", "2.5", "-1"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
        | st.builds("({} / {})".format, inner, st.sampled_from(_NUMBERS))
    ),
    max_leaves=4,
)
texts = st.sampled_from([*_TEXTS, "'RU'", '"FR"'])
predicates = st.one_of(
    st.builds("{} {} {}".format, numbers, st.sampled_from(list(_OPERATORS)), numbers),
    st.builds("{} {} {}".format, st.sampled_from(_TEXTS), st.sampled_from(["==", "!="]), texts),
    st.builds("{} {}between {} and {}".format, numbers, st.sampled_from(["", "not "]), numbers, numbers),
    st.builds("{} {}in (0, 2.5)".format, numbers, st.sampled_from(["", "not "])),
    st.builds("{} {}in ('RU', 'US')".format, st.sampled_from(_TEXTS), st.sampled_from(["", "not "])),
    st.builds("missing({})".format, st.sampled_from(_NUMBERS + _TEXTS + _TRUTHS)),
    st.sampled_from(_TRUTHS),
)
conditions = st.recursive(
    predicates,
    lambda inner: (
        st.builds("(({}) {} ({}))".format, inner, st.sampled_from(["and", "or", "==", "!="]), inner) | st.builds("not {}".format, inner)
    ),
    max_leaves=6,
).map(lambda text: f"({text}) or missing(amount_usd) and missing(country)")
events = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(_NUMBERS, st.sampled_from([0.0, 1.0, 2.5, -1.0]))
    | dict.fromkeys(_TEXTS, st.sampled_from(["RU", "FR"]))
    | dict.fromkeys(_TRUTHS, st.booleans()),
)


def meaning(node: Node, event: Event) -> Any:  # noqa: C901, PLR0911 - one case a kind of node
    """The value of a node for one event; ``None`` is unknown."""
    match node:
        case Literal(value=value):
            return value
        case Name(name=name):
            return event.get(name)
        case Missing(name=Name(name=name)):
            return event.get(name) is None
        case Not(item=item):
            value = meaning(item, event)
            return None if value is None else not value
        case AllOf(items=items):
            values = [meaning(item, event) for item in items]
            return False if False in values else None if None in values else True
        case AnyOf(items=items):
            values = [meaning(item, event) for item in items]
            return True if True in values else None if None in values else False
        case In(item=item, values=listed):
            value = meaning(item, event)
            return None if value is None else value in [literal.value for literal in listed]
        case Between(item=item, low=low, high=high, position=at):
            return meaning(AllOf((Compare(">=", item, low, at), Compare("<=", item, high, at)), at), event)
        case Compare(sign=sign, left=left, right=right):
            a, b = meaning(left, event), meaning(right, event)
            return None if a is None or b is None else _OPERATORS[sign](a, b)
        case Arithmetic(sign=sign, left=left, right=right):
            a, b = meaning(left, event), meaning(right, event)
            if a is None or b is None or (sign == "/" and b == 0):
                return None
            return {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[sign](a, b)


@given(conditions, st.lists(events, min_size=1, max_size=8))
def test_a_compiled_condition_means_what_the_interpreter_says(when: str, batch: list[Event]) -> None:
    assert fires(when, *batch) == [meaning(parse(when), event) is True for event in batch]


@given(conditions, st.lists(events, min_size=1, max_size=8))
def test_a_batch_fires_as_its_events_alone(when: str, batch: list[Event]) -> None:
    assert fires(when, *batch) == [fires(when, event)[0] for event in batch]


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_is_refused(text: str) -> None:
    """Never another error: rules come from a topic."""
    try:
        parse(text)
    except InvalidRules as error:
        assert error.problem
