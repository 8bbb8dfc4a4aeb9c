"""The bytes of a state: one encoding a state, and nothing that is not one is ever taken for one.

The compiled code checks no bounds, so damage that got past the codec would be read and written as memory.  To see that none is,
run this file with ``NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=<an empty directory>``: an index out of bounds is then an IndexError.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import HEAD_CAP
from fraud.events import Kind, Label
from fraud.geo import MISSING
from fraud.state import STATE_VERSION, _encode, decode_state, encode_state, state_position, state_seq, state_time_ms
from tests.contract.logs import START_MS, Entity, random_log, transaction
from tests.contract.naive import DAY_MS, HOUR_MS

SECTIONS = ((k.H_LABELS, k.W_LABEL), (k.H_SEEN, k.W_SEEN), (k.H_BUCKETS, k.W_BUCKET), (k.H_LOG, k.W_LOG))
WEIRD = (0, 1, -1, 2, 63, 64, 127, 128, 1 << 31, 1 << 62, -(1 << 62), MISSING, MISSING + 1, (1 << 63) - 1, START_MS, -START_MS)


def grown(kind: Kind, size: int = 40, seed: int = 3) -> Entity:
    """An entity with something in each section that its kind has."""
    entity = Entity(kind)
    for entry in random_log(kind, size, seed, 24 * HOUR_MS):
        entity.apply(entry)
    if kind in (Kind.CARD, Kind.USER):
        entity.apply(transaction(int(entity.state[k.H_MAX_T]) + 20 * DAY_MS, merchant_id="later"))
    return entity


def busy(kind: Kind) -> Entity:
    """A high-volume entity: buckets behind the head."""
    entity = Entity(kind)
    for i in range(HEAD_CAP + 20):
        entity.apply(transaction(START_MS + i * HOUR_MS // 50, card_id=f"c{i % 7}", transaction_id=f"t{i}"))
    assert entity.state[k.H_BUCKETS] > 0
    return entity


def content(state: NDArray[np.int64]) -> list[list[int]]:
    """The header and the used part of each section."""
    header = [int(state[w]) for w in range(k.HEADER) if w not in range(k.H_CAP_LOG, k.H_CAP_BUCKETS + 1)]
    parts, at = [header], k.HEADER
    for (count, width), cap in zip(SECTIONS, (k.H_CAP_LABELS, k.H_CAP_SEEN, k.H_CAP_BUCKETS, k.H_CAP_LOG), strict=True):
        parts.append(state[at : at + int(state[count]) * width].tolist())
        at += int(state[cap]) * width
    assert at == len(state)
    return parts


def survives(kind: Kind, data: bytes) -> bool:
    """Whether bytes decode; if they do, they re-encode to themselves and the kernel can go on from them."""
    try:
        state = decode_state(data, kind)
    except ValueError:
        return False
    assert encode_state(state, kind) == data
    entity = Entity(kind)
    entity.state = state
    seq = state_seq(state)
    newest = state_time_ms(state)
    if abs(newest) < 1 << 60:
        for t in (newest + 1, newest - DAY_MS, newest + 40 * DAY_MS, newest + 200 * DAY_MS):
            entity.apply(transaction(t, merchant_id="after", transaction_id=f"after{t}"))
            entity.apply(Label(f"after{t}", "default", "c", "m", t, t, True))
        assert state_seq(entity.state) == seq + 8
    else:
        entity.apply(transaction(START_MS))
    content(entity.state)
    return True


@pytest.mark.parametrize("kind", Kind)
def test_a_decoded_state_holds_what_was_encoded(kind: Kind) -> None:
    for entity in (Entity(kind), grown(kind), *([] if kind in (Kind.CARD, Kind.USER) else [busy(kind)])):
        assert content(decode_state(encode_state(entity.state, kind), kind)) == content(entity.state)


@pytest.mark.parametrize("kind", list(Kind))
def test_number_and_time_are_read_off_an_encoded_state(kind: Kind) -> None:
    labels_only = Entity(kind)
    labels_only.apply(Label("t", "bank", "c", "m", START_MS, START_MS, True, "test"))
    for entity in (Entity(kind), labels_only, grown(kind)):
        data = encode_state(entity.state, kind)
        assert state_position(data) == (state_seq(entity.state), state_time_ms(entity.state))
    assert state_position(encode_state(grown(kind).state, kind))[0] > 1


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x00" + bytes(20), encode_state(k.empty_state(), Kind.CARD)[:9]])
def test_a_number_is_not_read_off_what_is_no_state(data: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        state_position(data)


def test_every_section_is_exercised() -> None:
    card, merchant = grown(Kind.CARD), busy(Kind.MERCHANT)
    assert all(card.state[h] > 0 for h in (k.H_LABELS, k.H_SEEN, k.H_LOG))
    assert merchant.state[k.H_BUCKETS] > 0


def test_an_empty_state_is_sixteen_words_of_nothing() -> None:
    state = decode_state(encode_state(k.empty_state(), Kind.CARD), Kind.CARD)
    assert (state_seq(state), state_time_ms(state)) == (0, 0)


def test_sixty_transactions_take_about_a_kilobyte_or_two() -> None:
    card = Entity(Kind.CARD)
    for i in range(60):
        card.apply(
            transaction(START_MS + i * 7 * HOUR_MS, 1_000 + i, merchant_id=f"m{i % 9}", device_id="d", country="FR", merchant_mcc=5411)
        )
    assert len(encode_state(card.state, Kind.CARD)) < 2_500


def test_a_state_of_another_kind_or_version_is_refused() -> None:
    data = encode_state(grown(Kind.CARD).state, Kind.CARD)
    for other in set(Kind) - {Kind.CARD}:
        with pytest.raises(ValueError, match="not a version 1 state"):
            decode_state(data, other)
    with pytest.raises(ValueError, match="not a version 1 state of a card"):
        decode_state(bytes([STATE_VERSION + 1]) + data[1:], Kind.CARD)


@pytest.mark.parametrize("kind", Kind)
def test_a_state_cut_short_or_continued_is_refused(kind: Kind) -> None:
    data = encode_state(grown(kind).state, kind)
    for size in range(len(data)):
        with pytest.raises(ValueError):  # noqa: PT011 - three texts, one meaning
            decode_state(data[:size], kind)
    for more in (b"\0", b"\xff", data):
        with pytest.raises(ValueError, match="damaged"):
            decode_state(data + more, kind)


@pytest.mark.parametrize("kind", Kind)
def test_a_state_with_one_bit_flipped_is_refused_or_is_another_sound_state(kind: Kind) -> None:
    entity = grown(kind, size=12) if kind in (Kind.CARD, Kind.USER) else busy(kind)
    data = encode_state(entity.state, kind)
    rng = random.Random(int(kind))
    bits = range(8 * len(data)) if len(data) < 800 else sorted({*range(800), *rng.sample(range(8 * len(data)), 4_000)})
    survived = 0
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        survived += survives(kind, bytes(flipped))
    assert 0 < survived < len(bits)


@given(kind=st.sampled_from(Kind), data=st.binary(max_size=400))
def test_random_bytes_are_refused_or_are_a_sound_state(kind: Kind, data: bytes) -> None:
    survives(kind, data)
    survives(kind, bytes([STATE_VERSION, kind]) + data)


@given(
    kind=st.sampled_from(Kind),
    counts=st.lists(st.integers(0, 40), min_size=6, max_size=6),
    rest=st.lists(st.sampled_from([0, 1, 2, 3, 7, 15, 31, 63, 64, 127, 128, 129, 192, 255]), max_size=300),
)
def test_garbage_behind_a_plausible_header_is_refused_or_is_a_sound_state(kind: Kind, counts: list[int], rest: list[int]) -> None:
    survives(kind, bytes([STATE_VERSION, kind, *counts, *rest]))


@pytest.mark.parametrize("kind", Kind)
def test_a_state_with_nonsense_in_a_word_is_refused_or_sound(kind: Kind) -> None:
    """Whatever number a writer with a bug puts in any word of a state, nobody reads or writes outside of it."""
    rng = random.Random(int(kind))
    entity = grown(kind) if kind in (Kind.CARD, Kind.USER) else busy(kind)
    sizes = range(k.H_LOG, k.H_CAP_BUCKETS + 1)
    accepted = 0
    for _ in range(2_000):
        state = entity.state.copy()
        for _ in range(rng.choice((1, 1, 2, 5))):
            word = rng.choice((rng.randrange(k.HEADER), rng.randrange(len(state))))
            if word not in sizes:  # the encoder trusts these, as the kernel's own
                state[word] = rng.choice(WEIRD) if rng.random() < 0.7 else rng.getrandbits(63)
        out = np.empty(100_000, dtype=np.uint8)
        accepted += survives(kind, out[: _encode(state, int(kind), out)].tobytes())
    assert 0 < accepted < 2_000


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ((9, 127, 0, 0, 0, 9), "more log entries than bytes"),
        ((9, 0, 127, 0, 0, 9), "more labels than bytes"),
        ((9, 0, 0, 127, 0, 9), "more merchants than bytes"),
        ((9, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 1, 0, 0), "buckets of a card"),
        ((1, 0, 0, 0, 0, 2, 0, 0, 0, 0), "more transactions than were applied"),
    ],
)
def test_a_header_that_cannot_be_is_refused(header: tuple[int, ...], why: str) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode_state(bytes([STATE_VERSION, Kind.CARD, *header]), Kind.CARD)
    assert why


def test_a_number_has_one_encoding() -> None:
    """A varint with a superfluous zero byte would be a second name for the same state."""
    data = encode_state(k.empty_state(), Kind.CARD)
    assert data[2] == 0
    with pytest.raises(ValueError, match="damaged"):
        decode_state(data[:2] + b"\x80\x00" + data[3:], Kind.CARD)


def test_a_huge_count_does_not_ask_for_huge_memory() -> None:
    for varint in (b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01"):
        with pytest.raises(ValueError, match="damaged"):
            decode_state(bytes([STATE_VERSION, Kind.MERCHANT, 9]) + varint + b"\0" * 60, Kind.MERCHANT)
