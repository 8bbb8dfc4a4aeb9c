"""Redis for an event loop: one connection, any number of callers at the same moment, each with a deadline of its own.

Requests are written as they come and answered in that order, so nobody waits for a free connection and nothing blocks the loop.
redis-py's asyncio client costs ten times as much a call; what it knows about addresses is used.  Nothing here knows keys or values.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, cast

from hiredis import HiredisError, Reader, ReplyError
from redis.connection import SSLConnection, parse_url

from fraud.errors import Unavailable
from serving.redis_link import DEPENDENCY, Command, ScriptMissing, pack

__all__ = ["Redis", "RedisChannel"]

_GRACE_S = 0.002


class Redis(Protocol):
    """What callers need of :class:`RedisChannel`; tests bring a dictionary."""

    async def call(self, commands: Sequence[Command]) -> list[object]: ...


class _Exchange:
    """One call on its way: how many replies it waits for, and those that are there."""

    __slots__ = ("begun_s", "count", "future", "replies")

    def __init__(self, count: int, future: asyncio.Future[list[Any]], begun_s: float) -> None:
        self.count = count
        self.future = future
        self.begun_s = begun_s
        self.replies: list[Any] = []


class _Wire(asyncio.Protocol):
    """One connection: hands replies to the calls in the order in which they were sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reader = Reader()
        self._waiting: deque[_Exchange] = deque()
        self._transport: asyncio.Transport | None = None
        self.heard_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self.heard_s = self._loop.time()
        self._reader.feed(data)
        try:
            while self._waiting:
                exchange = self._waiting[0]
                while len(exchange.replies) < exchange.count:
                    reply = self._reader.gets()
                    if reply is False:  # the rest is still to come
                        return
                    exchange.replies.append(reply)
                self._waiting.popleft()
                if not exchange.future.done():
                    exchange.future.set_result(exchange.replies)
        except HiredisError:
            self.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(Unavailable(DEPENDENCY, "connection lost"))

    def send(self, packed: bytes, count: int) -> _Exchange:
        assert self._transport is not None
        exchange = _Exchange(count, self._loop.create_future(), self._loop.time())
        self._waiting.append(exchange)
        self._transport.write(packed)
        return exchange

    def doubt(self, exchange: _Exchange) -> None:
        """The deadline of a call has come: fail it, unless it was this process that was late and its answer lies here unread."""
        self._loop.call_later(_GRACE_S, self._give_up, exchange)

    def _give_up(self, exchange: _Exchange) -> None:
        if exchange.future.done():
            return
        exchange.future.set_exception(Unavailable(DEPENDENCY, "no answer in time"))
        if self.heard_s < exchange.begun_s:
            self.abort()  # not a word since we asked: the connection may be dead without anybody having said so

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class RedisChannel:
    """Calls to one Redis from one event loop.

    Args:
        url: ``redis[s]://[user[:password]@]host[:port][/db]``.
        timeout_s: the longest that a call may take, connecting included.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        options = parse_url(url)
        self._host: str = options.get("host", "localhost")
        self._port: int = options.get("port", 6379)
        self._tls = ssl.create_default_context() if options.get("connection_class") is SSLConnection else None
        self._greeting = _greeting(options)
        self._timeout_s = timeout_s
        self._wire: _Wire | None = None
        self._dialling: asyncio.Task[_Wire] | None = None

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands in one piece and return one reply each.

        Raises:
            ScriptMissing: an EVALSHA came back with NOSCRIPT.
            Unavailable: no connection, no answer in time, or Redis refused a command.
        """
        wire = self._wire if self._wire is not None and self._wire.is_open else await self._connected()
        replies = await self._exchange(wire, commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise _named(reply)
        return replies

    async def close(self) -> None:
        """Close the connection; calls in flight fail."""
        if self._wire is not None:
            self._wire.abort()
            self._wire = None

    async def _exchange(self, wire: _Wire, commands: Sequence[Command]) -> list[Any]:
        exchange = wire.send(pack(commands), len(commands))
        deadline = asyncio.get_running_loop().call_later(self._timeout_s, wire.doubt, exchange)
        try:
            return await exchange.future
        finally:
            deadline.cancel()

    async def _connected(self) -> _Wire:
        """The connection; callers that come while it is dialled wait for the one attempt."""
        if self._dialling is None or self._dialling.done():
            self._dialling = asyncio.create_task(self._dial())
        return await asyncio.shield(self._dialling)

    async def _dial(self) -> _Wire:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, wire = await loop.create_connection(lambda: _Wire(loop), self._host, self._port, ssl=self._tls)
                if self._greeting:
                    for reply in await self._exchange(wire, self._greeting):
                        if isinstance(reply, ReplyError):
                            raise _named(reply)
        except (OSError, TimeoutError) as error:
            raise Unavailable(DEPENDENCY, type(error).__name__) from error
        self._wire = wire
        return wire


def _greeting(options: dict[str, Any]) -> list[Command]:
    """What a new connection says first: who it is, and which database it wants."""
    greeting: list[Command] = []
    if options.get("password"):
        who = (options["username"],) if options.get("username") else ()
        greeting.append(("AUTH", *who, options["password"]))
    if options.get("db"):
        greeting.append(("SELECT", int(options["db"])))
    return greeting


def _named(error: Exception) -> Unavailable:
    text = str(error)
    return ScriptMissing(DEPENDENCY, "NOSCRIPT") if text.startswith("NOSCRIPT") else Unavailable(DEPENDENCY, text.partition(" ")[0])
