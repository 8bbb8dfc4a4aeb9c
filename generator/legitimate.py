"""The ordinary payments of a population: a day's rhythm, favourite shops, log-normal amounts, plausible travel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from generator.chance import choice_by_weight, key_of, mix, unit
from generator.commerce import CATEGORIES
from generator.geography import Floats, Ints
from generator.population import Population
from generator.traffic import ATM, CONTACTLESS, ECOM, POS, WITHDRAWAL, Traffic, card_payments

__all__ = ["MAX_CENTS", "MIN_CENTS", "legitimate_traffic", "ordinary_cents"]

MIN_CENTS, MAX_CENTS = 5_00, 5000_00

_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
# Share of card payments by local hour: quiet at night, peaks at noon and in the early evening.
_RHYTHM = np.array([5, 3, 2, 1.5, 1.5, 3, 8, 16, 24, 30, 34, 40, 46, 42, 38, 38, 42, 50, 54, 48, 38, 28, 18, 10]) / 54.0
_MEDIAN_LOG_CENTS = np.log(np.array([category.median_usd for category in CATEGORIES]) * 100)
_SIGMA = np.array([category.sigma for category in CATEGORIES])
_IS_CASH = np.array([category.mcc == 6011 for category in CATEGORIES])
_FAVOURITES = 6


def legitimate_traffic(population: Population, rng: np.random.Generator, n: int, start_ms: int, duration_ms: int) -> Traffic:
    """Draw ``n`` legitimate payments in ``[start_ms, start_ms + duration_ms)``, in order of time.

    Positions follow the user's whereabouts, which never imply more than about 650 km/h between two payments.
    """
    user, time_ms = _who_and_when(population, rng, n, start_ms, duration_ms)
    lat, lon, city = population.whereabouts(user, time_ms)
    online = (rng.random(n) < population.online_share[user]) | (city < 0)
    merchant = np.where(online, _online_merchant(population, rng, user), _shop(population, rng, user, city))
    card = population.first_card[user]
    other = rng.random(n) > 0.75
    card = card + np.where(other, rng.integers(0, 1 << 30, n) % population.card_count[user], 0)
    cents = ordinary_cents(population, rng, user, merchant)

    traffic = card_payments(population, time_ms=time_ms, card=card, merchant=merchant, cents=cents, channel=POS)
    cash = _IS_CASH[population.merchants.category[merchant]]
    contactless = (cents < 100_00) & (rng.random(n) < 0.5)
    traffic.channel = np.where(online, ECOM, np.where(cash, ATM, np.where(contactless, CONTACTLESS, POS)))
    traffic.kind = np.where(cash, WITHDRAWAL, traffic.kind)
    traffic.declined = rng.random(n) < 0.02
    # A phone pays online, and in a shop as a wallet; a plastic card has no device.
    wallet = (traffic.channel == CONTACTLESS) & (rng.random(n) < 0.35)
    device = population.devices(user, time_ms, rng.random(n) < 0.15)
    traffic.device = np.where(online | wallet, device, np.uint64(0))
    traffic.address = np.where(online, population.addresses(user, time_ms, city, rng.random(n)), 0)
    # Not every shopper shares their position.
    known = ~online | (rng.random(n) < 0.9)
    traffic.lat, traffic.lon = np.where(known, lat, np.nan), np.where(known, lon, np.nan)
    traffic.city = np.where(known, city, -1)
    return traffic


def ordinary_cents(population: Population, rng: np.random.Generator, user: Ints, merchant: Ints) -> Ints:
    """Amounts in USD cents as these users usually spend at these merchants, from 5 to 5,000 USD."""
    category = population.merchants.category[merchant]
    level = population.price_level[user] * population.merchants.price_level[merchant]
    cents = level * np.exp(_MEDIAN_LOG_CENTS[category] + _SIGMA[category] * rng.standard_normal(len(user)))
    # Spread what falls outside over a range inside: a spike at the limit would tell synthetic amounts from real ones.
    spread = rng.random(len(user))
    cents = np.where(cents < MIN_CENTS, MIN_CENTS * (1 + spread), cents)
    cents = np.where(cents > MAX_CENTS, MAX_CENTS * (0.5 + 0.5 * spread), cents)
    whole: Ints = np.floor(cents).astype(np.int64)
    return whole


def _who_and_when(population: Population, rng: np.random.Generator, n: int, start_ms: int, duration_ms: int) -> tuple[Ints, Ints]:
    """Draw users by activity and instants by their local hour (rejection), sorted by time."""
    users: list[Ints] = []
    times: list[Ints] = []
    missing = n
    while missing > 0:
        draws = int(missing * 2.2) + 16
        user = population.activity[rng.integers(0, len(population.activity), draws)].astype(np.int64)
        time_ms = start_ms + (rng.random(draws) * duration_ms).astype(np.int64)
        local_ms = time_ms + population.places.city_offset_ms[population.home_city[user]]
        awake = rng.random(draws) < _RHYTHM[local_ms % _DAY_MS // _HOUR_MS]
        users.append(user[awake][:missing])
        times.append(time_ms[awake][:missing])
        missing -= len(users[-1])
    user, time_ms = (
        np.concatenate(users) if users else np.zeros(0, np.int64),
        np.concatenate(times) if times else np.zeros(0, np.int64),
    )
    order = np.argsort(time_ms, kind="stable")
    return user[order], time_ms[order]


def _shop(population: Population, rng: np.random.Generator, user: Ints, city: Ints) -> Ints:
    """A shop of the city: mostly one of a few favourites, else any; the first one while under way, where no shop is used."""
    merchants = population.merchants
    known = np.maximum(city, 0)
    place = _pick(rng, key_of(population.seed, "favourite shop"), user, known, rng.random(len(user)))
    shop: Ints = merchants.first_shop[known] + np.floor(place * merchants.shop_count[known]).astype(np.int64)
    return shop


def _online_merchant(population: Population, rng: np.random.Generator, user: Ints) -> Ints:
    merchants = population.merchants
    n = len(user)
    abroad = choice_by_weight(population.places.country_weight, rng.random(n))
    country = np.where(rng.random(n) < 0.85, population.home_country[user], abroad)
    place = _pick(rng, key_of(population.seed, "favourite site"), user, country, rng.random(n))
    merchant: Ints = merchants.first_online[country] + np.floor(place * merchants.online_count[country]).astype(np.int64)
    return merchant


def _pick(rng: np.random.Generator, key: int, user: Ints, place: Ints, chance: Floats) -> NDArray[np.float64]:
    """Positions in [0, 1) in a list of merchants: mostly a favourite of the user in that place, else the first ones more often."""
    favourite = unit(mix(key, user, place, np.floor(_FAVOURITES * rng.random(len(user)) ** 2).astype(np.int64)))
    return np.where(chance < 0.75, favourite, rng.random(len(user)) ** 1.4)
