"""The gate before the kernel: what may pass, what is refused and with which code, what is set right in place."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from fraud.errors import InvalidEvent
from fraud.events import Label, Transaction
from serving.validate import Validator, check_key, validate, validate_label
from tests.wire_samples import NOW_MS, drawn, label, transaction

DAY_MS = 86_400_000
CODES = {
    "empty_id",
    "bad_text",
    "too_long",
    "bad_tenant",
    "bad_amount",
    "unknown_currency",
    "bad_time",
    "future_event",
    "bad_latitude",
    "bad_longitude",
    "bad_country",
    "bad_mcc",
    "bad_card_age",
    "bad_asn",
}


def refusal(**changes: Any) -> str:
    with pytest.raises(InvalidEvent) as caught:
        validate(transaction(**changes), now_ms=NOW_MS)
    return caught.value.code


def passed(**changes: Any) -> Transaction:
    tx = transaction(**changes)
    validate(tx, now_ms=NOW_MS)
    return tx


def test_a_good_transaction_passes_unchanged() -> None:
    assert transaction() == passed()


def test_a_transaction_of_the_required_fields_alone_passes() -> None:
    tx = Transaction("t-1", "default", "c-1", "m-1", 0, "JPY", NOW_MS)
    before = replace(tx)
    validate(tx, now_ms=NOW_MS)
    assert before == tx


IDS = ["transaction_id", "tenant_id", "card_id", "merchant_id", "user_id", "device_id"]
TEXTS = ["transaction_type", "channel", "merchant_name", "city", "card_type", "batch_id", "scenario", "ip_hash", "ip_region", "ip_address"]


@pytest.mark.parametrize("field", IDS)
def test_an_identifier_must_say_something_visible(field: str) -> None:
    for blank in ("", " ", "\u2003"):
        assert refusal(**{field: blank}) == "empty_id"
    for bad in ("a\0b", "a\nb", "a\x1b[31mb", "a\u202eb", "a\u200bb", "\ufeffa", "a\u2028b", "a\ud800", " a", "a ", "a\x7f"):
        assert refusal(**{field: bad}) == "bad_text", repr(bad)
    assert refusal(**{field: "a" * 129}) == "too_long"
    assert refusal(**{field: "\ufdfa" * 100}) == "too_long"  # one character that NFKC makes eighteen of
    assert getattr(passed(**{field: "a" * 128}), field) == "a" * 128


@pytest.mark.parametrize("field", IDS)
def test_spellings_of_one_identifier_become_one(field: str) -> None:
    spellings = ["caf\u00e9-1", "cafe\u0301-1", "\uff43af\u00e9-\uff11"]
    assert {getattr(passed(**{field: spelling}), field) for spelling in spellings} == {"caf\u00e9-1"}


@pytest.mark.parametrize("field", TEXTS)
def test_other_text_is_bounded_and_without_control_characters(field: str) -> None:
    assert refusal(**{field: "a" * 129}) == "too_long"
    for bad in ("a\0", "a\r\nb", "\x1b[2J", "\x85", "\udfff"):
        assert refusal(**{field: bad}) == "bad_text", repr(bad)
    for good in ("", "日本 店\u3000二号", "naïve ☕", "a\u00a0b"):
        assert getattr(passed(**{field: good}), field) == good


def test_a_tenant_cannot_reach_into_another_tenants_keys() -> None:
    """State keys are tenant|entity: tenant "a|b" with card "c" must not be tenant "a" with card "b|c"."""
    assert refusal(tenant_id="a|b") == "bad_tenant"
    assert refusal(tenant_id="a\uff5cb") == "bad_tenant"  # the full-width bar, which NFKC makes the bar
    assert passed(card_id="b|c").card_id == "b|c"


@pytest.mark.parametrize("amount", [-1, -(2**63), 10**12 + 1, 2**63 - 1])
def test_an_amount_out_of_range_is_refused(amount: int) -> None:
    assert refusal(amount_minor=amount) == "bad_amount"


@pytest.mark.parametrize("amount", [0, 1, 10**12])
def test_an_amount_at_the_limits_passes(amount: int) -> None:
    assert passed(amount_minor=amount).amount_minor == amount


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "XXX", "ZZZ", "€"])
def test_a_currency_outside_the_table_is_refused(currency: str) -> None:
    assert refusal(currency=currency) == "unknown_currency"


@pytest.mark.parametrize("time_ms", [0, -1, -(2**63), 1_700_000_000, 946_684_799_999])
def test_a_time_before_2000_is_a_mistaken_unit(time_ms: int) -> None:
    assert refusal(event_time_ms=time_ms) == "bad_time"


def test_an_event_from_the_future_is_refused_beyond_a_minute() -> None:
    assert passed(event_time_ms=NOW_MS + 60_000).event_time_ms == NOW_MS + 60_000
    assert refusal(event_time_ms=NOW_MS + 60_001) == "future_event"
    assert refusal(event_time_ms=NOW_MS + DAY_MS) == "future_event"
    assert refusal(event_time_ms=2**63 - 1) == "future_event"
    with pytest.raises(InvalidEvent, match="future_event"):
        validate(transaction(event_time_ms=NOW_MS + 1), now_ms=NOW_MS, max_future_ms=0)


@pytest.mark.parametrize("prefix", ["", "billing_", "ip_"])
class TestPositions:
    @pytest.mark.parametrize("lat", [90.0001, -91.0, 999.0, math.nan, math.inf, -math.inf, None])
    def test_a_latitude_out_of_range_or_alone_is_refused(self, prefix: str, lat: float | None) -> None:
        assert refusal(**{f"{prefix}lat": lat, f"{prefix}lon": 2.0}) == "bad_latitude"

    @pytest.mark.parametrize("lon", [180.0001, -181.0, 999.0, math.nan, math.inf, -math.inf, None])
    def test_a_longitude_out_of_range_or_alone_is_refused(self, prefix: str, lon: float | None) -> None:
        assert refusal(**{f"{prefix}lat": 48.0, f"{prefix}lon": lon}) == "bad_longitude"

    @pytest.mark.parametrize("position", [(90.0, 180.0), (-90.0, -180.0), (0.0, 1e-9), (5.0, 0.0)])
    def test_the_edges_of_the_earth_pass(self, prefix: str, position: tuple[float, float]) -> None:
        tx = passed(**{f"{prefix}lat": position[0], f"{prefix}lon": position[1]})
        assert (getattr(tx, f"{prefix}lat"), getattr(tx, f"{prefix}lon")) == position

    @pytest.mark.parametrize("zeros", [(0.0, 0.0), (-0.0, 0.0), (0.0, -0.0)])
    def test_null_island_is_missing(self, prefix: str, zeros: tuple[float, float]) -> None:
        tx = passed(**{f"{prefix}lat": zeros[0], f"{prefix}lon": zeros[1]})
        assert getattr(tx, f"{prefix}lat") is None
        assert getattr(tx, f"{prefix}lon") is None

    def test_no_position_passes(self, prefix: str) -> None:
        assert getattr(passed(**{f"{prefix}lat": None, f"{prefix}lon": None}), f"{prefix}lat") is None


@pytest.mark.parametrize("field", ["country", "card_country", "merchant_country", "billing_country", "ip_country"])
@pytest.mark.parametrize("country", ["", "F", "fr", "FRA", "F1", "--", "ÉÉ", "F\0"])
def test_a_country_is_two_capital_letters(field: str, country: str) -> None:
    assert refusal(**{field: country}) == "bad_country"


@pytest.mark.parametrize(
    ("field", "bad", "good", "code"),
    [
        ("merchant_mcc", (-1, 10_000), (0, 9_999), "bad_mcc"),
        ("card_age_days", (-1, 36_526), (0, 36_525), "bad_card_age"),
        ("ip_asn", (-1, 2**32), (0, 2**32 - 1), "bad_asn"),
    ],
)
def test_a_number_out_of_its_range_is_refused(field: str, bad: tuple[int, int], good: tuple[int, int], code: str) -> None:
    assert [refusal(**{field: number}) for number in bad] == [code, code]
    assert [getattr(passed(**{field: number}), field) for number in good] == list(good)


def test_the_detail_names_the_field_and_never_its_value() -> None:
    secret = "4111111111111111\n"
    for field in (*IDS, *TEXTS, "country", "ip_country"):
        with pytest.raises(InvalidEvent) as caught:
            validate(transaction(**{field: secret}), now_ms=NOW_MS)
        assert field in caught.value.detail
        assert secret.strip() not in str(caught.value)


@given(drawn("transaction"))
def test_any_decoded_transaction_passes_or_is_refused_with_a_code(tx: Transaction) -> None:
    try:
        validate(tx, now_ms=NOW_MS)
    except InvalidEvent as refused:
        assert refused.code in CODES
        assert refused.detail


@given(drawn("transaction"))
def test_what_passes_once_passes_again_unchanged(tx: Transaction) -> None:
    tx = replace(transaction(), **{name: getattr(tx, name) for name in (*IDS[:4], "merchant_name", "city")})
    try:
        validate(tx, now_ms=NOW_MS)
    except InvalidEvent:
        return
    once = replace(tx)
    validate(tx, now_ms=NOW_MS)
    assert once == tx


# Labels and keys


def label_refusal(**changes: Any) -> str:
    with pytest.raises(InvalidEvent) as caught:
        validate_label(label(**changes), now_ms=NOW_MS)
    return caught.value.code


def test_a_good_label_passes_unchanged() -> None:
    checked = label()
    validate_label(checked, now_ms=NOW_MS)
    assert label() == checked


def test_a_bad_label_is_refused_with_its_reason() -> None:
    assert label_refusal(transaction_id="") == "empty_id"
    assert label_refusal(user_id="a\0") == "bad_text"
    assert label_refusal(tenant_id="a|b") == "bad_tenant"
    assert label_refusal(source="x" * 129) == "too_long"
    assert label_refusal(transaction_time_ms=0) == "bad_time"
    assert label_refusal(label_time_ms=NOW_MS + DAY_MS) == "future_event"


def test_a_label_cannot_be_older_than_its_transaction() -> None:
    time_ms = label().transaction_time_ms
    assert label_refusal(label_time_ms=time_ms - 1) == "bad_time"
    validate_label(label(label_time_ms=time_ms), now_ms=NOW_MS)


@given(drawn("label"))
def test_any_decoded_label_passes_or_is_refused_with_a_code(drawn_label: Label) -> None:
    try:
        validate_label(drawn_label, now_ms=NOW_MS)
    except InvalidEvent as refused:
        assert refused.code in CODES


def key_refusal(key: bytes | None) -> str:
    with pytest.raises(InvalidEvent) as caught:
        check_key(key, "carte-é")
    return caught.value.code


def test_the_key_of_a_record_is_its_card_in_utf_8() -> None:
    check_key("carte-é".encode(), "carte-é")
    assert key_refusal(None) == "empty_key"
    assert key_refusal(b"") == "empty_key"
    assert key_refusal(b"carte-e") == "key_mismatch"
    assert key_refusal("carte-é".encode("latin-1")) == "key_mismatch"


def test_the_gate_judges_key_and_record_by_its_settings() -> None:
    strict, lax = Validator(max_future_ms=0), Validator(key_is_card=False)
    strict.check_transaction(transaction(), b"card-000123", now_ms=NOW_MS)
    strict.check_label(label(), b"card-000123", now_ms=NOW_MS)
    lax.check_transaction(transaction(), None, now_ms=NOW_MS)
    lax.check_label(label(), b"elsewhere", now_ms=NOW_MS)
    refused: list[str] = []
    for check in (
        lambda: strict.check_transaction(transaction(), b"", now_ms=NOW_MS),
        lambda: strict.check_label(label(), b"elsewhere", now_ms=NOW_MS),
        lambda: strict.check_transaction(transaction(event_time_ms=NOW_MS + 1), b"card-000123", now_ms=NOW_MS),
        lambda: strict.check_label(label(label_time_ms=NOW_MS + 1), b"card-000123", now_ms=NOW_MS),
    ):
        with pytest.raises(InvalidEvent) as caught:
            check()
        refused.append(caught.value.code)
    assert refused == ["empty_key", "key_mismatch", "future_event", "future_event"]
