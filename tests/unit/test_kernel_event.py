"""From a transaction to the kernel's row, and the features of the event alone."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud import kernel as k
from fraud.catalogue import EVENT_FEATURES
from fraud.errors import InvalidEvent
from fraud.events import Kind, Transaction, decision_id, entity_ids, entity_key, hash64
from fraud.geo import MISSING, pack_country
from fraud.vector import event_features, event_row, tenant_hash
from tests.contract.logs import START_MS, Entity, transaction
from tests.contract.naive import distance_km

NAMES = tuple(entry.name for entry in EVENT_FEATURES)
texts = st.text(st.characters(codec="utf-8"), max_size=20)


def features(tx: Transaction) -> dict[str, float]:
    out = np.zeros(len(NAMES))
    event_features(event_row(tx), out)
    return dict(zip(NAMES, out.tolist(), strict=True))


@given(texts, texts)
def test_hashes_tell_ids_apart_and_are_never_zero(one: str, other: str) -> None:
    assert (hash64(one) == hash64(other)) == (one == other)
    assert hash64(one) != 0
    assert -(1 << 63) <= hash64(one) < 1 << 63


def test_the_hash_is_fixed_for_good() -> None:
    """States and ledgers hold these numbers: a change is a migration, not a refactoring."""
    assert hash64("default|c1") == 1_680_197_635_556_312_463  # b2sum -l 64
    assert tenant_hash("default", "c1") == hash64("default|c1")


def test_an_id_hashes_differently_in_another_tenant_and_an_absent_one_is_zero() -> None:
    assert tenant_hash("a", "x") != tenant_hash("b", "x")
    assert tenant_hash("a", None) == 0


def test_ids_stand_in_the_row_by_their_hash() -> None:
    tx = transaction(START_MS, device_id="d", ip_hash=None)
    row = event_row(tx)
    assert [int(row[word]) for word in (k.E_TX, k.E_CARD, k.E_USER, k.E_MERCHANT, k.E_DEVICE, k.E_IP)] == [
        hash64(f"default|{tx.transaction_id}"),
        *(tenant_hash("default", entity_id) for entity_id in entity_ids(tx)),
    ]
    assert row[k.E_IP] == 0


def test_a_row_can_be_written_in_place() -> None:
    row = np.full(k.EVENT_WORDS, 77, dtype=np.int64)
    assert event_row(transaction(START_MS), row) is row
    assert row.tolist() == event_row(transaction(START_MS)).tolist()


def test_the_raw_address_and_the_labels_are_no_part_of_the_row() -> None:
    plain, known = transaction(START_MS), transaction(START_MS, ip_address="192.0.2.1", is_fraud=True, scenario="card_testing")
    assert event_row(plain).tolist() == event_row(known).tolist()


def test_amounts_are_brought_to_cents_of_a_dollar() -> None:
    assert features(transaction(START_MS, 3_000, currency="EUR"))["amount"] == 3_117
    assert features(transaction(START_MS, 3_000, currency="EUR"))["amount_usd"] == 31.17


def test_an_unknown_currency_is_an_invalid_event() -> None:
    with pytest.raises(InvalidEvent, match="unknown_currency"):
        event_row(transaction(START_MS, currency="XXX"))


@pytest.mark.parametrize("position", [(None, None), (0.0, 0.0), (-0.0, 0.0), (48.0, None), (None, 2.0)])
def test_half_a_position_and_the_gulf_of_guinea_are_missing(position: tuple[float | None, float | None]) -> None:
    """(0, 0) is what devices send that do not know where they are."""
    lat, lon = position
    row = event_row(transaction(START_MS, lat=lat, lon=lon, billing_lat=lat, billing_lon=lon, ip_lat=lat, ip_lon=lon))
    words = (k.E_LAT, k.E_LON, k.E_BILL_LAT, k.E_BILL_LON, k.E_IP_LAT, k.E_IP_LON)
    assert [int(row[word]) for word in words] == [MISSING] * 6


def test_a_position_on_the_equator_or_the_meridian_is_one() -> None:
    row = event_row(transaction(START_MS, lat=0.0, lon=9.45, billing_lat=51.4779, billing_lon=0.0))
    assert [int(row[word]) for word in (k.E_LAT, k.E_LON, k.E_BILL_LAT, k.E_BILL_LON)] == [0, 9_450_000, 51_477_900, 0]


def test_a_position_of_which_only_half_reached_the_kernel_is_never_a_previous_position() -> None:
    """A row that another writer got wrong does not place the card on the prime meridian."""
    card = Entity(Kind.CARD)
    row = event_row(transaction(START_MS, lat=48.0, lon=2.0))
    row[k.E_LON] = MISSING
    card.state = card.evaluator.observe(Kind.CARD, card.state, row, np.zeros(len(card.names)))
    out = card.apply(transaction(START_MS + 1_000, lat=48.0, lon=2.0))
    assert out is not None
    assert math.isnan(out[card.names.index("card_km_from_previous")])


@given(st.integers(-2_000_000_000_000, 4_000_000_000_000))
def test_hour_weekday_night_and_weekend_are_those_of_the_calendar(t: int) -> None:
    """Nights are the Handbook's: hours 0 to 6; times before 1970 count as well."""
    when = datetime.fromtimestamp(t // 1000, tz=UTC)
    got = features(transaction(t))
    assert (got["hour_of_day"], got["day_of_week"]) == (when.hour, when.weekday())
    assert got["is_weekend"] == (when.weekday() >= 5)
    assert got["is_night"] == (when.hour <= 6)


@pytest.mark.parametrize(
    ("channel", "remote"), [(None, None), ("pos", 0), ("chip", 0), ("swipe", 0), ("contactless", 0), ("atm", 0), ("web", 1), ("moto", 1)]
)
def test_card_not_present_follows_the_channel(channel: str | None, remote: int | None) -> None:
    for declined in (False, True):
        got = features(transaction(START_MS, channel=channel, declined=declined))
        assert math.isnan(got["card_not_present"]) if remote is None else got["card_not_present"] == remote
        assert got["declined"] == declined


@pytest.mark.parametrize(
    ("feature", "column"),
    [("country_mismatch", "ip_country"), ("merchant_country_mismatch", "merchant_country"), ("location_country_mismatch", "country")],
)
def test_a_country_mismatch_needs_both_countries(feature: str, column: str) -> None:
    def mismatch(one: str | None, card: str | None) -> float:
        columns: dict[str, object] = {column: one}
        return features(transaction(START_MS, 1_000, card_country=card, **columns))[feature]

    assert mismatch("FR", "FR") == 0
    assert mismatch("FR", "GB") == 1
    for one, card in ((None, "FR"), ("FR", None), (None, None)):
        assert math.isnan(mismatch(one, card))


def test_distances_to_the_billing_address() -> None:
    paris, london, sydney = (48.8566, 2.3522), (51.5074, -0.1278), (-33.8688, 151.2093)
    tx = transaction(START_MS, lat=paris[0], lon=paris[1], ip_lat=sydney[0], ip_lon=sydney[1], billing_lat=london[0], billing_lon=london[1])
    got = features(tx)
    assert got["home_distance_km"] == pytest.approx(distance_km(*paris, *london))
    assert got["ip_billing_distance_km"] == pytest.approx(distance_km(*sydney, *london))


def test_what_is_not_given_is_missing_and_zero_is_a_value() -> None:
    got = features(transaction(START_MS))
    for name in ("merchant_mcc", "card_age_days", "card_not_present", "lat", "lon", "ip_billing_distance_km", "home_distance_km"):
        assert math.isnan(got[name]), name
    got = features(transaction(START_MS, 0, merchant_mcc=0, card_age_days=0))
    assert (got["merchant_mcc"], got["card_age_days"], got["amount"]) == (0, 0, 0)


def test_the_position_is_a_feature_to_the_millionth_of_a_degree() -> None:
    got = features(transaction(START_MS, lat=-33.8688, lon=151.2093))
    assert (got["lat"], got["lon"]) == (-33.8688, 151.2093)


def test_countries_are_exact_in_the_row() -> None:
    row = event_row(transaction(START_MS, country="FR", ip_country="DE", card_country=None, merchant_country="ZZ"))
    words = (k.E_COUNTRY, k.E_IP_COUNTRY, k.E_CARD_COUNTRY, k.E_MERCHANT_COUNTRY)
    assert [int(row[word]) for word in words] == [pack_country("FR"), pack_country("DE"), 0, pack_country("ZZ")]


def test_a_decision_has_one_name() -> None:
    assert decision_id("default", "t1") == decision_id("default", "t1")
    assert len({decision_id("default", "t1"), decision_id("default", "t2"), decision_id("other", "t1")}) == 3
    assert decision_id("default", "t1").startswith("dec-")
    assert len(decision_id("default", "t1")) == 4 + 36
    assert entity_key("default", "c1") == "default|c1"
