"""A TCP proxy that can be made a bad network: the eight toxics of toxiproxy, switched while connections are open.

It runs an event loop on a thread of its own, so that a test can stop and start toxics between two lines.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_CHUNK = 16_384
_LINGER_RESET = struct.pack("ii", 1, 0)  # close sends RST instead of FIN


@dataclass
class Toxics:
    """What is wrong with the network; the defaults are nothing."""

    down: bool = False  # connections are refused, open ones ended
    latency_s: float = 0.0
    bandwidth_bytes_per_s: float = 0.0
    slow_close_s: float = 0.0
    timeout: bool = False  # data goes nowhere, connections stay open
    reset_peer: bool = False  # the next byte resets the connection
    slicer_bytes: int = 0
    limit_bytes: int = 0  # a connection ends after so many


class Proxy:
    """Forwards a free port of the loopback interface to another; ``toxics`` apply to all connections, in both directions."""

    def __init__(self, target_port: int) -> None:
        self.toxics = Toxics()
        self.port = 0
        self._target_port = target_port
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._do(self._listen())

    @contextmanager
    def with_toxics(self, **toxics: bool | float) -> Iterator[None]:
        """These toxics for the length of the block."""
        self.toxics = Toxics(**toxics)  # type: ignore[arg-type]
        if self.toxics.down:
            self._do(self._hang_up())
        try:
            yield
        finally:
            down, self.toxics = self.toxics.down, Toxics()
            if down:
                self._do(self._listen())

    def close(self) -> None:
        self._do(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def _do(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(10.0)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        """Close the listening socket, so that the system itself refuses, and what is open."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        self._open |= {writer, there_writer}
        try:
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        finally:
            await asyncio.sleep(self.toxics.slow_close_s)
            for end in (writer, there_writer):
                self._open.discard(end)
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with suppress(OSError):
            while data := await reader.read(self.toxics.slicer_bytes or _CHUNK):
                toxics = self.toxics
                if toxics.reset_peer:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                    writer.transport.abort()
                    return
                while self.toxics.timeout:  # noqa: ASYNC110 - switched by another thread
                    await asyncio.sleep(0.05)
                pause_s = toxics.latency_s + (len(data) / toxics.bandwidth_bytes_per_s if toxics.bandwidth_bytes_per_s else 0.0)
                if pause_s:
                    await asyncio.sleep(pause_s)
                passed += len(data)
                if toxics.limit_bytes and passed > toxics.limit_bytes:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()
