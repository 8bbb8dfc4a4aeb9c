"""Distances and countries: known values, symmetry, missing positions, and a second formula for the same thing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.geo import EARTH_RADIUS_KM, MISSING, haversine_km, pack_country

PARIS, LONDON, SYDNEY = (48_856_600, 2_352_200), (51_507_400, -127_800), (-33_868_800, 151_209_300)
HALF_WAY_ROUND_KM = math.pi * EARTH_RADIUS_KM

points = st.tuples(st.integers(-90_000_000, 90_000_000), st.integers(-180_000_000, 180_000_000))


def by_vectors_km(one: tuple[int, int], other: tuple[int, int]) -> float:
    """The angle between two points of the unit sphere, by cross and dot product: sound at every distance."""

    def unit(point: tuple[int, int]) -> tuple[float, float, float]:
        lat, lon = (math.radians(c / 1e6) for c in point)
        return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)

    (a, b, c), (d, e, f) = unit(one), unit(other)
    cross = math.hypot(b * f - c * e, c * d - a * f, a * e - b * d)
    return EARTH_RADIUS_KM * math.atan2(cross, a * d + b * e + c * f)


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [
        (PARIS, LONDON, 343.6),
        (PARIS, SYDNEY, 16_960.5),
        ((0, 0), (0, 1_000_000), 111.2),  # a degree on the equator
        ((90_000_000, 0), (-90_000_000, 0), 20_015.1),  # pole to pole
        ((0, 179_999_999), (0, -179_999_999), 0.0),  # over the date line
    ],
)
def test_known_distances(one: tuple[int, int], other: tuple[int, int], km: float) -> None:
    assert haversine_km(*one, *other) == pytest.approx(km, abs=0.1)


@given(points, points)
def test_the_distance_equals_the_angle_between_vectors(one: tuple[int, int], other: tuple[int, int]) -> None:
    """To a micrometre or so near by; at the antipodes the haversine itself is only good to some metres."""
    expected = by_vectors_km(one, other)
    tolerance = 0.5 if expected > 0.999 * HALF_WAY_ROUND_KM else 1e-8 + 1e-9 * expected
    assert haversine_km(*one, *other) == pytest.approx(expected, abs=tolerance, rel=0)


@given(points, points)
def test_the_way_back_is_as_long_and_never_more_than_half_way_round(one: tuple[int, int], other: tuple[int, int]) -> None:
    km = haversine_km(*one, *other)
    assert km == pytest.approx(haversine_km(*other, *one), rel=1e-12, abs=1e-9)
    assert 0 <= km <= HALF_WAY_ROUND_KM


@given(points)
def test_a_point_is_where_it_is(point: tuple[int, int]) -> None:
    assert haversine_km(*point, *point) == 0


@given(points, points, st.integers(0, 3))
def test_a_missing_coordinate_makes_the_distance_missing(one: tuple[int, int], other: tuple[int, int], which: int) -> None:
    coordinates = [*one, *other]
    coordinates[which] = MISSING
    assert math.isnan(haversine_km(*coordinates))


def test_every_country_code_has_its_own_number() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    codes = [a + b for a in letters for b in letters]
    numbers = [pack_country(code) for code in codes]
    assert sorted(numbers) == list(range(1, 677))


def test_no_country_is_zero() -> None:
    assert pack_country(None) == 0
