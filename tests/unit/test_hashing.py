"""The compiled hash is hashlib's BLAKE2b, whatever the strings and wherever their blocks end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.events import hash64
from fraud.hashing import hash64_many


def _many(texts: list[str]) -> list[int]:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return hash64_many(np.frombuffer(bytearray(b"".join(encoded)), dtype=np.uint8), offsets).tolist()


@given(st.lists(st.text(max_size=300)))
def test_it_hashes_as_hashlib_does(texts: list[str]) -> None:
    assert _many(texts) == [hash64(text) for text in texts]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 127, 128, 129, 255, 256, 257])
def test_blocks_may_end_anywhere(length: int) -> None:
    texts = ["a" * length, "b", "ü" * length]
    assert _many(texts) == [hash64(text) for text in texts]


def test_another_string_has_another_hash() -> None:
    assert len(set(_many([f"t{i}" for i in range(10_000)]))) == 10_000
