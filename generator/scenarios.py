"""Seven kinds of card fraud, each as instances that touch particular cards, merchants, devices and addresses.

==================  ===============================================================================================
card_testing        one device and address try 1-15 cards with small online amounts, many declined, then spend big
account_takeover    a new device and a foreign address spend a multiple of what the victim does, somewhere else
identity_theft      a fresh card in a real person's name, wrong billing address, spent quickly far from home
merchant_fraud      a colluding shop charges many people's cards similar amounts in a burst
money_laundering    a mule sends amounts just under 2,000 USD to money services
phishing            many victims pay the same few receivers from one address range and a few devices
chargeback_fraud    a customer buys dear goods online as usual, and disputes them later
==================  ===============================================================================================

An instance has a size (payments) and a span; both are drawn from :data:`SPECS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generator.chance import choice_by_weight, key_of, mix, unit
from generator.geography import Floats, Ints
from generator.legitimate import ordinary_cents
from generator.population import HOUR_MS, TOKEN_BITS, Population
from generator.traffic import ECOM, POS, TRANSFER, Traffic, card_payments

__all__ = ["SCENARIOS", "SPECS", "ScenarioSpec", "scenario_traffic"]

_MINUTE_MS = 60_000
_SPOT_DEGREES = 0.1  # about 5 km either way


@dataclass(frozen=True, slots=True)
class ScenarioSpec:
    """How big and how long instances are: payments from ``size[0]`` to ``size[1]``, ``share`` of all fraudulent payments.

    ``span_ms`` is the time from first to last payment when the caller sets no limit.
    """

    size: tuple[int, int]
    span_ms: tuple[int, int]
    share: float


SPECS: Mapping[str, ScenarioSpec] = {
    "card_testing": ScenarioSpec((10, 40), (2 * _MINUTE_MS, 10 * _MINUTE_MS), 0.22),
    "account_takeover": ScenarioSpec((3, 8), (5 * _MINUTE_MS, HOUR_MS), 0.12),
    "identity_theft": ScenarioSpec((4, 10), (HOUR_MS, 24 * HOUR_MS), 0.12),
    "merchant_fraud": ScenarioSpec((30, 80), (10 * _MINUTE_MS, HOUR_MS), 0.18),
    "money_laundering": ScenarioSpec((6, 15), (2 * HOUR_MS, 20 * HOUR_MS), 0.12),
    "phishing": ScenarioSpec((20, 60), (10 * _MINUTE_MS, 90 * _MINUTE_MS), 0.16),
    "chargeback_fraud": ScenarioSpec((2, 5), (2 * HOUR_MS, 48 * HOUR_MS), 0.08),
}
SCENARIOS: tuple[str, ...] = tuple(SPECS)


@dataclass(frozen=True, slots=True)
class _Cast:
    """The stage of one scenario: ``count`` instances, and for each of N payments its instance, its step and its time.

    ``last`` marks the final payment of each instance.
    """

    population: Population
    rng: np.random.Generator
    key: int
    count: int
    instance: Ints
    step: Ints
    last: NDArray[np.bool_]
    time_ms: Ints

    def __len__(self) -> int:
        return len(self.instance)

    def hashed(self, purpose: str, *parts: Ints) -> NDArray[np.uint64]:
        """Hashes of these parts for a purpose of this scenario of this run."""
        return mix(key_of(self.key, purpose), *parts)

    def tokens(self, purpose: str, *parts: Ints) -> NDArray[np.uint64]:
        """Names of cards or devices that nobody in the population has."""
        return self.hashed(purpose, *parts) & TOKEN_BITS

    def people(self) -> Ints:
        """One user for each instance, different ones while there are enough."""
        users = self.population.users
        return self.rng.choice(users, self.count, replace=self.count > users)

    def one_of(self, candidates: Ints) -> Ints:
        """One of the candidates for each instance."""
        return self.rng.choice(candidates, self.count)

    def foreign_city(self, country: Ints) -> Ints:
        """For each row a city outside the given country."""
        places = self.population.places
        city = choice_by_weight(places.city_weight, self.rng.random(len(country)))
        while (same := places.city_country[city] == country).any():
            city[same] = choice_by_weight(places.city_weight, self.rng.random(int(same.sum())))
        return city

    def address_in(self, country: Ints, hosted_share: float) -> Ints:
        """An address in each country, of a hosting company for a share of them."""
        places = self.population.places
        hashed = self.hashed("address", np.arange(len(country)))
        hosting = self.rng.random(len(country)) < hosted_share
        return np.where(hosting, places.hosting.address(country, hashed), places.consumer.address(country, hashed))

    def cents(self, low_usd: float, high_usd: float) -> Ints:
        """Amounts in USD cents between two bounds, small ones more often (even on a logarithmic scale)."""
        drawn = np.exp(self.rng.uniform(np.log(low_usd * 100), np.log(high_usd * 100), len(self)))
        return np.floor(drawn).astype(np.int64)

    def pay(self, card: Ints, merchant: Ints, cents: Ints, channel: Ints | int) -> Traffic:
        """Payments of these cards at the times of the cast."""
        traffic = card_payments(self.population, self.time_ms, card, merchant, cents, channel)
        traffic.instance = self.instance.copy()
        return traffic

    def place(self, traffic: Traffic, city: Ints) -> None:
        """Put each payment near the centre of its city, an instance always in the same spot."""
        places = self.population.places
        lat_shift, lon_shift = unit(self.hashed("lat", self.instance)), unit(self.hashed("lon", self.instance))
        traffic.lat = places.city_lat[city] + (lat_shift - 0.5) * _SPOT_DEGREES
        traffic.lon = places.city_lon[city] + (lon_shift - 0.5) * _SPOT_DEGREES
        traffic.city = city.copy()


def _card_testing(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    tested = np.where(rng.random(cast.count) < 0.3, 1, rng.integers(5, 16, cast.count))
    # The last payment spends on the first card that was tried.
    turn = np.where(cast.last, 0, cast.step % tested[i])
    card = (cast.hashed("card", i, turn) % np.uint64(len(population.card_user))).astype(np.int64)
    testers, resale = population.merchants.online_tagged("tester"), population.merchants.online_tagged("resale")
    merchant = np.where(cast.last, cast.one_of(resale)[i], cast.one_of(testers)[i])
    cents = np.where(cast.last, cast.cents(400, 1800), rng.integers(50, 496, len(cast)))
    traffic = cast.pay(card, merchant, cents, ECOM)
    traffic.device = cast.tokens("device", i)
    traffic.address = cast.address_in(cast.one_of(population.places.hosted), 0.8)[i]
    traffic.declined = rng.random(len(cast)) < np.where(cast.last, 0.1, 0.45)
    return traffic


def _account_takeover(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    victim = cast.people()
    city = cast.foreign_city(population.home_country[victim])
    merchant = rng.choice(population.merchants.online_tagged("resale"), len(cast))
    usual = ordinary_cents(population, rng, victim[i], merchant)
    cents = np.clip(usual * rng.uniform(3, 9, len(cast)), 250_00, 4200_00).astype(np.int64)
    traffic = cast.pay(population.first_card[victim][i], merchant, cents, ECOM)
    traffic.device = cast.tokens("device", i)
    traffic.address = cast.address_in(population.places.city_country[city], 0.4)[i]
    traffic.declined = rng.random(len(cast)) < 0.12
    cast.place(traffic, city[i])
    return traffic


def _identity_theft(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    places, merchants = population.places, population.merchants
    victim = cast.people()
    city, billed = cast.foreign_city(population.home_country[victim]), cast.foreign_city(population.home_country[victim])
    in_shop = rng.random(len(cast)) < 0.45
    shop = merchants.first_shop[city[i]] + rng.integers(0, 1 << 30, len(cast)) % merchants.shop_count[city[i]]
    online = rng.choice(merchants.online_tagged("resale"), len(cast))
    traffic = cast.pay(population.first_card[victim][i], np.where(in_shop, shop, online), cast.cents(350, 4200), 0)
    traffic.channel = np.where(in_shop, POS, ECOM)
    traffic.card = cast.tokens("card", i)
    traffic.card_type = np.full(len(cast), 1)
    traffic.card_age_days = rng.integers(0, 8, cast.count)[i]
    traffic.billing_lat, traffic.billing_lon = places.city_lat[billed][i], places.city_lon[billed][i]
    traffic.billing_country = places.city_country[billed][i]
    traffic.device = np.where(in_shop, np.uint64(0), cast.tokens("device", i))
    traffic.address = np.where(in_shop, 0, cast.address_in(places.city_country[city], 0.15)[i])
    traffic.declined = rng.random(len(cast)) < 0.08
    cast.place(traffic, city[i])
    return traffic


def _merchant_fraud(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    merchants = population.merchants
    shop = cast.one_of(merchants.rogue_shops)[i]
    card = _cards_of_country(cast, merchants.country[shop])
    price = np.exp(rng.uniform(np.log(90), np.log(480), cast.count))
    cents = np.floor(price[i] * 100 * rng.uniform(0.96, 1.04, len(cast))).astype(np.int64)
    traffic = cast.pay(card, shop, cents, POS)
    traffic.declined = rng.random(len(cast)) < 0.12
    cast.place(traffic, merchants.city[shop])
    return traffic


def _cards_of_country(cast: _Cast, country: Ints) -> Ints:
    """A random card for each payment, of someone in the country; of anyone where nobody lives there."""
    population = cast.population
    issued = population.home_country[population.card_user]
    order = np.argsort(issued, kind="stable")
    first = np.searchsorted(issued[order], country, side="left")
    count = np.searchsorted(issued[order], country, side="right") - first
    draw = cast.rng.integers(0, 1 << 40, len(cast))
    return order[np.where(count > 0, first + draw % np.maximum(count, 1), draw % len(order))]


def _money_laundering(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    mule = cast.people()
    # Two receivers an instance, and all of the mule's cards in turn.
    receivers = rng.choice(population.merchants.money_services, (cast.count, 2))
    merchant = receivers[i, rng.integers(0, 2, len(cast))]
    card = (population.first_card[mule])[i] + cast.step % population.card_count[mule][i]
    # Kept off the bounds so that rounding to another currency cannot cross them.
    cents = rng.integers(1805_00, 1996_00, len(cast))
    traffic = cast.pay(card, merchant, cents, ECOM)
    traffic.kind = np.full(len(cast), TRANSFER)
    _as_usual(cast, traffic)
    traffic.declined = rng.random(len(cast)) < 0.03
    return traffic


def _phishing(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    places = population.places
    # Nine payments for seven victims: a few give away a second payment.
    victim = cast.hashed("victim", i, cast.step * 7 // 9) % np.uint64(population.users)
    receivers = rng.choice(population.merchants.rogue_online, (cast.count, 2))
    merchant = receivers[i, (rng.random(len(cast)) < 0.35).astype(np.int64)]
    traffic = cast.pay(population.first_card[victim.astype(np.int64)], merchant, cast.cents(140, 1100), ECOM)
    network = places.hosting.address(cast.one_of(places.hosted), cast.hashed("network", np.arange(cast.count))) & ~15
    traffic.address = network[i] + 1 + rng.integers(0, 12, len(cast))
    traffic.device = cast.tokens("device", i, rng.integers(0, 3, len(cast)))
    traffic.declined = rng.random(len(cast)) < 0.08
    return traffic


def _chargeback_fraud(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    buyer = cast.one_of(population.abusers)
    merchant = rng.choice(population.merchants.online_tagged("resale"), len(cast))
    traffic = cast.pay(population.first_card[buyer][i], merchant, cast.cents(300, 2800), ECOM)
    _as_usual(cast, traffic)
    return traffic


def _as_usual(cast: _Cast, traffic: Traffic) -> None:
    """The user's own device, address and position."""
    population, user = cast.population, traffic.user
    traffic.lat, traffic.lon, traffic.city = population.whereabouts(user, cast.time_ms)
    traffic.device = population.devices(user, cast.time_ms, np.zeros(len(cast), dtype=np.bool_))
    route: Floats = unit(cast.hashed("route", cast.instance))
    traffic.address = population.addresses(user, cast.time_ms, traffic.city, route)


