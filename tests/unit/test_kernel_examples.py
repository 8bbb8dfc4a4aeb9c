"""The kernel by examples that can be checked in the head; the proof is in tests/contract."""

from __future__ import annotations

import math

import pytest

from fraud import kernel as k
from fraud.events import Kind, Label, Transaction, hash64
from tests.contract.logs import START_MS, Entity, transaction
from tests.contract.naive import DAY_MS, HOUR_MS, MINUTE_MS

T = START_MS


def last(kind: Kind, *log: Transaction | Label) -> dict[str, float]:
    """Features of the last transaction of a log, by name without the entity."""
    entity, out = Entity(kind), None
    for entry in log:
        out = entity.apply(entry)
    assert out is not None
    return {name.split("_", 1)[1]: value for name, value in zip(entity.names, out.tolist(), strict=True)}


def fraud(tx: Transaction, is_fraud: bool = True) -> Label:
    return Label(tx.transaction_id, "default", "c", "m", tx.event_time_ms, tx.event_time_ms + 7 * DAY_MS, is_fraud)


def test_a_first_transaction_counts_itself_and_has_no_past() -> None:
    got = last(Kind.CARD, transaction(T, 1_234, country="FR"))
    assert {got[f"count_tx_{w}"] for w in ("5m", "1h", "24h", "7d", "30d", "total")} == {1}
    assert {got[f"sum_amount_{w}"] for w in ("5m", "1h", "24h", "7d", "30d")} == {1_234}
    assert got["first_seen_merchant"] == got["first_seen_country"] == 1
    for name in (
        "std_amount_24h",
        "zscore_amount_30d",
        "ratio_mean_amount_30d",
        "seconds_since_previous",
        "km_from_previous",
        "first_seen_device",
    ):
        assert math.isnan(got[name]), name


def test_a_window_leaves_out_its_start_and_holds_its_end() -> None:
    """(t - w, t]: five minutes later to the millisecond the first one is gone, a millisecond earlier it is there."""
    for elapsed_ms, count in ((5 * MINUTE_MS - 1, 2), (5 * MINUTE_MS, 1)):
        assert last(Kind.CARD, transaction(T), transaction(T + elapsed_ms))["count_tx_5m"] == count


def test_transactions_of_one_millisecond_count_in_the_order_of_their_arrival() -> None:
    card = Entity(Kind.CARD)
    counts = [card.apply(transaction(T, transaction_id=f"t{i}")) for i in range(3)]
    assert [out[card.names.index("card_count_tx_5m")] for out in counts if out is not None] == [1, 2, 3]


def test_a_late_event_sees_its_own_past_and_is_seen_by_its_future() -> None:
    card = Entity(Kind.CARD)
    index = card.names.index("card_count_tx_1h")
    seen = [card.apply(transaction(T + minute * MINUTE_MS))[index] for minute in (0, 50, 10, 55)]  # type: ignore[index]
    assert seen == [1, 2, 2, 4]


def test_money_features_of_three_amounts() -> None:
    got = last(Kind.USER, transaction(T, 1_000), transaction(T + 1, 3_000), transaction(T + 2, 5_000))
    assert (got["sum_amount_1h"], got["mean_amount_24h"], got["min_amount_24h"], got["max_amount_24h"]) == (9_000, 3_000, 1_000, 5_000)
    assert got["std_amount_24h"] == 2_000
    assert got["ratio_mean_amount_30d"] == got["ratio_median_amount_30d"] == 2.5  # against 1,000 and 3,000
    assert got["zscore_amount_30d"] == pytest.approx(3_000 / math.sqrt(2_000_000))
    assert got["ratio_p95_amount_30d"] == 5_000 / 3_000


def test_equal_amounts_have_no_deviation_and_no_z_score() -> None:
    got = last(Kind.CARD, *(transaction(T + i, 1_999_999) for i in range(50)))
    assert got["std_amount_30d"] == 0
    assert math.isnan(got["zscore_amount_30d"])


def test_a_cent_more_than_ten_billion_is_a_cent_more() -> None:
    """Deviations of large amounts that hardly differ keep their digits, at the largest amount that validation lets through."""
    for scale in (10_000, 10_000_000, 10**12):
        got = last(Kind.CARD, *(transaction(T + i, scale + i % 2) for i in range(200)), transaction(T + 200, scale + 3))
        assert got["zscore_amount_30d"] == pytest.approx(2.5 / math.sqrt(0.25 * 200 / 199), rel=1e-12)


def test_one_large_amount_among_small_ones_keeps_its_digits() -> None:
    got = last(Kind.CARD, *(transaction(T + i, 10**12 if i == 99 else i % 2) for i in range(100)), transaction(T + 100, 7))
    mean = (10**12 + 49) / 100
    variance = ((10**12 - mean) ** 2 + 49 * (1 - mean) ** 2 + 50 * mean**2) / 99
    assert got["zscore_amount_30d"] == pytest.approx((7 - mean) / math.sqrt(variance), rel=1e-12)


def test_the_lines_of_small_and_near_the_limit() -> None:
    amounts = (0, 500, 501, 179_999, 180_000, 200_000, 200_001)
    got = last(Kind.CARD, *(transaction(T + i, amount) for i, amount in enumerate(amounts)))
    assert (got["count_small_1h"], got["count_nearlimit_24h"]) == (2, 2)


