"""The people, cards, merchants and addresses of a synthetic world, and where each person is at any instant.

A population is a function of its seed and sizes alone.  Where a person is, which phone they carry and which address they surf
from are functions of the person and the instant, so that slices of time generated apart fit together: history, demo and stream
see the same people in the same lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from generator.chance import choice_by_weight, key_of, mix, unit
from generator.commerce import CATEGORIES
from generator.geography import KM_PER_DEGREE, Floats, Geography, Ints, distance_km, geography

__all__ = ["CARD_TYPES", "DAY_MS", "HOUR_MS", "Merchants", "Population", "build_population"]

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
CARD_TYPES = ("debit", "credit", "prepaid")
TOKEN_BITS = np.uint64((1 << 48) - 1)

_CARD_RENEWAL_DAYS = 1095
_HOME_RADIUS_KM, _STAY_RADIUS_KM, _WANDER_KM = 9.0, 4.0, 5.0
# 5 km in a sine of 7 h is at most 4.5 km/h: a stroll, so that two payments in one second are one place
_WANDER_PERIODS_MS = (7 * HOUR_MS, 11 * HOUR_MS)
# A trip fits in its slot: leaves within 2.7 d, at most 1.4 d each way, stays at most 4 d.
_TRIP_SLOT_MS = 10 * DAY_MS
_TRIP_CHANCE, _TRIP_ABROAD = 0.20, 0.35
_TRIP_KMH, _TRIP_DELAY_H = 650.0, 3.0
_PHONE_SLOT_MS = 30 * DAY_MS
_NEW_PHONE_CHANCE = 0.06
_VPN_SHARE = 0.04
_SHARED_ADDRESSES = 40  # carrier-grade NAT exits a country


@dataclass(frozen=True, slots=True)
class Merchants:
    """Merchants by index: shops first, by city; then online ones, by country.

    ``city`` is -1 online.  ``first_shop`` and ``shop_count`` are by city, ``first_online`` and ``online_count`` by country.
    ``rogue_shops``, ``rogue_online`` and ``money_services`` are indices of those that frauds use; all have honest customers too.
    """

    category: Ints
    city: Ints
    country: Ints
    price_level: Floats
    first_shop: Ints
    shop_count: Ints
    first_online: Ints
    online_count: Ints
    rogue_shops: Ints
    rogue_online: Ints
    money_services: Ints

    def online_tagged(self, tag: str) -> Ints:
        """Indices of the online merchants of the categories with a tag."""
        tagged = np.array([tag in category.tags for category in CATEGORIES])
        return np.flatnonzero(tagged[self.category] & (self.city < 0))


@dataclass(frozen=True)
class Population:
    """People by index (user ``i`` has the id ``str(i + 1)``), their cards and the merchants that they know.

    Attributes:
        seed: what everything is derived from.
        home_city: ``int64[users]``; ``home_lat`` and ``home_lon`` in degrees are also the billing address.
        activity: ``int32[2^k]``, users as often as they pay: a uniform draw from it is a user by activity.
        price_level: ``float64[users]``, factor on amounts.
        online_share: ``float64[users]``, share of payments online.
        home_address: ``int64[users]``, IPv4.
        abusers: users who dispute what they bought.
        first_card: ``int64[users]``, index of the first of ``card_count`` cards.
        card_user: ``int64[cards]``; ``card_token`` names the card, ``card_type`` indexes ``CARD_TYPES``.
    """

    seed: int
    home_city: Ints
    home_lat: Floats
    home_lon: Floats
    activity: NDArray[np.int32]
    price_level: Floats
    online_share: Floats
    home_address: Ints
    abusers: Ints
    first_card: Ints
    card_count: Ints
    card_user: Ints
    card_token: NDArray[np.uint64]
    card_type: Ints
    merchants: Merchants

    @property
    def users(self) -> int:
        """Number of people."""
        return len(self.home_city)

    @property
    def places(self) -> Geography:
        """The world they live in."""
        return geography()

    @cached_property
    def home_country(self) -> Ints:
        """``int64[users]``, also the country of their cards."""
        return self.places.city_country[self.home_city]

    def card_age_days(self, card: Ints, time_ms: Ints) -> Ints:
        """Age of cards at instants; a card is renewed every three years under the same token."""
        phase = mix(key_of(self.seed, "card issued"), card) % np.uint64(_CARD_RENEWAL_DAYS)
        return (time_ms // DAY_MS + phase.astype(np.int64)) % _CARD_RENEWAL_DAYS

    def devices(self, user: Ints, time_ms: Ints, second: NDArray[np.bool_]) -> NDArray[np.uint64]:
        """Token of the device that a user pays with; a few replace theirs in a given month."""
        month = time_ms // _PHONE_SLOT_MS
        renewed = unit(mix(key_of(self.seed, "new phone"), user, month)) < _NEW_PHONE_CHANCE
        return mix(key_of(self.seed, "device"), user, second.astype(np.int64), np.where(renewed, month, -1)) & TOKEN_BITS

    def whereabouts(self, user: Ints, time_ms: Ints) -> tuple[Floats, Floats, Ints]:
        """Return latitude, longitude and city of users at instants; NaN and -1 while under way between cities.

        Continuous in time and never faster than 650 km/h plus a stroll, whatever the instants asked for.
        """
        city = self.home_city[user]
        lat, lon = self.home_lat[user], self.home_lon[user]
        # Everyone's slots begin at their own time, or nobody would be away on certain days.
        shifted_ms = time_ms + (mix(key_of(self.seed, "trip phase"), user) % np.uint64(_TRIP_SLOT_MS)).astype(np.int64)
        slot = shifted_ms // _TRIP_SLOT_MS
        trip = mix(key_of(self.seed, "trip"), user, slot)
        away = np.flatnonzero(unit(trip) < _TRIP_CHANCE)
        if len(away):
            _travel(self.places, shifted_ms[away] - slot[away] * _TRIP_SLOT_MS, trip[away], away, (lat, lon, city))
        return (*self._wander(user, time_ms, lat, lon), city)

    def _wander(self, user: Ints, time_ms: Ints, lat: Floats, lon: Floats) -> tuple[Floats, Floats]:
        phase = mix(key_of(self.seed, "wander"), user)
        north = np.sin(2 * np.pi * (time_ms % _WANDER_PERIODS_MS[0] / _WANDER_PERIODS_MS[0] + unit(phase)))
        east = np.sin(2 * np.pi * (time_ms % _WANDER_PERIODS_MS[1] / _WANDER_PERIODS_MS[1] + unit(mix(0, phase))))
        degrees = _WANDER_KM / KM_PER_DEGREE
        return lat + degrees * north, lon + degrees * east / np.cos(np.radians(lat))

    def addresses(self, user: Ints, time_ms: Ints, city: Ints, route: Floats) -> Ints:
        """IPv4 address that users surf from: at home mostly their own, else a mobile or shared one; abroad one of that country.

        A few users prefer the exit of a virtual private network, which may stand anywhere.

        Args:
            user: ``int64[N]``.
            time_ms: ``int64[N]``.
            city: where they are, -1 while under way.
            route: ``float64[N]`` in [0, 1), chooses between home, mobile and shared.
        """
        places, home = self.places, self.home_country[user]
        country = np.where(city < 0, home, places.city_country[city])
        day = time_ms // DAY_MS
        mobile = places.consumer.address(country, mix(key_of(self.seed, "mobile"), user, day))
        exit_number = (route * 1e6).astype(np.int64) % _SHARED_ADDRESSES
        shared = places.consumer.address(country, mix(key_of(self.seed, "shared"), country, exit_number))
        at_home = (city == self.home_city[user]) & (route < 0.78)
        own = np.where(at_home, self.home_address[user], np.where(route < 0.96, mobile, shared))
        habit = mix(key_of(self.seed, "vpn"), user)
        tunnel = places.hosting.address(places.hosted[(habit % np.uint64(len(places.hosted))).astype(np.int64)], mix(1, habit, day))
        return np.where((unit(habit) < _VPN_SHARE) & (route < 0.7), tunnel, own)


def _travel(places: Geography, into_slot_ms: Ints, trip: NDArray[np.uint64], rows: Ints, whereabouts: tuple[Floats, Floats, Ints]) -> None:
    """Move those rows, whose users have a trip in this slot, to its destination, or nowhere while they are under way."""
    lat, lon, city = whereabouts
    home = city[rows]
    destination = _destination(places, home, trip)
    km = distance_km(places.city_lat[home], places.city_lon[home], places.city_lat[destination], places.city_lon[destination])
    way_ms = (km / _TRIP_KMH + _TRIP_DELAY_H) * HOUR_MS
    leave_ms = (0.2 + 2.5 * unit(mix(3, trip))) * DAY_MS
    arrive_ms = leave_ms + way_ms
    return_ms = arrive_ms + (1.0 + 3.0 * unit(mix(4, trip))) * DAY_MS
    moved = destination != home
    there = moved & (into_slot_ms >= arrive_ms) & (into_slot_ms < return_ms)
    under_way = moved & ~there & (into_slot_ms >= leave_ms) & (into_slot_ms < return_ms + way_ms)
    stay_lat, stay_lon = _around(places, destination, _STAY_RADIUS_KM, trip)
    lat[rows] = np.where(there, stay_lat, np.where(under_way, np.nan, lat[rows]))
    lon[rows] = np.where(there, stay_lon, np.where(under_way, np.nan, lon[rows]))
    city[rows] = np.where(there, destination, np.where(under_way, -1, city[rows]))


def _destination(places: Geography, home: Ints, trip: NDArray[np.uint64]) -> Ints:
    country = places.city_country[home]
    within = places.first_city[country] + (mix(1, trip) % places.city_count[country].astype(np.uint64)).astype(np.int64)
    anywhere = choice_by_weight(places.city_weight, unit(mix(1, trip)))
    return np.where(unit(mix(2, trip)) < _TRIP_ABROAD, anywhere, within)


def _around(places: Geography, city: Ints, radius_km: float, hashed: NDArray[np.uint64]) -> tuple[Floats, Floats]:
    """Points within a radius of city centres, each by its hash, evenly over the disc."""
    distance = radius_km * np.sqrt(unit(mix(5, hashed))) / KM_PER_DEGREE
    angle = 2 * np.pi * unit(mix(6, hashed))
    lat = places.city_lat[city]
    return lat + distance * np.sin(angle), places.city_lon[city] + distance * np.cos(angle) / np.cos(np.radians(lat))


@lru_cache(maxsize=4)
def build_population(seed: int, users: int, merchants: int) -> Population:
    """Build the world of a seed.

    Args:
        seed: any integer; equal seeds and sizes give equal populations.
        users: at least 10.
        merchants: about so many; every city and country keeps a few.
    """
    if users < 10 or merchants < 1:
        raise ValueError("a population needs at least 10 users and 1 merchant")
    places = geography()
    rng = np.random.default_rng(key_of(seed, "population", users, merchants))
    home_city = choice_by_weight(places.city_weight, rng.random(users))
    home_lat, home_lon = _around(places, home_city, _HOME_RADIUS_KM, mix(key_of(seed, "home"), np.arange(users)))
    card_count = 1 + choice_by_weight([0.55, 0.30, 0.15], rng.random(users))
    card_user = np.repeat(np.arange(users), card_count)
    return Population(
        seed=seed,
        home_city=home_city,
        home_lat=home_lat,
        home_lon=home_lon,
        activity=_repeated(rng.lognormal(0.0, 0.6, users)),
        price_level=rng.lognormal(0.0, 0.35, users),
        online_share=rng.beta(2.0, 3.5, users),
        home_address=places.consumer.address(places.city_country[home_city], mix(key_of(seed, "address"), np.arange(users))),
        abusers=np.sort(rng.choice(users, max(5, users // 200), replace=False)),
        first_card=np.cumsum(card_count) - card_count,
        card_count=card_count,
        card_user=card_user,
        card_token=mix(key_of(seed, "card"), np.arange(len(card_user))) & TOKEN_BITS,
        card_type=choice_by_weight([0.55, 0.38, 0.07], rng.random(len(card_user))),
        merchants=_build_merchants(places, rng, merchants),
    )


def _build_merchants(places: Geography, rng: np.random.Generator, about: int) -> Merchants:
    shop_count = np.maximum(3, np.rint(0.7 * about * places.city_weight / places.city_weight.sum())).astype(np.int64)
    online_count = np.maximum(3, np.rint(0.3 * about * places.country_weight / places.country_weight.sum())).astype(np.int64)
    shops, online = int(shop_count.sum()), int(online_count.sum())
    city = np.concatenate([np.repeat(np.arange(len(shop_count)), shop_count), np.full(online, -1)])
    country = np.concatenate([places.city_country[city[:shops]], np.repeat(np.arange(len(online_count)), online_count)])
    category = np.concatenate(
        [
            _spread(rng, shops, [category.shop_weight for category in CATEGORIES]),
            _spread(rng, online, [category.online_weight for category in CATEGORIES]),
        ]
    )
    money = np.array(["money" in kind.tags for kind in CATEGORIES])[category]
    cash = np.array([kind.mcc == 6011 for kind in CATEGORIES])[category]
    index = np.arange(shops + online)
    return Merchants(
        category=category,
        city=city,
        country=country,
        price_level=rng.lognormal(0.0, 0.25, shops + online),
        first_shop=np.cumsum(shop_count) - shop_count,
        shop_count=shop_count,
        first_online=shops + np.cumsum(online_count) - online_count,
        online_count=online_count,
        rogue_shops=_some(rng, index[(city >= 0) & ~money & ~cash]),
        rogue_online=_some(rng, index[(city < 0) & ~money]),
        money_services=_some(rng, index[(city < 0) & money], share=0.4),
    )


def _spread(rng: np.random.Generator, count: int, weights: list[float]) -> Ints:
    """Categories in proportion to their weights rather than by chance, so that a small world has all of them."""
    return rng.permutation(choice_by_weight(weights, (np.arange(count) + 0.5) / count))


def _repeated(weights: Floats) -> NDArray[np.int32]:
    """Indices, each about as often as its weight says: one look-up draws by weight, where a search would miss the cache."""
    slots = 1 << max(20, int(8 * len(weights)).bit_length())
    return choice_by_weight(weights, (np.arange(slots) + 0.5) / slots).astype(np.int32)


def _some(rng: np.random.Generator, candidates: Ints, share: float = 0.02) -> Ints:
    count = min(len(candidates), max(6, round(share * len(candidates))))
    return np.sort(rng.choice(candidates, count, replace=False))
