"""The synthetic world: the same every time, plausible where it is honest, and recognisable where it is not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fraud.currency import to_base_minor_batch
from fraud.vector import event_row
from generator.frame import INSTANCE
from generator.generate import demo_history, demo_traffic, generate, labels, stream, summary
from generator.geography import distance_km
from generator.places import COUNTRIES
from generator.scenarios import SCENARIOS, SPECS
from serving.enrich import Enricher
from serving.history import CANONICAL_SCHEMA, LABEL_SCHEMA, to_transactions
from training.enrichment import enrich_frame

START_MS = 1_700_000_000_000
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
CODE = f"""
import hashlib
from generator.generate import generate
print(hashlib.sha256(generate(2000, seed=7, start_ms={START_MS}, users=500, merchants=300).write_csv().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def month() -> pl.DataFrame:
    """A month of 20,000 payments of 2,000 people, with USD amounts."""
    frame = generate(20_000, seed=3, start_ms=START_MS, fraud_rate=0.1, users=2_000, merchants=800, with_instance=True)
    return with_usd(frame)


@pytest.fixture(scope="module")
def minute() -> pl.DataFrame:
    """A demonstration minute at 300 events/s."""
    return with_usd(demo_traffic(60, 300, seed=3, start_ms=START_MS, users=10_000, merchants=1_000, with_instance=True))


def with_usd(frame: pl.DataFrame) -> pl.DataFrame:
    cents = to_base_minor_batch(frame["amount_minor"].to_numpy(), frame["currency"].to_list())
    return frame.with_columns(usd=pl.Series(cents) / 100)


def of(frame: pl.DataFrame, scenario: str) -> pl.DataFrame:
    return frame.filter(pl.col("scenario") == scenario)


def honest(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(~pl.col("is_fraud"))


def by_instance(frame: pl.DataFrame, scenario: str, *aggregates: pl.Expr) -> pl.DataFrame:
    """Whole instances only: the last one of a run is cut short to meet the number of rows."""
    grouped = of(frame, scenario).group_by(INSTANCE).agg(pl.len().alias("size"), *aggregates)
    whole = grouped.filter(pl.col("size") >= SPECS[scenario].size[0])
    assert whole.height > 0
    return whole


def highest_kmh(frame: pl.DataFrame) -> float:
    """Highest implied speed between consecutive known positions of a user; at least a second is assumed, as the kernel does."""
    located = frame.filter(pl.col("lat").is_not_null()).sort("user_id", "event_time_ms", maintain_order=True)
    lat, lon, time_ms = (located[name].to_numpy() for name in ("lat", "lon", "event_time_ms"))
    same = located["user_id"].to_numpy()[1:] == located["user_id"].to_numpy()[:-1]
    hours = np.maximum(np.diff(time_ms), 1000) / HOUR_MS
    kmh = distance_km(lat[:-1], lon[:-1], lat[1:], lon[1:]) / hours
    assert same.sum() > 1000
    return float(kmh[same].max())


# --- the same every time -----------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_frames_and_others_do_not() -> None:
    arguments = {"start_ms": START_MS, "users": 300, "merchants": 300}
    assert generate(500, seed=1, **arguments).equals(generate(500, seed=1, **arguments))
    assert not generate(500, seed=1, **arguments).equals(generate(500, seed=2, **arguments))


def test_another_process_gives_the_same_bytes() -> None:
    here = generate(2000, seed=7, start_ms=START_MS, users=500, merchants=300).write_csv().encode()
    root = Path(__file__).parents[2]
    there = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHONHASHSEED": "99"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert hashlib.sha256(here).hexdigest() == there.stdout.strip()


def test_the_frame_has_the_canonical_columns_and_types() -> None:
    assert generate(10, seed=1, start_ms=START_MS, users=50, merchants=300).schema == CANONICAL_SCHEMA
    assert [*CANONICAL_SCHEMA.names(), INSTANCE] == generate(
        10, seed=1, start_ms=START_MS, users=50, merchants=300, with_instance=True
    ).columns


def test_rows_are_in_order_of_time_within_the_window(month: pl.DataFrame) -> None:
    times = month["event_time_ms"]
    assert times.is_sorted()
    assert times.min() >= START_MS
    assert times.max() < START_MS + 30 * DAY_MS


def test_transaction_ids_are_distinct_random_uuids(month: pl.DataFrame) -> None:
    assert month["transaction_id"].n_unique() == month.height
    assert month["transaction_id"].str.contains(r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$").all()


@pytest.mark.parametrize(("n", "rate"), [(0, 0.0), (1, 1.0), (37, 0.5), (1000, 0.021), (1000, 0.0)])
def test_rows_and_frauds_are_exactly_as_many_as_asked_for(n: int, rate: float) -> None:
    frame = generate(n, seed=5, start_ms=START_MS, fraud_rate=rate, users=100, merchants=300)
    assert (n, round(n * rate)) == (frame.height, int(frame["is_fraud"].sum()))


def test_only_the_chosen_scenarios_occur() -> None:
    frame = generate(400, seed=5, start_ms=START_MS, fraud_rate=0.5, users=100, merchants=300, scenarios=["phishing", "account_takeover"])
    assert {"phishing", "account_takeover", None} == set(frame["scenario"])


def test_impossible_arguments_are_refused() -> None:
    for arguments in ({"fraud_rate": 1.5}, {"scenarios": ["theft"]}, {"users": 1}, {"duration_ms": 0}):
        with pytest.raises(ValueError, match=r"fraud_rate|unknown scenario|at least 10 users|positive"):
            generate(10, seed=1, start_ms=START_MS, **arguments)


# --- plausible where it is honest --------------------------------------------------------------------------------------


def test_every_fraud_is_labelled_with_its_scenario_and_all_seven_occur(month: pl.DataFrame) -> None:
    assert (month["is_fraud"] == month["scenario"].is_not_null()).all()
    assert {*SCENARIOS, None} == set(month["scenario"])
    assert len(SCENARIOS) == 7


def test_honest_amounts_are_log_normal_between_5_and_5000_usd(month: pl.DataFrame) -> None:
    usd = honest(month)["usd"]
    assert 4.99 <= usd.min() < 6
    assert 2000 < usd.max() <= 5000.01
    logs = usd.log().to_numpy()
    assert abs(((logs - logs.mean()) ** 3).mean() / logs.std() ** 3) < 0.8  # nearly symmetric, as amounts themselves are not
    assert usd.mean() > 1.4 * usd.median()


def test_honest_people_never_travel_faster_than_an_airliner(month: pl.DataFrame) -> None:
    assert highest_kmh(honest(month)) < 800
    assert highest_kmh(month) > 800  # takeovers do jump


def test_honest_people_of_a_busy_minute_stay_where_they_are(minute: pl.DataFrame) -> None:
    assert highest_kmh(honest(minute)) < 800


def test_honest_people_do_travel(month: pl.DataFrame) -> None:
    cities = honest(month).drop_nulls("city").group_by("user_id").agg(pl.col("city").n_unique(), pl.col("country").n_unique())
    assert 0.15 < (cities["city"] > 1).mean() < 0.75
    assert 0.03 < (cities["country"] > 1).mean() < 0.4


def test_slices_of_a_stream_fit_together() -> None:
    """A user who pays at the end of one slice and the start of the next has not jumped."""
    slices = list(islice(stream(seed=3, rate=50, start_ms=START_MS, slice_s=20, users=300, merchants=300, fraud_rate=0.0), 6))
    frame = pl.concat(slices)
    assert frame["event_time_ms"].is_sorted()
    assert frame["transaction_id"].n_unique() == 6000 == frame.height
    assert highest_kmh(frame) < 800


def test_people_pay_by_day_and_not_by_night(month: pl.DataFrame) -> None:
    offsets = {city.name: round(city.utc_offset_h * HOUR_MS) for country in COUNTRIES for city in country.cities}
    at_home = honest(month).drop_nulls("city").filter(pl.col("country") == pl.col("card_country"))
    hour = (at_home["event_time_ms"] + at_home["city"].replace_strict(offsets, return_dtype=pl.Int64)) % DAY_MS // HOUR_MS
    by_day, by_night = hour.is_between(12, 19).sum() / 8, hour.is_between(1, 4).sum() / 4
    assert by_day > 5 * by_night


def test_amounts_are_in_the_currency_of_the_merchants_country(month: pl.DataFrame) -> None:
    expected = {country.code: country.currency for country in COUNTRIES}
    assert (month["currency"] == month["merchant_country"].replace_strict(expected)).all()
    assert month["currency"].n_unique() > 10


def test_online_payments_have_a_device_and_an_address_and_those_at_a_counter_no_address(month: pl.DataFrame) -> None:
    online = month.filter(pl.col("channel") == "ecom")
    assert online.select("device_id", "ip_address").null_count().sum_horizontal().item() == 0
    assert month.filter(pl.col("channel") != "ecom")["ip_address"].null_count() == month.height - online.height
    assert {"pos", "contactless", "atm", "ecom"} == set(month["channel"])


def test_home_addresses_resolve_to_the_country_of_the_card(month: pl.DataFrame) -> None:
    """Nearly all honest online payments come from home; the rest are travellers and virtual private networks."""
    online = honest(month).filter(pl.col("channel") == "ecom").head(2000)
    # through the stream's own enrichment: geoip2fast keeps its data in module globals, and a second instance of another file
    # would change the answers of the first
    found = enrich_frame(online, Enricher(b"a key for the tests alone"))["ip_country"]
    assert (found == online["card_country"]).mean() > 0.88
    assert found.is_in([country.code for country in COUNTRIES]).all()


def test_addresses_are_those_of_hosts(month: pl.DataFrame) -> None:
    last = month["ip_address"].drop_nulls().str.split(".").list.last().cast(pl.Int64)
    assert last.is_between(1, 254).all()


def test_a_card_belongs_to_one_user_and_a_user_has_up_to_three(month: pl.DataFrame) -> None:
    assert honest(month).group_by("card_id").agg(pl.col("user_id").n_unique())["user_id"].max() == 1
    cards = honest(month).group_by("user_id").agg(pl.col("card_id").n_unique())["card_id"]
    assert (cards.min(), cards.max()) == (1, 3)


def test_user_ids_count_from_one() -> None:
    frame = generate(3000, seed=1, start_ms=START_MS, users=100, merchants=300)
    assert {str(number) for number in range(1, 101)} == set(frame["user_id"])


def test_few_honest_payments_are_declined(month: pl.DataFrame) -> None:
    assert 0.01 < honest(month)["declined"].mean() < 0.03


def test_what_enrichment_derives_is_left_to_it(month: pl.DataFrame) -> None:
    for column in ("ip_hash", "ip_country", "ip_region", "ip_asn", "ip_lat", "ip_lon"):
        assert month[column].null_count() == month.height


def test_the_kernel_accepts_every_row(month: pl.DataFrame) -> None:
    sample = month.sample(400, seed=1)
    assert len({int(event_row(tx)[2]) for tx in to_transactions(sample)}) == 400


# --- recognisable where it is not --------------------------------------------------------------------------------------


def test_card_testing_tries_small_amounts_in_minutes_and_then_spends_big(month: pl.DataFrame) -> None:
    small = pl.col("usd") <= 5
    seen = by_instance(
        month,
        "card_testing",
        small.sum().alias("small"),
        pl.col("usd").last().alias("last"),
        pl.col("declined").filter(small).mean().alias("declined"),
        pl.col("device_id").n_unique().alias("devices"),
        pl.col("ip_address").n_unique().alias("addresses"),
        pl.col("card_id").n_unique().alias("cards"),
        (pl.col("event_time_ms").max() - pl.col("event_time_ms").min()).alias("span_ms"),
    )
    assert (seen["small"] >= 9).all()
    assert (seen["last"] > 300).all()
    assert 0.3 < seen["declined"].mean() < 0.6
    assert seen["devices"].max() == seen["addresses"].max() == 1
    assert seen["cards"].min() == 1
    assert seen["cards"].max() > 5
    assert seen["span_ms"].max() <= 10 * 60_000
    assert (honest(month)["usd"] <= 5).mean() < 0.001


def test_account_takeover_uses_a_device_that_nobody_had_and_spends_more(month: pl.DataFrame) -> None:
    frauds = of(month, "account_takeover")
    assert set(frauds["device_id"]).isdisjoint(honest(month)["device_id"].drop_nulls())
    assert set(frauds["card_id"]) & set(honest(month)["card_id"])
    assert frauds["usd"].median() > 5 * honest(month)["usd"].median()
    located = frauds.drop_nulls("country")
    assert 0.4 < (located["country"] != located["card_country"]).mean() < 0.95


def test_identity_theft_is_a_fresh_card_far_from_its_billing_address(month: pl.DataFrame) -> None:
    frauds = of(month, "identity_theft")
    assert set(frauds["card_id"]).isdisjoint(honest(month)["card_id"])
    assert frauds["card_age_days"].max() <= 7
    km = distance_km(*(frauds[name].to_numpy() for name in ("lat", "lon", "billing_lat", "billing_lon")))
    assert np.median(km) > 200
    totals = by_instance(month, "identity_theft", pl.col("usd").sum().alias("total"))
    assert totals["total"].median() > 2500


def test_merchant_fraud_charges_many_cards_at_one_merchant_in_a_burst(month: pl.DataFrame) -> None:
    seen = by_instance(
        month,
        "merchant_fraud",
        pl.col("merchant_id").n_unique().alias("merchants"),
        pl.col("card_id").n_unique().alias("cards"),
        (pl.col("usd").std() / pl.col("usd").mean()).alias("variation"),
        (pl.col("event_time_ms").max() - pl.col("event_time_ms").min()).alias("span_ms"),
    )
    assert seen["merchants"].max() == 1
    assert (seen["cards"] > 0.8 * seen["size"]).mean() > 0.7  # a small country has few cards to charge
    assert seen["variation"].max() < 0.15
    assert seen["span_ms"].max() <= HOUR_MS
    rogue = set(of(month, "merchant_fraud")["merchant_id"])
    assert rogue & set(honest(month)["merchant_id"])  # it has honest customers too


def test_money_laundering_stays_just_under_2000_usd(month: pl.DataFrame) -> None:
    frauds = of(month, "money_laundering")
    assert frauds["usd"].is_between(1800, 2000, closed="left").all()
    assert set(frauds["transaction_type"]) == {"transfer"}
    seen = by_instance(
        month, "money_laundering", pl.col("user_id").n_unique().alias("users"), pl.col("merchant_id").n_unique().alias("receivers")
    )
    assert seen["users"].max() == 1
    assert seen["receivers"].max() <= 2
    assert honest(month)["usd"].is_between(1800, 2000).mean() < 0.01


def test_phishing_has_many_victims_few_receivers_and_one_address_range(month: pl.DataFrame) -> None:
    seen = by_instance(
        month,
        "phishing",
        pl.col("user_id").n_unique().alias("victims"),
        pl.col("merchant_id").n_unique().alias("receivers"),
        pl.col("device_id").n_unique().alias("devices"),
        pl.col("ip_address").str.extract(r"^(\d+\.\d+\.\d+)\.").n_unique().alias("networks"),
    )
    assert (seen["victims"] > 0.5 * seen["size"]).all()
    assert seen["receivers"].max() <= 2
    assert seen["devices"].max() <= 3
    assert seen["networks"].max() == 1


def test_chargeback_fraud_looks_like_its_owner_but_for_the_amounts(month: pl.DataFrame) -> None:
    frauds = of(month, "chargeback_fraud")
    assert set(frauds["channel"]) == {"ecom"}
    assert frauds["usd"].min() >= 249
    assert not frauds["declined"].any()
    both = frauds.join(honest(month).select("card_id").unique(), on="card_id")
    assert both.height > 0.5 * frauds.height
    # Own position: no jump from the honest payments of the same people.
    people = month.filter(pl.col("scenario").is_null() | (pl.col("scenario") == "chargeback_fraud"))
    assert highest_kmh(people) < 800


def test_new_names_cannot_be_told_from_old_ones(month: pl.DataFrame) -> None:
    """Neither the id of a card nor that of a device gives a fraud away by its form."""
    for column, form in (
        ("card_id", r"^crd_[0-9a-f]{12}$"),
        ("device_id", r"^dev_[0-9a-f]{12}$"),
        ("batch_id", r"^gen-[0-9a-f]{16}$"),
    ):
        assert month[column].drop_nulls().str.contains(form).all()


# --- demonstration -----------------------------------------------------------------------------------------------------


def test_a_demonstration_minute_shows_several_short_frauds_of_every_kind(minute: pl.DataFrame) -> None:
    assert minute.height == 18_000
    seen = minute.filter("is_fraud").group_by("scenario", INSTANCE).agg(pl.col("event_time_ms").max() - pl.col("event_time_ms").min())
    counts = dict(seen.group_by("scenario").len().iter_rows())
    assert set(SCENARIOS) == set(counts)
    assert min(counts.values()) >= 2
    assert seen["event_time_ms"].max() <= 20_000


def test_a_demonstration_fills_its_time_at_an_even_rate(minute: pl.DataFrame) -> None:
    second = (minute["event_time_ms"] - START_MS) // 1000
    counts = second.value_counts()["count"]
    assert (second.min(), second.max()) == (0, 59)
    assert counts.min() > 150
    assert counts.max() < 500


def test_history_is_of_the_same_people_and_ends_before_the_demonstration() -> None:
    arguments = {"seed": 4, "start_ms": START_MS, "users": 500, "merchants": 300}
    history, live = demo_history(6000, rate=100, **arguments), demo_traffic(10, 100, **arguments)
    assert history.height == 6000
    assert history["event_time_ms"].is_sorted()
    assert history["event_time_ms"].min() >= START_MS - 30 * DAY_MS
    assert history["event_time_ms"].max() < live["event_time_ms"].min()
    assert {*SCENARIOS, None} == set(history["scenario"])
    owners = dict(honest(history).select("card_id", "user_id").unique().iter_rows())
    known = [(card, user) for card, user in honest(live).select("card_id", "user_id").iter_rows() if card in owners]
    assert len(known) > 500
    assert all(owners[card] == user for card, user in known)
    assert set(history["transaction_id"]).isdisjoint(live["transaction_id"])


def test_history_has_minutes_as_busy_as_the_demonstration_the_first_at_its_start() -> None:
    history = demo_history(20_000, seed=4, start_ms=START_MS, rate=100, users=500, merchants=300, with_instance=True)
    per_minute = (history["event_time_ms"] // 60_000).value_counts()["count"]
    assert (per_minute > 1000).sum() >= 1
    assert history["event_time_ms"][1000] < START_MS - 30 * DAY_MS + 60_000
    assert history.filter("is_fraud").group_by("scenario", INSTANCE).len()["len"].max() <= 80  # numbers are not used twice


def test_the_clock_of_the_demonstration_is_the_callers() -> None:
    one, other = (demo_traffic(5, 50, seed=1, start_ms=start, users=100, merchants=300) for start in (START_MS, START_MS + 60_000))
    assert set(one["transaction_id"]).isdisjoint(other["transaction_id"])


# --- labels and counts -------------------------------------------------------------------------------------------------


def test_every_fraud_gets_one_later_label_that_names_its_transaction(month: pl.DataFrame) -> None:
    known = labels(month, seed=1)
    assert known.schema == LABEL_SCHEMA
    assert known["label_time_ms"].is_sorted()
    assert known["is_fraud"].all()
    joined = known.join(month, on="transaction_id", suffix="_tx")
    assert joined.height == known.height == int(month["is_fraud"].sum())
    assert (joined["label_time_ms"] > joined["event_time_ms"]).all()
    for column in ("card_id", "merchant_id", "user_id", "tenant_id"):
        assert (joined[column] == joined[f"{column}_tx"]).all()
    assert (joined["transaction_time_ms"] == joined["event_time_ms"]).all()


def test_card_testing_is_known_in_hours_and_chargebacks_in_weeks(month: pl.DataFrame) -> None:
    delay = labels(month, seed=1).join(month.select("transaction_id", "scenario"), on="transaction_id")
    days = dict(delay.group_by("scenario").agg(((pl.col("label_time_ms") - pl.col("transaction_time_ms")) / DAY_MS).median()).iter_rows())
    assert days["card_testing"] < 0.5
    assert 10 < days["chargeback_fraud"] < 18


def test_labels_are_the_same_every_time_and_can_be_compressed(month: pl.DataFrame) -> None:
    assert labels(month, seed=1).equals(labels(month, seed=1))
    assert not labels(month, seed=1).equals(labels(month, seed=2))
    quick = labels(month, seed=1, time_scale=1e-6)
    assert (quick["label_time_ms"] - quick["transaction_time_ms"]).max() < 20_000


def test_cleared_payments_are_labelled_not_fraud(month: pl.DataFrame) -> None:
    known = labels(month, seed=1, cleared_share=0.1)
    cleared = known.filter(~pl.col("is_fraud"))
    assert 0.08 < cleared.height / honest(month).height < 0.12
    assert set(cleared["source"]) == {"analyst"}


def test_summary_counts_what_is_there(month: pl.DataFrame) -> None:
    counted = summary(month)
    assert (counted.rows, counted.fraud, counted.fraud_rate) == (20_000, 2_000, 0.1)
    assert sum(counted.scenarios.values()) == 2_000
    assert counted.rows_per_s == pytest.approx(20_000 / counted.duration_s)
    assert summary(month.head(0)).rows_per_s == 0.0
