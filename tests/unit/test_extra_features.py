"""Windows beyond the catalogue in rules: which names there are, what is said of the others, and how they travel in the job."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flink_jobs.packing import ControlPart, ObservationPart, PartHeader
from fraud.catalogue import CATALOGUE, EVENT_FEATURES
from fraud.events import Kind
from fraud.extra import ExtraFeatures, extra_columns, in_order
from fraud.kernel import EVENT_WORDS
from fraud.rules import InvalidRules, RuleSet
from fraud.rules.ruleset import MAX_EXTRA
from serving.rules_file import DEFAULT_RULES_PATH, load_rules


def rules(*conditions: str, message: str = "seen", state: str = "enabled") -> RuleSet:
    plain: list[dict[str, Any]] = [
        {"id": f"r{i}", "name": "r", "when": when, "score": 0.1, "reason_code": "R", "message": message, "state": state}
        for i, when in enumerate(conditions)
    ]
    return RuleSet.parse({"rules": plain}, CATALOGUE.index)


def test_a_rule_may_ask_for_any_window_of_the_grammar() -> None:
    asked = rules("user_count_tx_2h > 1 or card_distinct_merchant_37m > 2", "card_distinct_merchant_37m > 9", message="{ip_count_tx_3m}")
    assert asked.extra == ("card_distinct_merchant_37m", "user_count_tx_2h", "ip_count_tx_3m")


def test_columns_stand_behind_the_catalogue_by_kind() -> None:
    asked = rules("merchant_count_tx_2h > card_count_tx_2h")
    assert asked.extra == ("card_count_tx_2h", "merchant_count_tx_2h")
    columns = extra_columns(asked.extra)
    assert (columns[Kind.CARD], columns[Kind.MERCHANT]) == (slice(0, 1), slice(1, 2))
    matrix = np.full((2, CATALOGUE.size + 2), np.nan)
    matrix[:, CATALOGUE.size :] = [[1, 2], [2, 1]]
    assert asked.evaluate(matrix, {}).fired.tolist() == [[True, False]]


def test_the_shipped_rules_ask_for_nothing_more() -> None:
    """``ingest`` takes that for granted until a set comes on the topic."""
    assert load_rules(DEFAULT_RULES_PATH, CATALOGUE.index).extra == ()


def test_a_disabled_rule_is_checked_and_costs_nothing() -> None:
    assert rules("card_count_tx_2h > 1", state="disabled").extra == ()
    with pytest.raises(InvalidRules, match="log keeps 30 d"):
        rules("card_count_tx_31d > 1", state="disabled")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("card_distinct_merchants_37m", "did you mean 'card_distinct_merchant_37m'?"),
        ("card_count_txs_37m", "did you mean 'card_count_tx_37m'?"),
        ("cart_sum_amount_2h", "did you mean 'card_sum_amount_2h'?"),
        ("card_count_tx_45d", "reaches 45 d back, the card log keeps 30 d"),
        ("ip_count_tx_8d", "reaches 8 d back, the ip log keeps 7 d"),
        ("merchant_max_amount_2h", "only card and user have this aggregate"),
        ("merchant_distinct_merchant_2h", "only card and user have this aggregate"),
        ("card_distinct_card_2h", "a card's or user's log holds merchants and devices"),
        ("card_count_tx_0m", "the window is empty"),
        ("amount_usdd", "did you mean 'amount_usd'?"),
    ],
)
def test_a_name_that_is_none_says_why_and_which_is_nearest(name: str, said: str) -> None:
    with pytest.raises(InvalidRules) as refusal:
        rules(f"{name} > 1")
    assert name in refusal.value.problem
    assert said in refusal.value.problem
    assert refusal.value.position == 1


def test_what_a_log_keeps_only_a_bound_of_says_so() -> None:
    extra = ExtraFeatures(("card_distinct_merchant_37m", "merchant_distinct_card_37m"))
    assert [bool(entry.bound) for entry in extra.entries] == [False, True]


def test_a_set_may_not_ask_for_ever_more() -> None:
    rules(*(f"card_count_tx_{minutes + 61}m > 1" for minutes in range(MAX_EXTRA)))
    with pytest.raises(InvalidRules, match="more than 16"):
        rules(*(f"card_count_tx_{minutes + 61}m > 1" for minutes in range(MAX_EXTRA + 1)))


def test_names_have_one_order() -> None:
    names = ("user_count_tx_2h", "card_sum_amount_2h", "card_count_tx_2h")
    assert in_order(names) == in_order(names[::-1]) == ("card_count_tx_2h", "card_sum_amount_2h", "user_count_tx_2h")
    assert extra_columns(())[Kind.CARD] == slice(0, 0)
    assert len(EVENT_FEATURES) < CATALOGUE.size


@pytest.mark.parametrize("body", [None, b"", b"\x00body"])
def test_a_control_record_comes_out_of_its_part_as_it_went_in(body: bytes | None) -> None:
    part = ControlPart(PartHeader(3, 70_000, 0, 0), "rules", body)
    assert ControlPart.unpack(part.pack()) == part


@pytest.mark.parametrize("extra", [(), ("card_count_tx_2h",), ("card_count_tx_2h", "ip_count_tx_3m")])
def test_the_names_travel_with_what_is_to_be_observed(extra: tuple[str, ...]) -> None:
    table = np.array([[0, 1, 0]])
    part = ObservationPart(PartHeader(0, 1, 0, 1), table, np.array([False]), ["default|ü"], np.ones((1, EVENT_WORDS), np.int64), extra)
    again = ObservationPart.unpack(part.pack())
    assert (again.extra, again.keys, again.rows.tolist()) == (extra, part.keys, part.rows.tolist())