_BUILDERS: Mapping[str, Callable[[_Cast], Traffic]] = {
    "card_testing": _card_testing,
    "account_takeover": _account_takeover,
    "identity_theft": _identity_theft,
    "merchant_fraud": _merchant_fraud,
    "money_laundering": _money_laundering,
    "phishing": _phishing,
    "chargeback_fraud": _chargeback_fraud,
}


def scenario_traffic(
    population: Population,
    name: str,
    n: int,
    *,
    key: int,
    start_ms: int,
    duration_ms: int,
    longest_ms: int | None = None,
) -> Traffic:
    """Draw ``n`` payments of one scenario in ``[start_ms, start_ms + duration_ms)``, instances spread evenly over that time.

    Args:
        population: whose cards and merchants.
        name: one of ``SCENARIOS``.
        n: payments; the last instance is cut short to meet it.
        key: of all chance in here.
        start_ms: first instant.
        duration_ms: length of the time; no instance lasts longer.
        longest_ms: upper bound of the time an instance takes, for demonstrations.
    """
    spec = SPECS[name]
    rng = np.random.default_rng(key_of(key, name))
    sizes = _sizes(rng, spec, n)
    count = len(sizes)
    instance = np.repeat(np.arange(count), sizes)
    step = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    span_ms = rng.uniform(*spec.span_ms, count)
    if longest_ms is not None:
        span_ms = np.minimum(span_ms, longest_ms * rng.uniform(0.4, 1.0, count))
    span_ms = np.minimum(span_ms, 0.9 * duration_ms)
    begin_ms = (duration_ms - span_ms) * (np.arange(count) + rng.random(count)) / max(count, 1)
    offset_ms = span_ms[instance] * (step + rng.random(n)) / sizes[instance]
    cast = _Cast(
        population=population,
        rng=rng,
        key=key_of(key, name, "cast"),
        count=count,
        instance=instance,
        step=step,
        last=step == sizes[instance] - 1,
        time_ms=start_ms + np.floor(begin_ms[instance] + offset_ms).astype(np.int64),
    )
    traffic = _BUILDERS[name](cast)
    traffic.scenario = np.full(n, SCENARIOS.index(name))
    return traffic


def _sizes(rng: np.random.Generator, spec: ScenarioSpec, n: int) -> Ints:
    """Sizes of instances that sum to ``n``; the last one is cut short."""
    low, high = spec.size
    sizes = rng.integers(low, high + 1, n // low + 1)
    total = np.cumsum(sizes)
    count = int(np.searchsorted(total, n)) + 1 if n else 0
    sizes = sizes[:count]
    if count:
        sizes[-1] -= total[count - 1] - n
    return sizes
