"""Distances on the sphere, in numba so that the kernel, a request and a notebook compute the same last bit."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit

__all__ = ["EARTH_RADIUS_KM", "MISSING", "haversine_km", "pack_country"]

EARTH_RADIUS_KM = 6371.0088  # mean radius of the IUGG
# "no value" in every integer column of the kernel; no time, amount, position or hash takes it
MISSING = int(np.iinfo(np.int64).min)

_RAD_PER_E6 = math.pi / 180.0e6


@njit("float64(int64, int64, int64, int64)", cache=True)
def haversine_km(lat1_e6: int, lon1_e6: int, lat2_e6: int, lon2_e6: int) -> float:
    """Great-circle distance in km between two points in millionths of a degree; NaN where a coordinate is missing.

    R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (1984), p. 159.
    """
    if MISSING in (lat1_e6, lon1_e6, lat2_e6, lon2_e6):
        return math.nan
    phi1 = lat1_e6 * _RAD_PER_E6
    phi2 = lat2_e6 * _RAD_PER_E6
    half_dphi = 0.5 * (phi2 - phi1)
    half_dlambda = 0.5 * (lon2_e6 - lon1_e6) * _RAD_PER_E6
    h = math.sin(half_dphi) ** 2 + math.cos(phi1) * math.cos(phi2) * math.sin(half_dlambda) ** 2
    return 2.0 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


@lru_cache(maxsize=1024)  # there are 676
def pack_country(code: str | None) -> int:
    """ISO 3166 alpha-2 as a number from 1 to 676 (A-A is 1), 0 where there is none; exact, unlike a hash."""
    if code is None:
        return 0
    return (ord(code[0]) - 65) * 26 + ord(code[1]) - 64
