"""Open-loop HTTP load from a process of its own, each answer's latency counted from when its request was due.

A bare HTTP/1.1 client over kept-alive connections: requests are written as bytes that were made before the clock started, and of an
answer only the status, one header and the length are read, so that the load costs the machine little.  A request that finds no free
connection waits for one, and its wait counts (see ``infra.load`` on coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HttpLoad", "HttpMeasured", "request_bytes", "send"]

_LENGTH = b"content-length:"
_TIMING = b"server-timing: features;dur="
_SLACK_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpLoad:
    """Whole requests in the order of sending."""

    host: str
    port: int
    requests: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class HttpMeasured:
    """What a load met: ``latency_s`` and ``features_s`` float64[N] in the order of sending, NaN without answer; answers by status.

    A server that does not say what its features took has NaN there.
    """

    latency_s: NDArray[np.float64]
    features_s: NDArray[np.float64]
    statuses: Counter[int]
    seconds: float


def request_bytes(path: str, body: bytes, headers: dict[str, str], host: str) -> bytes:
    """A POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send(load: HttpLoad, *, rate: float, connections: int = 64) -> HttpMeasured:
    """Send a load at ``rate`` requests/s; blocks until every request is answered, or ten seconds after the last was due."""
    return asyncio.run(_Sender(load, rate, connections).run())


class _Sender:
    def __init__(self, load: HttpLoad, rate: float, connections: int) -> None:
        count = len(load.requests)
        self._load = load
        self._due_s = np.arange(count) / rate
        self._latency_s = np.full(count, np.nan)
        self._features_s = np.full(count, np.nan)
        self._statuses: Counter[int] = Counter()
        self._connections = connections
        self._next = 0
        self._begin_s = 0.0
        self._last_s = 0.0

    async def run(self) -> HttpMeasured:
        open_ = [asyncio.open_connection(self._load.host, self._load.port) for _ in range(self._connections)]
        streams = await asyncio.gather(*open_)
        self._begin_s = time.perf_counter()
        workers = [asyncio.create_task(self._work(reader, writer)) for reader, writer in streams]
        _, late = await asyncio.wait(workers, timeout=float(self._due_s[-1]) + _SLACK_S)
        for worker in late:
            worker.cancel()
        for end in await asyncio.gather(*workers, return_exceptions=True):
            # a connection that ends leaves no answer, which is counted
            if isinstance(end, Exception) and not isinstance(end, (OSError, EOFError)):
                raise end
        for _, writer in streams:
            writer.close()
        return HttpMeasured(self._latency_s, self._features_s, self._statuses, self._last_s)

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the next request that nobody has, wait until it is due, send it and read its answer; until none is left."""
        requests, due_s = self._load.requests, self._due_s
        while self._next < len(requests):
            place, self._next = self._next, self._next + 1
            wait_s = due_s[place] - (time.perf_counter() - self._begin_s)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            writer.write(requests[place])
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(_after(head, _LENGTH)))
            self._last_s = time.perf_counter() - self._begin_s
            self._latency_s[place] = self._last_s - due_s[place]
            status = int(head[9:12])
            self._statuses[status] += 1
            if status == 200 and _TIMING in head.lower():
                self._features_s[place] = float(_after(head, _TIMING).partition(b",")[0]) / 1e3


def _after(head: bytes, name: bytes) -> bytes:
    """What follows ``name`` on its line."""
    start = head.lower().index(name) + len(name)
    return head[start : head.index(b"\r\n", start)].strip()
