"""Bodies as clients compress them: ``Content-Encoding`` of what they send, ``Accept-Encoding`` of what they get.

A few bytes can become gigabytes: who may send compressed bodies is decided by the caller, who counts what comes out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import lz4.frame
import zstandard

from analytics.statements import ClickHouseError

__all__ = ["Compressor", "Decompressor", "compressor", "decompressor", "negotiated"]

_GZIP, _ZLIB = 31, 15  # zlib's window sizes by container
_PREFERRED = ("zstd", "lz4", "gzip", "deflate")


class Decompressor(Protocol):
    """Gives back what was compressed, piece by piece."""

    def decompress(self, data: bytes, /) -> bytes: ...


class _Frame(Protocol):
    """One frame of a stream; each decoder of the libraries is one."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Frames:
    """Frames one after the other: clickhouse-connect makes each block of an insert a frame of its own."""

    def __init__(self, new: Callable[[], Any]) -> None:
        self._new = new
        self._frame: _Frame = new()

    def decompress(self, data: bytes, /) -> bytes:
        plain = b""
        while data:
            if self._frame.eof:
                self._frame = self._new()
            plain += self._frame.decompress(data)
            data = (self._frame.unused_data or b"") if self._frame.eof else b""
        return plain


class Compressor(Protocol):
    """Takes pieces; ``finish`` gives what is left."""

    def compress(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class _Plain:
    def decompress(self, data: bytes, /) -> bytes:
        return data

    def compress(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Zlib:
    def __init__(self, window: int) -> None:
        self._stream = zlib.compressobj(level=1, wbits=window)

    def compress(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def finish(self) -> bytes:
        return self._stream.flush()


class _Zstd:
    def __init__(self) -> None:
        self._stream = zstandard.ZstdCompressor(level=1).compressobj()

    def compress(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def finish(self) -> bytes:
        return self._stream.flush()


class _Lz4:
    def __init__(self) -> None:
        self._stream = lz4.frame.LZ4FrameCompressor()
        self._begun = False

    def compress(self, data: bytes) -> bytes:
        return self._begin() + bytes(self._stream.compress(data))

    def finish(self) -> bytes:
        return self._begin() + bytes(self._stream.flush())

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return bytes(self._stream.begin())


def decompressor(encoding: str) -> Decompressor:
    """For a ``Content-Encoding``; raises ClickHouseError for one that is not known."""
    match encoding.strip().lower():
        case "" | "identity":
            return _Plain()
        case "gzip":
            return _Frames(lambda: zlib.decompressobj(_GZIP))
        case "deflate":
            return _Frames(lambda: zlib.decompressobj(_ZLIB))
        case "zstd":
            return _Frames(lambda: zstandard.ZstdDecompressor().decompressobj())
        case "lz4":
            return _Frames(lz4.frame.LZ4FrameDecompressor)
    raise ClickHouseError(48, "NOT_IMPLEMENTED", f"Unknown compression method: {encoding}")


def negotiated(accepted: str) -> str:
    """The encoding to answer with, empty for none, of what an ``Accept-Encoding`` offers."""
    offered = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
    return next((name for name in _PREFERRED if name in offered), "")


def compressor(encoding: str) -> Compressor:
    """For an encoding of :func:`negotiated`."""
    match encoding:
        case "zstd":
            return _Zstd()
        case "lz4":
            return _Lz4()
        case "gzip":
            return _Zlib(_GZIP)
        case "deflate":
            return _Zlib(_ZLIB)
    return _Plain()
