"""Variable-length numbers of up to 64 bits, seven bits a byte, as Avro and Protocol Buffers write them."""

from __future__ import annotations

from fraud.errors import InvalidEvent

__all__ = ["read_varint", "write_varint"]

_MAX_BYTES = 10


def read_varint(buf: bytes, p: int) -> tuple[int, int]:
    """Unsigned value of the variable-length number at ``p``, and the position behind it; InvalidEvent for more than 64 bits."""
    value = shift = 0
    for _ in range(_MAX_BYTES):
        byte = buf[p]
        p += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, p
        shift += 7
    raise InvalidEvent("malformed", "a number of more than 64 bits")


def write_varint(value: int) -> bytes:
    """Encode an unsigned number of 0 to 64 bits."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
