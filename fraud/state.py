"""The bytes of an entity's state: what Flink checkpoints, Redis holds and Feast serves.

Version 1: ``version, kind``, then LEB128 varints (signed ones zigzag), hashes as 8 raw bytes, times as differences.  A log
entry starts with a byte that says which of its columns are there and which repeat the entry before, since most of them do.
A state of sixty transactions takes about 1 KB.

``decode_state`` accepts what ``encode_state`` wrote and raises ``ValueError`` for anything else: a state is never guessed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.events import Kind
from fraud.geo import MISSING

__all__ = ["STATE_VERSION", "decode_state", "encode_state", "state_seq", "state_time_ms"]

STATE_VERSION = 1

_HAS_A, _HAS_B, _HAS_LATLON, _HAS_PACKED, _HAS_TX, _SAME_B, _SAME_LATLON, _SAME_PACKED = (1 << bit for bit in range(8))
_MAX_VARINT, _MAX_ENTRY = 10, 1 + 2 * 10 + 4 * 8 + 10


@njit("int64(uint8[::1], int64, uint64)", cache=True)
def _put_varint(out: NDArray[np.uint8], at: int, value: int) -> int:
    value = np.uint64(value)
    while value >= np.uint64(128):
        out[at] = np.uint8(value & np.uint64(127)) | np.uint8(128)
        value >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(value)
    return at + 1


@njit("int64(uint8[::1], int64, int64)", cache=True)
def _put_signed(out: NDArray[np.uint8], at: int, value: int) -> int:
    return _put_varint(out, at, np.uint64((value << 1) ^ (value >> 63)))


@njit("int64(uint8[::1], int64, int64)", cache=True)
def _put_raw(out: NDArray[np.uint8], at: int, value: int) -> int:
    for i in range(8):
        out[at + i] = np.uint8((value >> (8 * i)) & 0xFF)
    return at + 8


@njit("int64(int64[::1], int64, uint8[::1])", cache=True)
def _encode(state: NDArray[np.int64], kind: int, out: NDArray[np.uint8]) -> int:
    out[0] = STATE_VERSION
    out[1] = kind
    at = 2
    for word in (k.H_SEQ, k.H_LOG, k.H_LABELS, k.H_SEEN, k.H_BUCKETS, k.H_TOTAL_COUNT):
        at = _put_varint(out, at, np.uint64(state[word]))
    at = _put_signed(out, at, state[k.H_TOTAL_SUM])
    for word in (k.H_MAX_T, k.H_FIRST_T, k.H_FOLDED_T):
        at = _put_signed(out, at, state[word])
    section, before = k.HEADER, 0
    for i in range(state[k.H_LABELS]):
        t = state[section + i * k.W_LABEL]
        at = _put_signed(out, at, t - before)
        at = _put_raw(out, at, state[section + i * k.W_LABEL + 1])
        before = t
    section += state[k.H_CAP_LABELS] * k.W_LABEL
    for i in range(state[k.H_SEEN]):
        at = _put_raw(out, at, state[section + i])
    section += state[k.H_CAP_SEEN] * k.W_SEEN
    before = 0
    for i in range(state[k.H_BUCKETS]):
        row = section + i * k.W_BUCKET
        at = _put_signed(out, at, state[row] - before)
        at = _put_varint(out, at, np.uint64(state[row + 1]))
        at = _put_signed(out, at, state[row + 2])
        at = _put_varint(out, at, np.uint64(state[row + 3]))
        before = state[row]
    section += state[k.H_CAP_BUCKETS] * k.W_BUCKET
    before, b, latlon, packed = 0, 0, MISSING, 0
    for i in range(state[k.H_LOG]):
        row = section + i * k.W_LOG
        flags = 0
        flags |= _HAS_A if state[row + k.L_A] != 0 else 0
        if state[row + k.L_B] != 0:
            flags |= _SAME_B if state[row + k.L_B] == b else _HAS_B
        if state[row + k.L_LATLON] != MISSING:
            flags |= _SAME_LATLON if state[row + k.L_LATLON] == latlon else _HAS_LATLON
        if state[row + k.L_PACKED] != 0:
            flags |= _SAME_PACKED if state[row + k.L_PACKED] == packed else _HAS_PACKED
        flags |= _HAS_TX if state[row + k.L_TX] != 0 else 0
        out[at] = flags
        at = _put_signed(out, at + 1, state[row + k.L_T] - before)
        at = _put_signed(out, at, state[row + k.L_AMOUNT])
        if flags & _HAS_A:
            at = _put_raw(out, at, state[row + k.L_A])
        if flags & _HAS_B:
            at = _put_raw(out, at, state[row + k.L_B])
        if flags & _HAS_LATLON:
            at = _put_raw(out, at, state[row + k.L_LATLON])
        if flags & _HAS_PACKED:
            at = _put_varint(out, at, np.uint64(state[row + k.L_PACKED]))
        if flags & _HAS_TX:
            at = _put_raw(out, at, state[row + k.L_TX])
        before = state[row + k.L_T]
        b = state[row + k.L_B] if state[row + k.L_B] != 0 else b
        latlon = state[row + k.L_LATLON] if state[row + k.L_LATLON] != MISSING else latlon
        packed = state[row + k.L_PACKED] if state[row + k.L_PACKED] != 0 else packed
    return at


# The readers take and return a position; a position past the end, or a varint that does not end, becomes -1 and stays -1.


@njit("UniTuple(int64, 2)(uint8[::1], int64)", cache=True)
def _get_varint(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    value, shift = np.uint64(0), np.uint64(0)
    for _ in range(_MAX_VARINT):
        if at < 0 or at >= data.shape[0]:
            return -1, 0
        byte = data[at]
        value |= np.uint64(byte & np.uint8(127)) << shift
        at += 1
        if byte < 128:
            return at, np.int64(value)
        shift += np.uint64(7)
    return -1, 0


@njit("UniTuple(int64, 2)(uint8[::1], int64)", cache=True)
def _get_signed(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    at, value = _get_varint(data, at)
    # zigzag: the arithmetic shift must not see the sign
    return at, np.int64(np.uint64(value) >> np.uint64(1)) ^ -(value & 1)


@njit("UniTuple(int64, 2)(uint8[::1], int64)", cache=True)
def _get_raw(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    if at < 0 or at + 8 > data.shape[0]:
        return -1, 0
    value = np.uint64(0)
    for i in range(8):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return at + 8, np.int64(value)


@njit("Tuple((int64, int64[::1]))(uint8[::1])", cache=True)
def _decode(data: NDArray[np.uint8]) -> Any:
    empty = np.empty(0, dtype=np.int64)
    header = np.zeros(6, dtype=np.int64)
    at = 2
    for i in range(6):
        at, header[i] = _get_varint(data, at)
    # an entry of any section takes at least a byte, so these bounds also bound the memory that garbage can ask for
    for i in range(1, 5):
        if header[i] < 0 or header[i] > data.shape[0]:
            return -1, empty
    n_log, n_labels, n_seen, n_buckets = header[1], header[2], header[3], header[4]
    state = k._allocate(n_labels, n_seen, n_buckets, n_log + 1)  # noqa: SLF001 - the codec is the kernel's other half
    state[k.H_SEQ], state[k.H_LOG], state[k.H_LABELS] = header[0], n_log, n_labels
    state[k.H_SEEN], state[k.H_BUCKETS], state[k.H_TOTAL_COUNT] = n_seen, n_buckets, header[5]
    at, state[k.H_TOTAL_SUM] = _get_signed(data, at)
    at, state[k.H_MAX_T] = _get_signed(data, at)
    at, state[k.H_FIRST_T] = _get_signed(data, at)
    at, state[k.H_FOLDED_T] = _get_signed(data, at)
    word, before, difference = k.HEADER, 0, 0
    for _ in range(n_labels):
        at, difference = _get_signed(data, at)
        before += difference
        state[word] = before
        at, state[word + 1] = _get_raw(data, at)
        word += k.W_LABEL
    for _ in range(n_seen):
        at, state[word] = _get_raw(data, at)
        word += k.W_SEEN
    before = 0
    for _ in range(n_buckets):
        at, difference = _get_signed(data, at)
        before += difference
        state[word] = before
        at, state[word + 1] = _get_varint(data, at)
        at, state[word + 2] = _get_signed(data, at)
        at, state[word + 3] = _get_varint(data, at)
        word += k.W_BUCKET
    before, b, latlon, packed = 0, 0, MISSING, 0
    for _ in range(n_log):
        if at < 0 or at >= data.shape[0]:
            return -1, empty
        flags = np.int64(data[at])
        at, difference = _get_signed(data, at + 1)
        before += difference
        state[word + k.L_T] = before
        at, state[word + k.L_AMOUNT] = _get_signed(data, at)
        if flags & _HAS_A:
            at, state[word + k.L_A] = _get_raw(data, at)
        if flags & _HAS_B:
            at, b = _get_raw(data, at)
        state[word + k.L_B] = b if flags & (_HAS_B | _SAME_B) else 0
        if flags & _HAS_LATLON:
            at, latlon = _get_raw(data, at)
        state[word + k.L_LATLON] = latlon if flags & (_HAS_LATLON | _SAME_LATLON) else MISSING
        if flags & _HAS_PACKED:
            at, packed = _get_varint(data, at)
        state[word + k.L_PACKED] = packed if flags & (_HAS_PACKED | _SAME_PACKED) else 0
        if flags & _HAS_TX:
            at, state[word + k.L_TX] = _get_raw(data, at)
        word += k.W_LOG
    return at, state


def encode_state(state: NDArray[np.int64], kind: Kind) -> bytes:
    """Encode an entity's state."""
    entries = int(state[k.H_LOG] + state[k.H_LABELS] + state[k.H_SEEN] + state[k.H_BUCKETS])
    out = np.empty(2 + k.HEADER * _MAX_VARINT + entries * _MAX_ENTRY, dtype=np.uint8)
    size = int(_encode(state, int(kind), out))
    return out[:size].tobytes()


def decode_state(data: bytes, kind: Kind) -> NDArray[np.int64]:
    """Decode an entity's state; raises ValueError when it is not one of this kind and version, or is cut short."""
    if len(data) < 2 or data[0] != STATE_VERSION or data[1] != int(kind):
        raise ValueError(f"not a version {STATE_VERSION} state of a {kind.name.lower()}: starts with {data[:2].hex() or 'nothing'}")
    end, state = _decode(np.frombuffer(bytearray(data), dtype=np.uint8))  # writable, as the signature says
    if end != len(data):
        raise ValueError(f"state of a {kind.name.lower()} is damaged: {len(data)} bytes")
    return state  # type: ignore[no-any-return]


def state_seq(state: NDArray[np.int64]) -> int:
    """Number of transactions and labels applied to the entity."""
    return int(state[k.H_SEQ])


def state_time_ms(state: NDArray[np.int64]) -> int:
    """Newest event time of the entity, ms UTC; 0 when it has only labels."""
    newest = int(state[k.H_MAX_T])
    return 0 if newest == MISSING else newest
