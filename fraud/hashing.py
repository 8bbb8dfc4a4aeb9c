"""``hash64`` of many strings at once, without a Python object or the interpreter's lock for any of them.

BLAKE2b with a digest of 8 bytes and no key, after RFC 7693; a test holds it to ``fraud.events.hash64``, which is hashlib's.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["hash64_many"]

_BLOCK_BYTES = 128
_ROUNDS = 12
# RFC 7693, section 2.6 and appendix C.2: the first words of SHA-512 as starting values.
_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    dtype=np.uint64,
)
# digest of 8 bytes, no key, fanout and depth 1: section 2.5
_PARAMETERS = np.uint64(0x01010000 | 8)
# section 2.7: a row a round, and then from the first one again
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    dtype=np.int64,
)


@njit("void(uint64[::1], int64, int64, int64, int64, uint64, uint64)", cache=True, nogil=True)
def _mix(v: NDArray[np.uint64], a: int, b: int, c: int, d: int, x: int, y: int) -> None:
    v[a] = v[a] + v[b] + x
    w = v[d] ^ v[a]
    v[d] = (w >> np.uint64(32)) | (w << np.uint64(32))
    v[c] = v[c] + v[d]
    w = v[b] ^ v[c]
    v[b] = (w >> np.uint64(24)) | (w << np.uint64(40))
    v[a] = v[a] + v[b] + y
    w = v[d] ^ v[a]
    v[d] = (w >> np.uint64(16)) | (w << np.uint64(48))
    v[c] = v[c] + v[d]
    w = v[b] ^ v[c]
    v[b] = (w >> np.uint64(63)) | (w << np.uint64(1))


@njit("int64[::1](uint8[::1], int64[::1])", cache=True, nogil=True)
def hash64_many(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hash the strings ``data[offsets[i]:offsets[i + 1]]`` (UTF-8); ``int64[N]``, never 0."""
    count = offsets.shape[0] - 1
    hashes = np.empty(count, dtype=np.int64)
    h = np.empty(8, dtype=np.uint64)
    v = np.empty(16, dtype=np.uint64)
    m = np.empty(16, dtype=np.uint64)
    for i in range(count):
        start, end = offsets[i], offsets[i + 1]
        h[:] = _IV
        h[0] ^= _PARAMETERS
        at = start
        while True:
            taken = min(end - at, _BLOCK_BYTES)
            m[:] = np.uint64(0)
            for j in range(taken):
                m[j >> 3] |= np.uint64(data[at + j]) << np.uint64(8 * (j & 7))
            at += taken
            last = at >= end
            v[:8] = h
            v[8:] = _IV
            v[12] ^= np.uint64(at - start)
            if last:
                v[14] = ~v[14]
            for r in range(_ROUNDS):
                s = _SIGMA[r % 10]
                _mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
                _mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
                _mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
                _mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
                _mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
                _mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
                _mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
                _mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
            for j in range(8):
                h[j] ^= v[j] ^ v[j + 8]
            if last:
                break
        value = np.int64(h[0])
        hashes[i] = value if value != 0 else 1
    return hashes
