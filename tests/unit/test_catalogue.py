"""The catalogue: names by grammar, an order that holds everywhere, and a clear no to what the log cannot answer."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fraud import catalogue as module
from fraud import kernel as k
from fraud.catalogue import CATALOGUE, EVENT_FEATURES, Catalogue, UnknownFeature
from fraud.events import KINDS, Kind


def test_every_name_is_unique_and_stands_at_its_index() -> None:
    assert len(set(CATALOGUE.names)) == CATALOGUE.size == len(CATALOGUE.entries)
    assert [CATALOGUE.index[name] for name in CATALOGUE.names] == list(range(CATALOGUE.size))


def test_event_features_come_first_and_kinds_follow_in_their_order() -> None:
    assert CATALOGUE.entries[: len(EVENT_FEATURES)] == EVENT_FEATURES
    ends = [len(EVENT_FEATURES)]
    for kind in Kind:
        columns = CATALOGUE.slices[kind]
        assert columns.start == ends[-1]
        assert all(name.startswith(f"{KINDS[kind]}_") for name in CATALOGUE.names[columns])
        assert len(CATALOGUE.names[columns]) == CATALOGUE.plans[kind][k.P_FEATURES]
        ends.append(columns.stop)
    assert ends[-1] == CATALOGUE.size


@pytest.mark.parametrize(
    "alias",
    [
        ("tx_count_24h", "user_count_tx_24h"),
        ("amount_sum_24h", "user_sum_amount_24h"),
        ("amount_sum_1h", "user_sum_amount_1h"),
        ("tx_count_total", "user_count_tx_total"),
        ("avg_amount_user", "user_mean_amount_total"),
        ("first_seen_merchant", "user_first_seen_merchant"),
        ("distance_km", "ip_billing_distance_km"),
    ],
)
def test_the_names_of_the_requirements_are_known(alias: tuple[str, str]) -> None:
    assert CATALOGUE.index[alias[0]] == CATALOGUE.index[alias[1]]


def test_the_twenty_and_more_features_of_the_requirements_exist() -> None:
    calendar = {"hour_of_day", "day_of_week", "is_weekend"}
    assert calendar | {"amount", "merchant_mcc", "card_age_days", "country_mismatch", "distance_km"} <= set(CATALOGUE.index)
    assert CATALOGUE.size > 20


def test_every_entry_says_what_it_is() -> None:
    for entry in CATALOGUE.entries:
        assert entry.unit
        assert entry.doc
        assert entry.missing
        assert np.isnan(entry.default)


def test_only_what_can_be_absent_is_declared_missing() -> None:
    """A count over a card's window is never missing; one over a device is when there is no device."""
    missing = {entry.name: entry.missing for entry in CATALOGUE.entries}
    assert missing["card_count_tx_24h"] == "never"
    assert missing["device_count_tx_24h"] == "no device given"
    assert missing["user_zscore_amount_30d"] == "no user given; fewer than two earlier, or all equal"


def test_features_of_persons_are_exact_but_for_the_remembered_merchants() -> None:
    bounded = {entry.name for entry in CATALOGUE.entries if entry.bound}
    assert {name for name in bounded if name.startswith(("card_", "user_"))} == {"card_first_seen_merchant", "user_first_seen_merchant"}
    assert {"merchant_count_tx_24h", "ip_distinct_card_24h", "merchant_risk_delayed7d_30d"} <= bounded


def test_a_catalogue_of_other_windows_follows_the_same_grammar() -> None:
    other = Catalogue.of(["merchant_risk_delayed3d_11d", "card_distinct_merchant_37m", "card_count_tx_90s"])
    assert other.names[len(EVENT_FEATURES) :] == ("card_distinct_merchant_37m", "card_count_tx_90s", "merchant_risk_delayed3d_11d")
    assert other.slices[Kind.USER] == slice(len(EVENT_FEATURES) + 2, len(EVENT_FEATURES) + 2)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "not of the form"),
        ("card", "not of the form"),
        ("amount", "not of the form"),  # the event's own features are in every catalogue
        ("shop_count_tx_1h", "not of the form"),
        ("card_count_tx", "not of the form"),
        ("card_count_tx_1w", "not of the form"),
        ("card_count_tx_-1h", "not of the form"),
        ("card_count_tx_1.5h", "not of the form"),
        ("card_count_tx_٣h", "not of the form"),
        ("card_count_tx_1h\n", "not of the form"),
        (" card_count_tx_1h", "not of the form"),
        ("CARD_count_tx_1h", "not of the form"),
        ("card_count_tx_total_1h", "not of the form"),
        ("card_count_tx_" + "9" * 5_000 + "d", "not of the form"),
        ("card_count_tx_0h", "the window is empty"),
        ("card_count_tx_31d", "reaches 31 d back, the card log keeps 30 d"),
        ("card_count_tx_999999999d", "log keeps 30 d"),
        ("merchant_count_tx_38d", "log keeps 37 d"),
        ("ip_count_tx_8d", "log keeps 7 d"),
        ("merchant_risk_delayed8d_30d", "reaches 38 d back"),
        ("merchant_risk_delayed0d_7d", "a delay of 0 is no delay"),
        ("merchant_count_delayed7d_0d", "the window is empty"),
        ("merchant_zscore_amount_24h", "only card and user"),
        ("device_kmh_from_previous", "only card and user"),
        ("card_distinct_card_1h", "holds merchants and devices"),
        ("merchant_distinct_merchant_1h", "only card and user"),
    ],
)
def test_a_feature_that_cannot_be_is_refused(name: str, why: str) -> None:
    with pytest.raises(UnknownFeature, match=re.escape(why)):
        Catalogue.of([name])


def test_a_feature_listed_twice_is_refused() -> None:
    with pytest.raises(UnknownFeature, match="listed twice"):
        Catalogue.of(["card_count_tx_1h", "card_count_tx_1h"])


def test_the_longest_reach_is_allowed_to_the_day() -> None:
    Catalogue.of(["card_count_tx_30d", "merchant_risk_delayed7d_30d", "ip_count_tx_7d"])


def test_the_version_changes_with_names_order_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["card_count_tx_1h", "card_count_tx_2h"]
    version = Catalogue.of(names).version
    assert re.fullmatch("[0-9a-f]{16}", version)
    assert Catalogue.of(names).version == version
    assert Catalogue.of(names[::-1]).version != version
    assert Catalogue.of(names[:1]).version != version
    monkeypatch.setattr(module, "RATES_VERSION", "another table")
    assert Catalogue.of(names).version != version
