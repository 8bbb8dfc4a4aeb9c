"""Conversion to the base currency: exact integers, half-even, and the same one at a time and in bulk."""

from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.currency import CURRENCIES, to_base_minor, to_base_minor_batch
from fraud.errors import InvalidEvent

codes = st.sampled_from(sorted(CURRENCIES))


def by_decimal(amount_minor: int, code: str) -> int:
    """The conversion as one would write it on paper."""
    currency = CURRENCIES[code]
    usd = Decimal(amount_minor).scaleb(-currency.exponent) * Decimal(currency.usd_nano).scaleb(-9)
    return int((usd * 100).quantize(Decimal(1), ROUND_HALF_EVEN))


def test_us_dollars_are_left_as_they_are() -> None:
    assert [to_base_minor(amount, "USD") for amount in (0, 1, 200_000)] == [0, 1, 200_000]


def test_thirty_euros_are_3117_cents() -> None:
    assert to_base_minor(3_000, "EUR") == 3_117


def test_a_yen_is_not_a_hundredth_of_a_yen() -> None:
    assert CURRENCIES["JPY"].exponent == 0
    assert to_base_minor(10_000, "JPY") == 6_371


def test_a_kuwaiti_dinar_has_a_thousand_fils() -> None:
    assert CURRENCIES["KWD"].exponent == 3
    assert to_base_minor(1_000, "KWD") == 324  # 324.5 cents: half goes to the even neighbour
    assert to_base_minor(3_000, "KWD") == 974  # 973.5


def test_half_a_cent_goes_to_the_even_cent() -> None:
    """5,000 fils are 1,622.5 cents, 7,000 are 2,271.5."""
    assert [to_base_minor(amount, "KWD") for amount in (5_000, 7_000)] == [1_622, 2_272]


@given(st.integers(0, 10**15), codes)
def test_one_amount_equals_decimal_arithmetic(amount_minor: int, code: str) -> None:
    assert to_base_minor(amount_minor, code) == by_decimal(amount_minor, code)


@given(st.lists(st.tuples(st.integers(0, 10**16), codes), max_size=20))
def test_a_batch_equals_one_at_a_time(rows: list[tuple[int, str]]) -> None:
    """Also where amount times rate no longer fits in 64 bits."""
    amounts = np.array([amount for amount, _ in rows], dtype=np.int64)
    expected = [to_base_minor(amount, code) for amount, code in rows]
    assert to_base_minor_batch(amounts, [code for _, code in rows]).tolist() == expected


@pytest.mark.parametrize("code", ["", "usd", "EURO", "XXX", None, 840])
def test_an_unknown_currency_is_an_invalid_event(code: str) -> None:
    for convert in (
        lambda: to_base_minor(1, code),
        lambda: to_base_minor_batch(np.array([1, 2]), ["USD", code]),
    ):
        with pytest.raises(InvalidEvent) as caught:
            convert()
        assert caught.value.code == "unknown_currency"


def test_the_table_covers_more_than_forty_currencies_with_plausible_rates() -> None:
    assert len(CURRENCIES) >= 40
    for code, currency in CURRENCIES.items():
        assert len(code) == 3
        assert code.isupper()
        assert currency.exponent in (0, 2, 3)
        assert 10_000 <= currency.usd_nano <= 4_000_000_000


def test_currencies_without_a_minor_unit_have_exponent_zero() -> None:
    assert {code for code, currency in CURRENCIES.items() if currency.exponent == 0} == {
        "CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF",
    }  # fmt: skip
