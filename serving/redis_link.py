"""One round trip to Redis for many commands: packed by hiredis, sent at once, replies read in order, failures named.

redis-py's pipeline spends more time on bookkeeping than Redis on the work; its connections are kept for what they know about
addresses, TLS and logins.  Nothing here knows keys or values.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

from fraud.errors import Unavailable

__all__ = ["Command", "RedisLink", "ScriptMissing", "pack"]

Command = tuple[bytes | str | int, ...]
DEPENDENCY = "redis"


class ScriptMissing(Unavailable):
    """Redis does not know the script: it was restarted or flushed since the script was loaded."""


def pack(commands: Sequence[Command]) -> bytes:
    """Commands as they are sent, one behind the other."""
    return b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub knows one-tuples only


class RedisLink:
    """Connections to one Redis, as many as there are callers at the same moment; safe to share between threads.

    Args:
        url: ``redis[s]://[user[:password]@]host[:port][/db]``.
        timeout_s: the longest that connecting, sending, or waiting for the next part of an answer may take.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._pool = ConnectionPool.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            # the caller decides whether to try again; names of this library are not worth a round trip
            retry=Retry(NoBackoff(), 0),
            lib_name=None,
            lib_version=None,
        )
        self._idle: deque[Any] = deque()

    def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands in one piece and return one reply each.

        A connection that turns out to be dead although it worked before (a restarted Redis) is replaced once.

        Raises:
            ScriptMissing: an EVALSHA came back with NOSCRIPT.
            Unavailable: no connection, no answer in time, or Redis refused a command.
        """
        packed = pack(commands)
        while True:
            connection, is_used = self._take()
            try:
                replies = self._exchange(connection, packed, len(commands))
            except (exceptions.RedisError, OSError) as error:
                connection.disconnect()
                if is_used and isinstance(error, exceptions.ConnectionError):
                    self.close()  # its sisters are as old: the next attempt dials
                    continue
                raise Unavailable(DEPENDENCY, type(error).__name__) from error
            self._idle.append(connection)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise _named(reply) from reply
            return replies

    def close(self) -> None:
        """Close the connections that nobody is using."""
        while self._idle:
            self._idle.pop().disconnect()

    def _take(self) -> tuple[Any, bool]:
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._pool.make_connection(), False

    @staticmethod
    def _exchange(connection: Any, packed: bytes, count: int) -> list[Any]:
        connection.connect()  # returns at once where it is connected
        connection.send_packed_command([packed], check_health=False)
        replies: list[Any] = []
        for _ in range(count):
            try:
                replies.append(connection.read_response())
            except exceptions.ResponseError as error:
                replies.append(error)  # the other replies still have to be read, or they answer the next caller
        return replies


def _named(error: Exception) -> Unavailable:
    if isinstance(error, exceptions.NoScriptError):
        return ScriptMissing(DEPENDENCY, "NOSCRIPT")
    return Unavailable(DEPENDENCY, str(error).partition(" ")[0])
