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

__all__ = ["STATE_VERSION", "decode_state", "encode_state", "erased_state", "state_position", "state_seq", "state_time_ms"]

STATE_VERSION = 1

_HAS_A, _HAS_B, _HAS_LATLON, _HAS_PACKED, _HAS_TX, _SAME_B, _SAME_LATLON, _SAME_PACKED = (1 << bit for bit in range(8))
_MAX_VARINT = 10
_MAX_SEQ = 1 << 62  # nothing that is counted runs over


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


# The readers take and return a position; a position past the end, or a varint that does not end or is longer than it need be,
# becomes -1 and stays -1.


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
            # one value has one encoding, and the tenth byte holds the 64th bit
            if (byte == 0 and shift > 0) or (shift == 63 and byte > 1):
                return -1, 0
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


@njit("int64(int64, int64, int64, int64, boolean)", cache=True)
def _bytes_with(n: int, least: int, used: int, size: int, allowed: bool) -> int:
    """``used`` and the bytes of ``n`` entries of at least ``least`` bytes; more than ``size`` for a section that cannot be."""
    if n < 0 or n > size or (n > 0 and not allowed):
        return size + 1
    return used + n * least


@njit("UniTuple(int64, 2)(int64[::1], uint8[::1], int64, int64, int64)", cache=True)
def _decode_log(state: NDArray[np.int64], data: NDArray[np.uint8], at: int, word: int, n_log: int) -> tuple[int, int]:
    before, b, latlon, packed = 0, 0, MISSING, 0
    for i in range(n_log):
        if at < 0 or at >= data.shape[0]:
            return -1, 0
        flags = np.int64(data[at])
        at, difference = _get_signed(data, at + 1)
        t = before + difference
        at, state[word + k.L_AMOUNT] = _get_signed(data, at)
        sound = i == 0 or t >= before
        before = t
        state[word + k.L_T] = t
        if flags & _HAS_A:
            at, state[word + k.L_A] = _get_raw(data, at)
            sound &= state[word + k.L_A] != 0
        # a column is new or the same as in the entry before that had one, not both, and never "the same" as nothing
        if flags & _HAS_B:
            last = b
            at, b = _get_raw(data, at)
            sound &= b not in (last, 0) and flags & _SAME_B == 0
        sound &= flags & _SAME_B == 0 or b != 0
        state[word + k.L_B] = b if flags & (_HAS_B | _SAME_B) else 0
        if flags & _HAS_LATLON:
            last = latlon
            at, latlon = _get_raw(data, at)
            sound &= latlon not in (last, MISSING) and flags & _SAME_LATLON == 0
        sound &= flags & _SAME_LATLON == 0 or latlon != MISSING
        state[word + k.L_LATLON] = latlon if flags & (_HAS_LATLON | _SAME_LATLON) else MISSING
        if flags & _HAS_PACKED:
            last = packed
            at, packed = _get_varint(data, at)
            sound &= packed not in (last, 0) and flags & _SAME_PACKED == 0
        sound &= flags & _SAME_PACKED == 0 or packed != 0
        state[word + k.L_PACKED] = packed if flags & (_HAS_PACKED | _SAME_PACKED) else 0
        if flags & _HAS_TX:
            at, state[word + k.L_TX] = _get_raw(data, at)
            sound &= state[word + k.L_TX] != 0
        if not sound:
            return -1, 0
        word += k.W_LOG
    return at, before