def test_ratios_to_nothing_but_zero_amounts_are_missing() -> None:
    got = last(Kind.CARD, transaction(T, 0), transaction(T + 1, 500))
    assert all(math.isnan(got[f"ratio_{of}_amount_30d"]) for of in ("mean", "median", "p95"))


def test_a_flight_from_paris_to_sydney_in_an_hour_is_impossible() -> None:
    got = last(
        Kind.CARD,
        transaction(T, lat=48.8566, lon=2.3522),
        transaction(T + 30 * MINUTE_MS),  # without a position: it is not the one to measure from
        transaction(T + HOUR_MS, lat=-33.8688, lon=151.2093),
    )
    assert got["km_from_previous"] == pytest.approx(16_960, abs=1)
    assert got["kmh_from_previous"] == pytest.approx(got["km_from_previous"])
    assert got["seconds_since_previous"] == 1_800


def test_two_places_in_one_instant_are_given_a_second() -> None:
    got = last(Kind.CARD, transaction(T, lat=48.0, lon=2.0), transaction(T, lat=49.0, lon=2.0))
    assert got["kmh_from_previous"] == pytest.approx(got["km_from_previous"] * 3_600)


def test_merchant_risk_waits_for_the_delay_and_for_the_label() -> None:
    """Of two transactions eight days ago one is fraud: half, once the label came; nothing of the last seven days counts."""
    old, other, recent = transaction(T), transaction(T + 1), transaction(T + 3 * DAY_MS)
    now = transaction(T + 8 * DAY_MS)
    unlabelled = last(Kind.MERCHANT, old, other, recent, now)
    assert (unlabelled["count_delayed7d_7d"], unlabelled["risk_delayed7d_7d"]) == (2, 0)
    labelled = last(Kind.MERCHANT, old, other, recent, fraud(old), fraud(recent), now)
    assert (labelled["count_delayed7d_7d"], labelled["risk_delayed7d_7d"]) == (2, 0.5)


def test_risk_of_an_empty_window_is_zero() -> None:
    got = last(Kind.MERCHANT, transaction(T))
    assert (got["count_delayed7d_30d"], got["risk_delayed7d_30d"]) == (0, 0)


def test_a_label_counts_once_and_a_reversal_takes_it_back() -> None:
    tx, now = transaction(T), transaction(T + 8 * DAY_MS)
    assert last(Kind.CARD, tx, fraud(tx), fraud(tx), now)["count_fraud_30d"] == 1
    assert last(Kind.CARD, tx, fraud(tx), fraud(tx, is_fraud=False), now)["count_fraud_30d"] == 0
    assert last(Kind.CARD, tx, fraud(tx, is_fraud=False), now)["count_fraud_30d"] == 0


def test_a_label_may_come_before_its_transaction() -> None:
    tx = transaction(T)
    assert last(Kind.CARD, fraud(tx), tx)["count_fraud_30d"] == 1


def test_ninety_days_of_silence_begin_a_new_life() -> None:
    """As if the state had expired: a store may drop a state that is silent for longer without changing any feature."""
    before = [transaction(T + i, merchant_id=f"m{i}") for i in range(3)]
    after = transaction(T + 2 + 90 * DAY_MS + 1, merchant_id="m0")
    assert last(Kind.CARD, *before, transaction(T + 2 + 90 * DAY_MS))["count_tx_total"] == 4
    assert repr(last(Kind.CARD, *before, after)) == repr(last(Kind.CARD, after))
    again = transaction(after.event_time_ms + 1, merchant_id="m1")
    assert repr(last(Kind.CARD, *before, after, again)) == repr(last(Kind.CARD, after, again))


@pytest.mark.parametrize("kind", [Kind.MERCHANT, Kind.DEVICE, Kind.IP])
def test_a_new_life_of_a_busy_entity_is_new(kind: Kind) -> None:
    before = [transaction(T + i, card_id=f"c{i}", transaction_id=f"t{i}") for i in range(700)]
    after = transaction(T + 91 * DAY_MS)
    assert repr(last(kind, *before, after)) == repr(last(kind, after))


def test_the_previous_transaction_of_more_than_31_days_ago_is_none() -> None:
    """What an event sees does not depend on whether another one has pruned the log just before."""
    first = transaction(T, lat=48.0, lon=2.0, device_id="d", country="FR")
    for elapsed_ms, seen in ((31 * DAY_MS - 1, True), (31 * DAY_MS, False)):
        got = last(Kind.CARD, first, transaction(T + elapsed_ms, lat=48.0, lon=2.0, device_id="d", country="FR"))
        assert (got["seconds_since_previous"] == elapsed_ms / 1000) == seen
        assert math.isnan(got["km_from_previous"]) != seen
        assert got["first_seen_device"] == got["first_seen_country"] == (not seen)
        assert got["first_seen_merchant"] == 0  # merchants are remembered beyond the log


def test_a_cards_log_knows_its_transactions() -> None:
    card, user = Entity(Kind.CARD), Entity(Kind.USER)
    for entity in (card, user):
        entity.apply(transaction(T, transaction_id="t1"))
    assert k.has_transaction(card.state, hash64("default|t1"))
    assert not k.has_transaction(card.state, hash64("default|t2"))
    assert not k.has_transaction(user.state, hash64("default|t1")), "only the card's log is asked"
    card.apply(transaction(T + 31 * DAY_MS, transaction_id="t2"))
    assert not k.has_transaction(card.state, hash64("default|t1")), "what left the log is not known any more"
