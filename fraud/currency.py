"""ISO 4217 minor units and the one conversion to the base currency, in exact integers.

Thresholds such as "2,000 USD" and features such as "sum of the last hour" compare amounts of any currency, so every amount is
first brought to USD cents.  The rates are a fixed table on purpose: a live rate would make yesterday's feature irreproducible.
A new table is a new :data:`RATES_VERSION`, which the catalogue names, and a rebuild of state and history.

This module must not fetch rates and must not use floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud.errors import InvalidEvent

__all__ = ["CURRENCIES", "RATES_VERSION", "Currency", "to_base_minor", "to_base_minor_batch"]

# Rounded mid-market rates of 2024-12-31; the euro's neighbours follow the European Central Bank's reference rates of that day.
RATES_VERSION = "2024-12-31"

_NANO = 1_000_000_000
_BASE_MINOR_PER_MAJOR = 100


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency: ``10 ** exponent`` minor units make one major unit, which is worth ``usd_nano`` billionths of a US dollar."""

    exponent: int
    usd_nano: int

    @property
    def ratio(self) -> tuple[int, int]:
        """Base minor units (USD cents) per minor unit, as a reduced fraction."""
        numerator, denominator = self.usd_nano * _BASE_MINOR_PER_MAJOR, _NANO * 10**self.exponent
        divisor = gcd(numerator, denominator)
        return numerator // divisor, denominator // divisor


CURRENCIES: dict[str, Currency] = {
    "USD": Currency(2, 1_000_000_000),
    # Europe
    "EUR": Currency(2, 1_038_900_000),
    "GBP": Currency(2, 1_252_900_000),
    "CHF": Currency(2, 1_103_800_000),
    "SEK": Currency(2, 90_660_000),
    "NOK": Currency(2, 88_080_000),
    "DKK": Currency(2, 139_300_000),
    "ISK": Currency(0, 7_220_000),
    "PLN": Currency(2, 243_000_000),
    "CZK": Currency(2, 41_250_000),
    "HUF": Currency(2, 2_526_000),
    "RON": Currency(2, 208_900_000),
    "BGN": Currency(2, 531_200_000),
    "RSD": Currency(2, 8_880_000),
    "BAM": Currency(2, 531_200_000),
    "ALL": Currency(2, 10_600_000),
    "UAH": Currency(2, 23_800_000),
    "RUB": Currency(2, 9_100_000),
    "TRY": Currency(2, 28_280_000),
    "GEL": Currency(2, 356_000_000),
    # Americas
    "CAD": Currency(2, 695_000_000),
    "MXN": Currency(2, 48_210_000),
    "BRL": Currency(2, 161_700_000),
    "ARS": Currency(2, 971_000),
    "CLP": Currency(0, 1_005_000),
    "COP": Currency(2, 227_000),
    "PEN": Currency(2, 267_000_000),
    "UYU": Currency(2, 22_800_000),
    "DOP": Currency(2, 16_400_000),
    "CRC": Currency(2, 1_970_000),
    "PYG": Currency(0, 128_000),
    # Asia and the Pacific
    "JPY": Currency(0, 6_371_000),
    "CNY": Currency(2, 137_000_000),
    "HKD": Currency(2, 128_800_000),
    "TWD": Currency(2, 30_500_000),
    "KRW": Currency(0, 678_100),
    "SGD": Currency(2, 733_500_000),
    "MYR": Currency(2, 223_600_000),
    "THB": Currency(2, 29_120_000),
    "IDR": Currency(2, 61_760),
    "PHP": Currency(2, 17_230_000),
    "VND": Currency(0, 39_240),
    "INR": Currency(2, 11_680_000),
    "PKR": Currency(2, 3_590_000),
    "BDT": Currency(2, 8_370_000),
    "LKR": Currency(2, 3_420_000),
    "KZT": Currency(2, 1_905_000),
    "AUD": Currency(2, 619_400_000),
    "NZD": Currency(2, 560_600_000),
    # Middle East and Africa
    "ILS": Currency(2, 274_200_000),
    "AED": Currency(2, 272_300_000),
    "SAR": Currency(2, 266_700_000),
    "QAR": Currency(2, 274_700_000),
    "KWD": Currency(3, 3_245_000_000),
    "BHD": Currency(3, 2_660_000_000),
    "OMR": Currency(3, 2_597_000_000),
    "JOD": Currency(3, 1_410_000_000),
    "TND": Currency(3, 314_000_000),
    "EGP": Currency(2, 19_700_000),
    "MAD": Currency(2, 98_800_000),
    "NGN": Currency(2, 647_000),
    "GHS": Currency(2, 68_000_000),
    "KES": Currency(2, 7_730_000),
    "TZS": Currency(2, 413_000),
    "UGX": Currency(0, 272_000),
    "ZAR": Currency(2, 52_950_000),
    "XOF": Currency(0, 1_584_000),
    "XAF": Currency(0, 1_584_000),
}

_RATIOS = {code: currency.ratio for code, currency in CURRENCIES.items()}
_ROW = {code: row for row, code in enumerate(_RATIOS)}
_RATIO_COLUMNS = np.array(list(_RATIOS.values()), dtype=np.int64)


def to_base_minor(amount_minor: int, currency: str) -> int:
    """Convert an amount in minor units of its currency to USD cents, rounding half to even.

    Raises:
        InvalidEvent: ``unknown_currency``: the ISO 4217 code is not in the table.
    """
    try:
        numerator, denominator = _RATIOS[currency]
    except (KeyError, TypeError):
        raise InvalidEvent("unknown_currency") from None
    whole, rest = divmod(amount_minor * numerator, denominator)
    twice = rest + rest
    return whole + (twice > denominator or (twice == denominator and whole & 1))


def to_base_minor_batch(amount_minor: NDArray[np.int64], currencies: Sequence[str] | NDArray[Any]) -> NDArray[np.int64]:
    """Convert many amounts at once; element by element the same integers as :func:`to_base_minor`.

    Args:
        amount_minor: ``int64[N]``; exact as long as the result itself fits in 64 bits.
        currencies: ``N`` ISO 4217 codes.

    Raises:
        InvalidEvent: ``unknown_currency``: one of the codes is not in the table.
    """
    try:
        rows = np.fromiter(map(_ROW.__getitem__, currencies), dtype=np.int64, count=len(amount_minor))
    except (KeyError, TypeError):
        raise InvalidEvent("unknown_currency") from None
    numerator, denominator = _RATIO_COLUMNS[rows, 0], _RATIO_COLUMNS[rows, 1]
    # Whole multiples of the denominator first: amount * numerator could leave 64 bits where the result does not.
    quotient, remainder = np.divmod(amount_minor, denominator)
    carried, rest = np.divmod(remainder * numerator, denominator)
    whole = quotient * numerator + carried
    twice = rest + rest
    rounded: NDArray[np.int64] = whole + ((twice > denominator) | ((twice == denominator) & (whole & 1 == 1)))
    return rounded
