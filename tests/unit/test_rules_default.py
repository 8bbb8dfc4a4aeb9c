"""The rules that ship: each fires just where its sentence says, and the set keeps the promises of the requirements."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraud.catalogue import CATALOGUE
from fraud.currency import to_base_minor
from fraud.decide import Outcome, decide
from fraud.rules import Evaluation, InvalidRules, RuleSet, Severity, State
from serving.rules_file import DEFAULT_RULES_PATH, load_rules

RULES = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
BY_ID = {rule.id: rule for rule in RULES.rules}


def evaluate(event: dict[str, Any], rules: RuleSet = RULES) -> Evaluation:
    """Evaluate a batch of one; what the event does not name is missing."""
    vector = np.full((1, CATALOGUE.size), np.nan)
    fields: dict[str, list[Any]] = {}
    for name, value in event.items():
        if name in CATALOGUE.index:
            vector[0, CATALOGUE.index[name]] = value
        else:
            fields[name] = [value]
    return rules.evaluate(vector, fields)


def fired(event: dict[str, Any], rules: RuleSet = RULES) -> set[str]:
    return {reason.rule_id for reason in evaluate(event, rules).reasons()[0]}


def enabled(rule_id: str) -> RuleSet:
    """Return the set of one rule, switched on."""
    return RuleSet.parse({"rules": [BY_ID[rule_id].to_plain() | {"state": "enabled"}]}, CATALOGUE.index)


# rule, an event that just fires it, a change that just does not
SCENARIOS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("high_amount", {"amount_usd": 2000.01}, {"amount_usd": 2000.0}),
    ("geo_velocity", {"user_kmh_from_previous": np.nextafter(800, 900)}, {"user_kmh_from_previous": 800.0}),
    ("geo_velocity", {"card_kmh_from_previous": 800.01}, {"card_kmh_from_previous": 800.0}),
    ("ml_anomaly", {"anomaly_flag": True}, {"anomaly_flag": False}),
    ("blacklist", {"card_blacklisted": True}, {"card_blacklisted": False}),
    ("blacklist", {"ip_blacklisted": True, "card_blacklisted": None}, {"ip_blacklisted": None}),
    ("card_testing", {"card_count_small_1h": 5, "card_distinct_merchant_1h": 2}, {"card_count_small_1h": 4}),
    (
        "account_takeover",
        {"user_first_seen_device": 1, "user_first_seen_country": 1, "user_count_tx_total": 6, "amount_usd": 301},
        {"user_first_seen_device": 0},
    ),
    ("structuring", {"card_count_nearlimit_7d": 3}, {"card_count_nearlimit_7d": 2}),
    ("structuring", {"user_count_nearlimit_7d": 3, "card_count_nearlimit_7d": 1}, {"user_count_nearlimit_7d": 2}),
    ("confirmed_fraud_on_card", {"card_count_fraud_30d": 1}, {"card_count_fraud_30d": 0}),
    (
        "merchant_risk",
        {"merchant_risk_delayed7d_30d": 0.11, "merchant_count_delayed7d_30d": 20},
        {"merchant_count_delayed7d_30d": 19},
    ),
    (
        "new_merchant_high_ratio",
        {"card_first_seen_merchant": 1, "card_ratio_mean_amount_30d": 5.1, "card_count_tx_30d": 5},
        {"card_first_seen_merchant": 0},
    ),
    ("new_card_high_amount", {"card_age_days": 29, "amount_usd": 500.01}, {"card_age_days": 30}),
    ("velocity_1h", {"card_count_tx_1h": 11}, {"card_count_tx_1h": 10}),
    ("velocity_1h", {"user_count_tx_1h": 16}, {"user_count_tx_1h": 15}),
    ("many_declines", {"card_count_declined_1h": 3}, {"card_count_declined_1h": 2}),
    ("many_declines", {"device_count_declined_1h": 5}, {"device_count_declined_1h": 4}),
    ("shared_device", {"device_distinct_card_24h": 5}, {"device_distinct_card_24h": 4}),
    ("shared_ip", {"ip_distinct_card_1h": 10}, {"ip_distinct_card_1h": 9}),
    (
        "coordinated_testing",
        {"merchant_count_small_1h": 20, "merchant_distinct_card_1h": 15, "merchant_count_tx_1h": 24},
        {"merchant_count_tx_1h": 25},
    ),
    ("country_mismatch", {"country_mismatch": 1, "amount_usd": 100.01}, {"amount_usd": 100}),
    ("ip_billing_distance", {"ip_billing_distance_km": 3000.1, "card_not_present": 1}, {"card_not_present": 0}),
    ("geographic_spread", {"card_distinct_country_24h": 3}, {"card_distinct_country_24h": 2}),
    (
        "unusual_at_night",
        {"is_night": 1, "card_ratio_p95_amount_30d": 2.1, "card_count_tx_30d": 10, "amount_usd": 100.01},
        {"is_night": 0},
    ),
    ("psd2_sca", {"currency": "EUR", "amount_minor": 3001, "amount_usd": 31.18}, {"amount_minor": 3000}),
    ("psd2_sca", {"currency": "USD", "amount_minor": 3117, "amount_usd": 31.17}, {"amount_usd": 31.16}),
]


@pytest.mark.parametrize(("rule_id", "event", "change"), SCENARIOS)
def test_a_rule_fires_just_where_its_sentence_says(rule_id: str, event: dict[str, Any], change: dict[str, Any]) -> None:
    rules = enabled(rule_id)
    assert fired(event, rules) == {rule_id}
    assert fired(event | change, rules) == set()


def test_every_rule_has_such_a_scenario() -> None:
    assert {rule_id for rule_id, _, _ in SCENARIOS} == set(BY_ID)


def test_an_event_of_which_nothing_is_known_fires_nothing() -> None:
    assert fired({}) == set()


def test_ten_or_more_business_rules_are_enabled() -> None:
    assert sum(rule.state is State.ENABLED for rule in RULES.rules) >= 10


def test_an_amount_of_two_thousand_dollars_in_another_currency_is_the_same_limit() -> None:
    """2,000.00 USD does not fire in whatever currency it was paid; a yen more does."""
    at_limit = next(yen for yen in range(313_900, 314_000) if to_base_minor(yen, "JPY") > 200_000)
    assert fired({"amount_usd": to_base_minor(at_limit - 1, "JPY") / 100}) == set()
    assert fired({"amount_usd": to_base_minor(at_limit, "JPY") / 100}) == {"high_amount"}


def test_a_blacklisted_card_is_denied_whatever_the_weighted_sum_says() -> None:
    evaluation = evaluate({"card_blacklisted": True})
    assert evaluation.floor[0] == Outcome.DENY
    assert decide(np.zeros(1), evaluation.score, evaluation.floor, size=1).outcome[0] == Outcome.DENY


def test_impossible_travel_alone_is_challenged() -> None:
    evaluation = evaluate({"user_kmh_from_previous": 5000.0})
    assert decide(np.zeros(1), evaluation.score, evaluation.floor, size=1).outcome[0] == Outcome.CHALLENGE


def test_the_anomaly_is_of_low_severity_and_forces_nothing() -> None:
    rule = BY_ID["ml_anomaly"]
    assert (rule.severity, rule.floor, rule.score) == (Severity.LOW, None, 0.05)
    evaluation = evaluate({"anomaly_flag": True})
    assert decide(np.zeros(1), evaluation.score, evaluation.floor, size=1).outcome[0] == Outcome.ALLOW


def test_only_a_blacklist_denies_by_itself() -> None:
    assert {rule.id for rule in RULES.rules if rule.floor is Outcome.DENY} == {"blacklist"}


def test_strong_authentication_above_thirty_euros_is_off_by_default() -> None:
    assert BY_ID["psd2_sca"].state is State.DISABLED
    assert BY_ID["psd2_sca"].floor is Outcome.CHALLENGE


def test_thirty_euros_in_dollars_follow_the_rate_table() -> None:
    """The dollar line of the PSD2 rule lies between 30 EUR and the next cent."""
    assert to_base_minor(3_000, "EUR") / 100 > 31.167
    assert to_base_minor(30_00, "EUR") == 3_117
    assert "31.167" in BY_ID["psd2_sca"].when


def test_every_message_can_be_written() -> None:
    """With the values of its scenario, and none of its templates fails for a value that is missing."""
    for rule_id, event, _ in SCENARIOS:
        message = evaluate(event, enabled(rule_id)).reasons()[0][0].message
        assert message
        assert "{" not in message
        assert "nan" not in message


def test_messages_show_the_value_and_the_limit() -> None:
    reasons = evaluate({"amount_usd": 2500.5}).reasons()[0]
    assert [reason.message for reason in reasons] == ["2,500.50 USD > 2,000"]


def test_the_file_survives_json() -> None:
    assert RuleSet.from_json(RULES.to_json(), CATALOGUE.index).hash == RULES.hash


@pytest.mark.parametrize("text", ["rules: [", "a: &a [*a]\n", "rules: {}", "", "!!python/object:os.system {}", "[" * 5_000])
def test_a_file_that_is_not_a_rule_set_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRules):
        load_rules(path, CATALOGUE.index)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRules, match=r"absent\.yaml: No such file"):
        load_rules(tmp_path / "absent.yaml", CATALOGUE.index)
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    with pytest.raises(InvalidRules, match="larger than"):
        load_rules(tmp_path / "large.yaml", CATALOGUE.index)
