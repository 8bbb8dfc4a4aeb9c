"""The compiled loops of :mod:`serving.avro_columns`: a program run over the bytes of Avro records, and copies out of them.

An instruction is ``(operation, slot, argument, unused)``.  A slot is the first of two words of a line of the table: there go a
number's value, or where a string or a vector begins; then 1, or how long it is.  ``NULL`` in the second word is null, and a slot
of -1 is "not asked for".  ``FIXED`` has its size as argument, ``ENUM`` the number of its symbols, ``NULLABLE`` and ``ARRAY`` the
instruction behind what they hold, ``NEXT`` the first one of an item.

Every read is bounded by its record.  This module must not know a schema.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["gather", "gather_vectors", "walk"]

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

FIXED, STRING, BYTES, LONG, INT, BOOLEAN, ENUM, DOUBLE, NULLABLE, DOUBLES, ARRAY, NEXT = range(12)
NULL = -1


@njit("Tuple((int64, int64))(uint8[::1], int64, int64)", cache=True, nogil=True)
def _varint(data: Bytes, p: int, end: int) -> tuple[int, int]:
    """The 64 bits of the number at ``p``, and the position behind it: -1 when it is cut short or too long."""
    value = 0
    shift = 0
    while p < end and shift < 64:
        byte = np.int64(data[p])
        p += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if shift == 63 and byte > 1:
                return 0, -1
            return value, p
        shift += 7
    return 0, -1


@njit("boolean(uint8[::1], int64, int64)", cache=True, nogil=True)
def _is_utf8(data: Bytes, p: int, end: int) -> bool:
    """Whether the bytes are UTF-8 (RFC 3629, section 4): nothing overlong, no surrogates, nothing above U+10FFFF."""
    every = np.uint8(0)
    for i in range(p, end):
        every |= data[i]
    if every < 128:
        return True
    while p < end:
        first = data[p]
        p += 1
        if first < 0x80:
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if p + more > end:
            return False
        low, high = 0x80, 0xBF
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
        elif first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
        if data[p] < low or data[p] > high:
            return False
        for i in range(p + 1, p + more):
            if data[i] < 0x80 or data[i] > 0xBF:
                return False
        p += more
    return True


@njit(
    "Tuple((int64, int64))(uint8[::1], int64[::1], int64[::1], int64[:, ::1], int64[:, ::1], int64[:, ::1])",
    cache=True,
    nogil=True,
    boundscheck=False,
)
def walk(data: Bytes, starts: Ints, ends: Ints, program: Ints, rows: Ints, items: Ints) -> tuple[int, int]:
    """Run the program over each record, into ``rows`` and, for fields of array items, the lines of ``items``.

    Returns:
        How many records were refused, and how many lines of ``items`` were taken; -1 lines when there are too few of them.
    """
    refused = 0
    line = 0
    table = rows
    for record in range(starts.shape[0]):
        p, end = starts[record], ends[record]
        pc = 0
        left = 0  # items of the array in hand
        counted = False  # whether they are written down
        table, at = rows, record
        while pc < program.shape[0]:
            operation, slot = program[pc, 0], program[pc, 1]
            pc += 1
            if operation in (STRING, BYTES):
                raw, p = _varint(data, p, end)
                if p < 0 or raw & 1:
                    p = -1
                    break
                length = (raw >> 1) & 0x7FFFFFFFFFFFFFFF
                if length > end - p or (operation == STRING and not _is_utf8(data, p, p + length)):
                    p = -1
                    break
                if slot >= 0:
                    table[at, slot] = p
                    table[at, slot + 1] = length
                p += length
            elif operation == NULLABLE:
                if p >= end or (data[p] != 0 and data[p] != 2):
                    p = -1
                    break
                if data[p] == 0:
                    if slot >= 0:
                        table[at, slot] = 0
                        table[at, slot + 1] = NULL
                    pc = program[pc - 1, 2]
                p += 1
            elif operation in (LONG, INT):
                raw, p = _varint(data, p, end)
                if p < 0 or (operation == INT and (raw < 0 or raw >> 32)):
                    p = -1
                    break
                if slot >= 0:
                    table[at, slot] = ((raw >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(raw & 1)
                    table[at, slot + 1] = 1
            elif operation == DOUBLE:
                if end - p < 8:
                    p = -1
                    break
                bits = np.int64(0)
                for i in range(8):
                    bits |= np.int64(data[p + i]) << (8 * i)
                if slot >= 0:
                    table[at, slot] = bits
                    table[at, slot + 1] = 1
                p += 8
            elif operation == FIXED:
                if program[pc - 1, 2] > end - p:
                    p = -1
                    break
                p += program[pc - 1, 2]
            elif operation in (BOOLEAN, ENUM):
                # false and true are 0 and 1; symbol i is the byte 2 i
                scale, count = (1, 2) if operation == BOOLEAN else (2, program[pc - 1, 2])
                if p >= end or data[p] % scale or data[p] >= scale * count:
                    p = -1
                    break
                if slot >= 0:
                    table[at, slot] = np.int64(data[p]) // scale
                    table[at, slot + 1] = 1
                p += 1
            elif operation == NEXT:
                left -= 1
                if counted:
                    line += 1
                    at = line
                if left:
                    pc = program[pc - 1, 2]
                else:
                    table, at = rows, record
                    if p >= end or data[p] != 0:
                        p = -1
                        break
                    p += 1
            else:  # DOUBLES, ARRAY: one block, or none
                raw, p = _varint(data, p, end)
                if p < 0 or raw & 1:
                    p = -1
                    break
                count = (raw >> 1) & 0x7FFFFFFFFFFFFFFF
                # every item has a byte or more, a double has eight
                if count > ((end - p) >> 3 if operation == DOUBLES else end - p):
                    p = -1
                    break
                if slot >= 0:
                    table[at, slot] = p if operation == DOUBLES else line
                    table[at, slot + 1] = count
                if operation == DOUBLES:
                    p += 8 * count
                    if count:
                        if p >= end or data[p] != 0:
                            p = -1
                            break
                        p += 1
                elif count == 0:
                    pc = program[pc - 1, 2]
                else:
                    left, counted = count, slot >= 0
                    if counted:
                        if line + count > items.shape[0]:
                            return 0, -1
                        table, at = items, line
        if p != end:
            refused += 1
    return refused, line


@njit("void(uint8[::1], int64[:, ::1], int64, int64[::1], uint8[::1])", cache=True, nogil=True)
def gather(data: Bytes, lines: Ints, slot: int, offsets: Ints, out: Bytes) -> None:
    """Copy the bytes that each line's slot points to, one after the other, to ``offsets`` of ``out``."""
    for i in range(lines.shape[0]):
        start, to = lines[i, slot], offsets[i]
        for k in range(offsets[i + 1] - to):
            out[to + k] = data[start + k]


@njit("void(uint8[::1], int64[:, ::1], int64, uint8[:, ::1])", cache=True, nogil=True)
def gather_vectors(data: Bytes, lines: Ints, slot: int, out: Bytes) -> None:
    """Copy each line's vector to its row of ``out``, which has its bytes, where it has as many."""
    for i in range(lines.shape[0]):
        if 8 * lines[i, slot + 1] == out.shape[1]:
            start = lines[i, slot]
            out[i, :] = data[start : start + out.shape[1]]  # a slice is copied as one, three times as fast as byte after byte
