"""From arrays of payments to the canonical frame of transactions: names, texts, minor units of the local currency."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from generator.chance import key_of, mix
from generator.commerce import CATEGORIES, CHANNELS
from generator.geography import Floats, Ints
from generator.population import CARD_TYPES, Population
from generator.scenarios import SCENARIOS
from generator.traffic import TYPES, Traffic
from serving.history import CANONICAL_SCHEMA

__all__ = ["INSTANCE", "to_frame"]

INSTANCE = "scenario_instance"

_BEFORE = (
    "North",
    "Silver",
    "Harbour",
    "Green",
    "Old Town",
    "Bright",
    "Corner",
    "Royal",
    "Maple",
    "Blue",
    "Summit",
    "Lantern",
    "River",
    "Copper",
)
_AFTER = ("House", "& Co", "Point", "Works", "Market", "Place", "Line", "Lane", "Union", "Yard", "Gate")


def to_frame(population: Population, traffic: Traffic, *, key: int, batch_id: str, with_instance: bool = False) -> pl.DataFrame:
    """Write payments as a frame of ``CANONICAL_SCHEMA``, in the same order.

    What enrichment adds (country, region and hash of the address) is left missing: the stream and the backfill derive it alike.

    Args:
        population: that the indices refer to.
        traffic: the payments.
        key: of the transaction ids, different for every frame.
        batch_id: of all rows.
        with_instance: append the column ``scenario_instance``, Int32, which tells frauds of a kind apart.
    """
    n = len(traffic)
    places, merchants = population.places, population.merchants
    merchant_country = merchants.country[traffic.merchant]
    country = np.where(traffic.city < 0, -1, places.city_country[traffic.city])
    fraud = traffic.scenario >= 0
    columns: dict[str, pl.Series | pl.Expr] = {
        "transaction_id": _uuids(key, n),
        "tenant_id": pl.repeat("default", n, eager=True),
        "card_id": _hexadecimal("crd_", traffic.card),
        "merchant_id": _merchant_ids(len(merchants.category)).gather(traffic.merchant),
        "amount_minor": pl.Series(np.maximum(1, np.rint(traffic.cents / places.cents_per_minor[merchant_country])).astype(np.int64)),
        "currency": _words(places.country_currency, merchant_country),
        "event_time_ms": pl.Series(traffic.time_ms),
        "user_id": _user_ids(population.users).gather(traffic.user),
        "device_id": _hexadecimal("dev_", traffic.device, none=traffic.device == 0),
        "ip_address": _dotted(traffic.address),
        "transaction_type": _words(TYPES, traffic.kind),
        "channel": _words(CHANNELS, traffic.channel),
        "declined": pl.Series(traffic.declined),
        "merchant_name": _merchant_names(population).gather(traffic.merchant),
        "merchant_mcc": pl.Series(
            np.array([category.mcc for category in CATEGORIES], dtype=np.int32)[merchants.category[traffic.merchant]]
        ),
        "merchant_country": _words(places.country_code, merchant_country),
        "lat": _degrees(traffic.lat),
        "lon": _degrees(traffic.lon),
        "city": _words(places.city_name, traffic.city),
        "country": _words(places.country_code, country),
        "card_type": _words(CARD_TYPES, traffic.card_type),
        "card_country": _words(places.country_code, traffic.card_country),
        "card_age_days": pl.Series(traffic.card_age_days.astype(np.int32)),
        "billing_lat": _degrees(traffic.billing_lat),
        "billing_lon": _degrees(traffic.billing_lon),
        "billing_country": _words(places.country_code, traffic.billing_country),
        "batch_id": pl.repeat(batch_id, n, eager=True),
        "is_fraud": pl.Series(fraud),
        "scenario": _words(SCENARIOS, traffic.scenario),
    }
    absent = {name: pl.lit(None, dtype=dtype) for name, dtype in CANONICAL_SCHEMA.items() if name not in columns}
    named = [column.alias(name) for name, column in columns.items()]
    frame = pl.DataFrame(named).with_columns(**absent).select(CANONICAL_SCHEMA.names())
    if with_instance:
        instance = pl.Series(INSTANCE, traffic.instance.astype(np.int32))
        frame = frame.with_columns(instance.set(pl.Series(~fraud), None))
    return frame


def _words(words: tuple[str, ...], index: Ints) -> pl.Series:
    """Words by index; -1 is missing."""
    table = pl.Series([*words, None], dtype=pl.String)
    return table.gather(np.where(index < 0, len(words), index))


def _degrees(values: Floats) -> pl.Series:
    # The kernel's unit is a millionth of a degree, about 11 cm.
    return pl.Series(np.round(values, 6)).fill_nan(None)


@cache
def _user_ids(count: int) -> pl.Series:
    return pl.Series(np.arange(1, count + 1)).cast(pl.String)


@cache
def _merchant_ids(count: int) -> pl.Series:
    return "mrc_" + pl.Series(np.arange(1, count + 1)).cast(pl.String).str.zfill(6)


def _merchant_names(population: Population) -> pl.Series:
    category = population.merchants.category
    before = _words(_BEFORE, np.arange(len(category)) % len(_BEFORE))
    after = _words(_AFTER, np.arange(len(category)) // len(_BEFORE) % len(_AFTER))
    kind = _words(tuple(category.name for category in CATEGORIES), category)
    return before + " " + kind + " " + after


@cache
def _four_digits() -> pl.Series:
    """All numbers of 16 bits as four hexadecimal digits."""
    return pl.Series([f"{number:04x}" for number in range(1 << 16)])


def _digits(numbers: NDArray[np.uint64], shift: int) -> pl.Series:
    return _four_digits().gather((numbers >> np.uint64(shift)) & np.uint64(0xFFFF))


def _hexadecimal(prefix: str, tokens: NDArray[np.uint64], none: NDArray[np.bool_] | None = None) -> pl.Series:
    parts = {f"d{shift}": _digits(tokens, shift) for shift in (32, 16, 0)}
    text = pl.DataFrame(parts).select(pl.format(prefix + "{}{}{}", *parts)).to_series()
    return text if none is None else text.set(pl.Series(none), None)


def _uuids(key: int, n: int) -> pl.Series:
    """``n`` different identifiers in the form of a random (version 4) UUID."""
    row = np.arange(n)
    # Hashes of different rows differ; the 64 bits above keep that after 6 of these are overwritten with version and variant.
    high, low = mix(key_of(key, "high"), row), mix(key_of(key, "low"), row)
    high = (high & ~np.uint64(0xF000)) | np.uint64(0x4000)
    low = (low & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(0x8000000000000000)
    parts = {f"{name}{shift}": _digits(number, shift) for name, number in (("h", high), ("l", low)) for shift in (48, 32, 16, 0)}
    return pl.DataFrame(parts).select(pl.format("{}{}-{}-{}-{}-{}{}{}", *parts)).to_series()


def _dotted(address: Ints) -> pl.Series:
    octets = pl.Series([str(octet) for octet in range(256)])
    parts = {f"o{shift}": octets.gather((address >> shift) & 255) for shift in (24, 16, 8, 0)}
    text = pl.DataFrame(parts).select(pl.format("{}.{}.{}.{}", *parts)).to_series()
    return text.set(pl.Series(address == 0), None)