@njit("Tuple((int64, int64[::1]))(uint8[::1], boolean)", cache=True)
def _decode(data: NDArray[np.uint8], person: bool) -> Any:
    """Position of the end and the state; -1 for what ``_encode`` cannot have written.

    The kernel trusts a state (sorted, counted, of its kind): whatever it relies on for memory safety is checked here.
    """
    size = data.shape[0]
    nothing = np.empty(0, dtype=np.int64)
    header = np.zeros(6, dtype=np.int64)
    at = 2
    for i in range(6):
        at, header[i] = _get_varint(data, at)
    seq, n_log, n_labels, n_seen, n_buckets, total_count = header
    # the least bytes of an entry bound the memory that garbage can ask for
    used = _bytes_with(n_log, 3, 0, size, True)
    used = _bytes_with(n_labels, 9, used, size, True)
    used = _bytes_with(n_seen, 8, used, size, person)
    used = _bytes_with(n_buckets, 4, used, size, not person)
    if at < 0 or used > size or not 0 <= total_count <= seq < _MAX_SEQ:
        return -1, nothing
    state = k._allocate(n_labels, n_seen, n_buckets, n_log + 1)  # noqa: SLF001 - the codec is the kernel's other half
    state[k.H_SEQ], state[k.H_LOG], state[k.H_LABELS] = seq, n_log, n_labels
    state[k.H_SEEN], state[k.H_BUCKETS], state[k.H_TOTAL_COUNT] = n_seen, n_buckets, total_count
    at, state[k.H_TOTAL_SUM] = _get_signed(data, at)
    at, state[k.H_MAX_T] = _get_signed(data, at)
    at, state[k.H_FIRST_T] = _get_signed(data, at)
    at, state[k.H_FOLDED_T] = _get_signed(data, at)
    word, before, applied = k.HEADER, 0, n_log + n_labels
    for i in range(n_labels):
        at, difference = _get_signed(data, at)
        t = before + difference
        if i > 0 and t < before:
            return -1, nothing
        state[word] = before = t
        at, state[word + 1] = _get_raw(data, at)
        word += k.W_LABEL
    for _ in range(n_seen):
        at, state[word] = _get_raw(data, at)
        if state[word] == 0:
            return -1, nothing
        word += k.W_SEEN
    before = 0
    for i in range(n_buckets):
        at, difference = _get_signed(data, at)
        t = before + difference
        if i > 0 and t <= before:
            return -1, nothing
        state[word] = before = t
        at, state[word + 1] = _get_varint(data, at)
        at, state[word + 2] = _get_signed(data, at)
        at, state[word + 3] = _get_varint(data, at)
        for column in (1, 3):
            # what was applied is not more than the number of the log, which also keeps the sum from running over
            if state[word + column] < 0 or state[word + column] > seq - applied:
                return -1, nothing
            applied += state[word + column]
        word += k.W_BUCKET
    at, newest = _decode_log(state, data, at, word, n_log)
    if at < 0 or applied > seq or (n_log > 0 and newest > state[k.H_MAX_T]):
        return -1, nothing
    return at, state


def encode_state(state: NDArray[np.int64], kind: int) -> bytes:
    """Encode an entity's state."""
    out = np.empty(2 + state.size * _MAX_VARINT, dtype=np.uint8)  # no word takes more, the flags of an entry included
    return out[: _encode(state, kind, out)].tobytes()


def decode_state(data: bytes, kind: int) -> NDArray[np.int64]:
    """Decode an entity's state; raises ValueError when it is not one of this kind and version, or is cut short."""
    if len(data) < 2 or data[0] != STATE_VERSION or data[1] != kind:
        raise ValueError(f"not a version {STATE_VERSION} state of a {Kind(kind).name.lower()}: starts with {data[:2].hex() or 'nothing'}")
    # a copy in a bytearray, because the compiled signature takes writable memory
    end, state = _decode(np.frombuffer(bytearray(data), dtype=np.uint8), kind in (Kind.CARD, Kind.USER))
    if end != len(data):
        raise ValueError(f"state of a {Kind(kind).name.lower()} is damaged: {len(data)} bytes")
    return state


@njit("UniTuple(int64, 3)(uint8[::1])", cache=True)
def _position(data: NDArray[np.uint8]) -> tuple[int, int, int]:
    """End of the header's first fields (-1 when it is cut short), number and newest event time."""
    at, seq = _get_varint(data, 2)
    for _ in range(6):  # sizes of the sections, total count, total sum: a signed number is a varint too
        at, _ignored = _get_varint(data, at)
    at, newest = _get_signed(data, at)
    return at, seq, newest


def state_position(data: bytes) -> tuple[int, int]:
    """Read :func:`state_seq` and :func:`state_time_ms` off an encoded state without decoding it; ValueError when it is cut short."""
    end, seq, newest = (
        _position(np.frombuffer(bytearray(data), dtype=np.uint8)) if len(data) > 2 and data[0] == STATE_VERSION else (-1, 0, 0)
    )
    if end < 0:
        raise ValueError(f"not a version {STATE_VERSION} state: starts with {data[:2].hex() or 'nothing'}")
    return seq, 0 if newest == MISSING else newest


def erased_state(seq: int) -> NDArray[np.int64]:
    """State of an entity that was erased by entry ``seq`` of its log: nothing is left but that number, from which the log goes on."""
    state: NDArray[np.int64] = k.empty_state()
    state[k.H_SEQ] = seq
    return state


def state_seq(state: NDArray[np.int64]) -> int:
    """Number of entries applied to the entity: transactions, labels and erasures."""
    return int(state.item(k.H_SEQ))


def state_time_ms(state: NDArray[np.int64]) -> int:
    """Newest event time of the entity, ms UTC; 0 when it has only labels."""
    newest = int(state.item(k.H_MAX_T))
    return 0 if newest == MISSING else newest
