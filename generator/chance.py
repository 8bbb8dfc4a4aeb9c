"""Chance as a function: numbers that look random and depend on nothing but a key and the things they are about.

A user's position at an instant or the phone of a month must be the same whichever slice of time is generated, so it cannot come
from a generator whose state depends on what was drawn before.  SplitMix64 (Steele, Lea, Flood 2014) mixes the parts instead.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["choice_by_weight", "key_of", "mix", "unit"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


def key_of(*parts: str | int) -> int:
    """64-bit key of a purpose, such as ``key_of(seed, "home")``; equal parts give equal keys on every machine."""
    return int.from_bytes(blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


def mix(key: int, *parts: ArrayLike) -> NDArray[np.uint64]:
    """Hash integers element by element under a key: ``uint64`` of the broadcast shape of the parts.

    One part gives different hashes to different values: the mixing is a bijection.
    """
    with np.errstate(over="ignore"):  # wrapping is the arithmetic meant
        state: NDArray[np.uint64] = np.asarray(np.uint64(key))
        for part in parts:
            # int64 to uint64 by wrapping, so that negative parts are as good as others
            word = np.asarray(part).astype(np.int64).view(np.uint64) if np.asarray(part).dtype != np.uint64 else np.asarray(part)
            state = _finish((state ^ word) + _GAMMA)
        return state


def _finish(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> _S30)) * _A
    z = (z ^ (z >> _S27)) * _B
    return z ^ (z >> _S31)


def unit(hashed: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map hashes to ``float64`` in [0, 1)."""
    return (hashed >> _S11).astype(np.float64) * 2.0**-53


def choice_by_weight(weights: ArrayLike, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the weighted choice that each number in [0, 1) makes."""
    cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
    chosen: NDArray[np.int64] = np.minimum(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(cumulative) - 1)
    return chosen
