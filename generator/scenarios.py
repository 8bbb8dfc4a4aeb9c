"""Seven kinds of card fraud, each as instances that touch particular cards, merchants, devices and addresses.

==================  ===============================================================================================
card_testing        one device and address try 1-15 cards with small online amounts, many declined, then spend big
account_takeover    a new device at a mostly foreign address spends a multiple of what the victim does
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

    def elsewhere(self, home_city: Ints, abroad_share: float) -> Ints:
        """For each row another city: in another country for a share of them, else in the same one where it has others."""
        places = self.population.places
        abroad = self.rng.random(len(home_city)) < abroad_share
        city = home_city.copy()
        country = places.city_country[home_city]
        while (near := (city == home_city) | (abroad & (places.city_country[city] == country))).any():
            anywhere = choice_by_weight(places.city_weight, self.rng.random(len(city)))
            within = places.first_city[country] + self.rng.integers(0, 1 << 30, len(city)) % places.city_count[country]
            alone = places.city_count[country] == 1
            city = np.where(near, np.where(abroad | alone, anywhere, within), city)
        return city

    def address_in(self, country: Ints, hosted_share: float) -> Ints:
        """An address in each country, of a hosting company for a share of them."""
        places = self.population.places
        hashed = self.hashed("address", np.arange(len(country)))
        hosting = self.rng.random(len(country)) < hosted_share
        return np.where(hosting, places.hosting.address(country, hashed), places.consumer.address(country, hashed))

    def cards_of(self, country: Ints, hashed: NDArray[np.uint64]) -> Ints:
        """For each row a card of someone in the country, by a hash; of anyone where nobody lives there."""
        issued = self.population.home_country[self.population.card_user]
        return _member(issued, country, hashed)

    def online(self, tag: str, country: Ints, home_share: float) -> Ints:
        """For each row an online merchant with a tag: of that country for a share of them where it has one, else of any."""
        merchants = self.population.merchants
        tagged = merchants.online_tagged(tag)
        wanted = np.where(self.rng.random(len(country)) < home_share, country, -1)
        hashed = self.rng.integers(0, 1 << 62, len(country)).astype(np.uint64)
        return tagged[_member(merchants.country[tagged], wanted, hashed)]

    def cents(self, low_usd: float, high_usd: float) -> Ints:
        """Amounts in USD cents between two bounds, small ones more often (even on a logarithmic scale)."""
        drawn = np.exp(self.rng.uniform(np.log(low_usd * 100), np.log(high_usd * 100), len(self)))
        whole: Ints = np.floor(drawn).astype(np.int64)
        return whole

    def pay(self, card: Ints, merchant: Ints, cents: Ints, channel: Ints | int) -> Traffic:
        """Payments of these cards at the times of the cast."""
        traffic = card_payments(self.population, time_ms=self.time_ms, card=card, merchant=merchant, cents=cents, channel=channel)
        traffic.instance = self.instance.copy()
        return traffic

    def place(self, traffic: Traffic, city: Ints) -> None:
        """Put each payment near the centre of its city, an instance always in the same spot."""
        places = self.population.places
        lat_shift, lon_shift = unit(self.hashed("lat", self.instance)), unit(self.hashed("lon", self.instance))
        traffic.lat = places.city_lat[city] + (lat_shift - 0.5) * _SPOT_DEGREES
        traffic.lon = places.city_lon[city] + (lon_shift - 0.5) * _SPOT_DEGREES
        traffic.city = city.copy()


def _member(groups: Ints, wanted: Ints, hashed: NDArray[np.uint64]) -> Ints:
    """Indices of members of the wanted groups, chosen by hashes; of any group where the wanted one is empty."""
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], wanted, side="left")
    count = np.searchsorted(groups[order], wanted, side="right") - first
    first, count = np.where(count > 0, first, 0), np.where(count > 0, count, len(groups))
    member: Ints = order[first + (hashed % count.astype(np.uint64)).astype(np.int64)]
    return member


def _card_testing(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    tested = np.where(rng.random(cast.count) < 0.3, 1, rng.integers(5, 16, cast.count))
    # The last payment spends on the first card that was tried.
    turn = np.where(cast.last, 0, cast.step % tested[i])
    # A stolen batch is of one country's issuers, and tried near its market or far from it.
    country = population.home_country[cast.people()]
    card = cast.cards_of(country[i], cast.hashed("card", i, turn))
    merchant = np.where(cast.last, cast.online("resale", country, 0.6)[i], cast.online("tester", country, 0.6)[i])
    cents = np.where(cast.last, cast.cents(400, 1800), rng.integers(50, 496, len(cast)))
    traffic = cast.pay(card, merchant, cents, ECOM)
    traffic.device = cast.tokens("device", i)
    traffic.address = cast.address_in(cast.one_of(population.places.hosted), 0.8)[i]
    traffic.declined = rng.random(len(cast)) < np.where(cast.last, 0.1, 0.45)
    return traffic


def _account_takeover(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    victim = cast.people()
    city = cast.elsewhere(population.home_city[victim], abroad_share=0.7)
    merchant = cast.online("resale", population.home_country[victim][i], 0.6)
    usual = ordinary_cents(population, rng, victim[i], merchant)
    cents = np.clip(usual * rng.uniform(2, 8, len(cast)), 150_00, 4200_00).astype(np.int64)
    traffic = cast.pay(population.first_card[victim][i], merchant, cents, ECOM)
    traffic.device = cast.tokens("device", i)
    traffic.address = cast.address_in(population.places.city_country[city], 0.4)[i]
    traffic.declined = rng.random(len(cast)) < 0.12
    cast.place(traffic, city[i])
    # Half of the thieves do not share their position.
    hidden = (rng.random(cast.count) < 0.5)[i]
    traffic.lat, traffic.lon = np.where(hidden, np.nan, traffic.lat), np.where(hidden, np.nan, traffic.lon)
    traffic.city = np.where(hidden, -1, traffic.city)
    return traffic


def _identity_theft(cast: _Cast) -> Traffic:
    population, rng, i = cast.population, cast.rng, cast.instance
    places, merchants = population.places, population.merchants
    victim = cast.people()
    home = population.home_city[victim]
    city, billed = cast.elsewhere(home, abroad_share=0.4), cast.elsewhere(home, abroad_share=0.4)
    in_shop = rng.random(len(cast)) < 0.45
    shop = merchants.first_shop[city[i]] + rng.integers(0, 1 << 30, len(cast)) % merchants.shop_count[city[i]]
    online = cast.online("resale", population.home_country[victim][i], 0.6)
    traffic = cast.pay(population.first_card[victim][i], np.where(in_shop, shop, online), cast.cents(150, 3800), 0)
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
    card = cast.cards_of(merchants.country[shop], cast.hashed("card", i, cast.step))
    price = np.exp(rng.uniform(np.log(60), np.log(400), cast.count))
    cents = np.floor(price[i] * 100 * rng.uniform(0.85, 1.15, len(cast))).astype(np.int64)
    traffic = cast.pay(card, shop, cents, POS)
    traffic.declined = rng.random(len(cast)) < 0.10
    cast.place(traffic, merchants.city[shop])
    return traffic


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
    country = population.home_country[cast.people()]
    victim = population.card_user[cast.cards_of(country[i], cast.hashed("victim", i, cast.step * 7 // 9))]
    receivers = rng.choice(population.merchants.rogue_online, (cast.count, 2))
    merchant = receivers[i, (rng.random(len(cast)) < 0.35).astype(np.int64)]
    traffic = cast.pay(population.first_card[victim], merchant, cast.cents(80, 900), ECOM)
    network = places.hosting.address(cast.one_of(places.hosted), cast.hashed("network", np.arange(cast.count))) & ~15
    traffic.address = network[i] + 1 + rng.integers(0, 12, len(cast))
    traffic.device = cast.tokens("device", i, rng.integers(0, 3, len(cast)))
    traffic.declined = rng.random(len(cast)) < 0.08
    return traffic


def _chargeback_fraud(cast: _Cast) -> Traffic:
    population, i = cast.population, cast.instance
    buyer = cast.one_of(population.abusers)
    merchant = cast.online("resale", population.home_country[buyer][i], 0.85)
    traffic = cast.pay(population.first_card[buyer][i], merchant, cast.cents(250, 2600), ECOM)
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
