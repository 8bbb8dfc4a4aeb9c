"""Places as arrays: cities and countries by index, and addresses drawn from a country's ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network

import numpy as np
from numpy.typing import NDArray

from fraud.currency import CURRENCIES
from generator.places import COUNTRIES

__all__ = ["KM_PER_DEGREE", "Geography", "distance_km", "geography"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_EARTH_RADIUS_KM = 6371.0088
KM_PER_DEGREE = 111.2  # of latitude


@dataclass(frozen=True, slots=True)
class AddressRanges:
    """IPv4 ranges by country: ``int64[countries, most ranges]``, of which the first ``count`` of a row are used."""

    base: Ints
    size: Ints
    count: Ints

    @classmethod
    def of(cls, ranges: Sequence[Sequence[str]]) -> AddressRanges:
        """Lay out CIDR ranges, one sequence a country."""
        shape = (len(ranges), max(map(len, ranges)))
        base, size = np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=np.int64)
        for row, networks in enumerate(ranges):
            for column, network in enumerate(map(IPv4Network, networks)):
                base[row, column] = int(network.network_address)
                size[row, column] = network.num_addresses
        return cls(base, size, np.array([len(networks) for networks in ranges], dtype=np.int64))

    def address(self, country: Ints, hashed: NDArray[np.uint64]) -> Ints:
        """Choose one address a row, by a hash; never one that ends in 0 or 255, which name networks and everyone."""
        column = (hashed & np.uint64(0xFF)).astype(np.int64) % self.count[country]
        host = (hashed >> np.uint64(8)).astype(np.int64) % self.size[country, column]
        address = self.base[country, column] + host
        last = address & 255
        chosen: Ints = address + (last == 0) - (last == 255)
        return chosen


@dataclass(frozen=True, slots=True)
class Geography:
    """Cities and countries, indexed in the order of ``places.COUNTRIES``; cities of a country are neighbours.

    ``cents_per_minor`` is the worth of a minor unit of the country's currency in USD cents, by the kernel's own table.
    ``hosted`` are the countries that have hosting ranges.
    """

    city_name: tuple[str, ...]
    city_lat: Floats
    city_lon: Floats
    city_offset_ms: Ints
    city_country: Ints
    city_weight: Floats
    country_code: tuple[str, ...]
    country_currency: tuple[str, ...]
    country_weight: Floats
    first_city: Ints
    city_count: Ints
    cents_per_minor: Floats
    consumer: AddressRanges
    hosting: AddressRanges
    hosted: Ints


@cache
def geography() -> Geography:
    """Build the arrays of ``places``, once."""
    cities = [(row, city) for row, country in enumerate(COUNTRIES) for city in country.cities]
    share = [city.weight / sum(other.weight for other in COUNTRIES[row].cities) * COUNTRIES[row].weight for row, city in cities]
    counts = np.array([len(country.cities) for country in COUNTRIES], dtype=np.int64)
    ratios = [CURRENCIES[country.currency].ratio for country in COUNTRIES]
    return Geography(
        city_name=tuple(city.name for _, city in cities),
        city_lat=np.array([city.lat for _, city in cities]),
        city_lon=np.array([city.lon for _, city in cities]),
        city_offset_ms=np.array([round(city.utc_offset_h * 3_600_000) for _, city in cities], dtype=np.int64),
        city_country=np.array([row for row, _ in cities], dtype=np.int64),
        city_weight=np.array(share),
        country_code=tuple(country.code for country in COUNTRIES),
        country_currency=tuple(country.currency for country in COUNTRIES),
        country_weight=np.array([country.weight for country in COUNTRIES]),
        first_city=np.cumsum(counts) - counts,
        city_count=counts,
        cents_per_minor=np.array([numerator / denominator for numerator, denominator in ratios]),
        consumer=AddressRanges.of([country.networks for country in COUNTRIES]),
        hosting=AddressRanges.of([country.hosting or country.networks for country in COUNTRIES]),
        hosted=np.flatnonzero([bool(country.hosting) for country in COUNTRIES]),
    )


def distance_km(lat1: Floats, lon1: Floats, lat2: Floats, lon2: Floats) -> Floats:
    """Great-circle distances in km between points in degrees (haversine)."""
    phi1, phi2 = np.radians(lat1), np.radians(lat2)
    h = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin(np.radians(lon2 - lon1) / 2) ** 2
    km: Floats = 2 * _EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(h, 1.0)))
    return km
