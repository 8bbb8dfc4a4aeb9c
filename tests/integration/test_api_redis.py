"""The API's connection to a real Redis: the promises of the contract, deadlines, and what happens when the server goes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.redis_channel import Redis, RedisChannel
from fraud.errors import Unavailable
from serving.redis_link import Command
from tests.api_redis_contract import RedisContract
from tests.redis_server import RedisServer

TIMEOUT_S = 0.25  # the machine of the tests is shared


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    own = RedisServer(tmp_path_factory.mktemp("redis"))
    own.start()
    yield own
    own.kill()


class TestRealRedis(RedisContract):
    @pytest.fixture
    def connect(self, server: RedisServer) -> Callable[[], Redis]:
        server.client().flushall()
        return lambda: RedisChannel(server.url, TIMEOUT_S)


def test_many_callers_share_one_connection_and_each_gets_its_own_replies(server: RedisServer) -> None:
    async def scenario() -> None:
        channel = RedisChannel(server.url, 5.0)
        batches: list[list[Command]] = [[("ECHO", f"{i}-{j}") for j in range(i % 4 + 1)] for i in range(500)]
        replies = await asyncio.gather(*(channel.call(batch) for batch in batches))
        assert replies == [[str(text).encode() for _, text in batch] for batch in batches]
        (clients,) = await channel.call([("CLIENT", "LIST")])
        assert clients.count(b"cmd=client") == 1
        await channel.close()

    asyncio.run(scenario())


def test_an_error_of_one_command_is_unavailable_and_the_next_call_gets_its_own_reply(server: RedisServer) -> None:
    async def scenario() -> None:
        channel = RedisChannel(server.url, TIMEOUT_S)
        with pytest.raises(Unavailable, match="WRONGTYPE"):
            await channel.call([("SET", "text", "a"), ("HGET", "text", "f"), ("ECHO", "unread")])
        assert await channel.call([("ECHO", "mine")]) == [b"mine"]
        await channel.close()

    asyncio.run(scenario())


def test_a_server_that_does_not_answer_costs_the_deadline_and_no_more(server: RedisServer) -> None:
    async def scenario() -> None:
        channel = RedisChannel(server.url, 0.05)
        await channel.call([("PING",)])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                begun_s = time.perf_counter()
                with pytest.raises(Unavailable):
                    await channel.call([("PING",)])
                assert time.perf_counter() - begun_s < 0.15
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await channel.call([("PING",)]) == [b"PONG"]
        await channel.close()

    asyncio.run(scenario())


def test_a_server_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()

    async def scenario() -> None:
        channel = RedisChannel(server.url, TIMEOUT_S)
        await channel.call([("PING",)])
        server.kill()
        with pytest.raises(Unavailable):
            await channel.call([("PING",)])
        server.start()
        assert await channel.call([("PING",)]) == [b"PONG"]
        await channel.close()

    try:
        asyncio.run(scenario())
    finally:
        server.kill()


def test_a_loop_that_was_late_itself_still_reads_the_answer_that_lies_there(server: RedisServer) -> None:
    """A busy process must not take its own delay for a silent Redis."""

    async def scenario() -> None:
        channel = RedisChannel(server.url, 0.02)
        await channel.call([("PING",)])
        call = asyncio.create_task(channel.call([("PING",)]))
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - the delay in question
        assert await call == [b"PONG"]
        await channel.close()

    asyncio.run(scenario())


def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{probe.getsockname()[1]}/0"

    async def scenario() -> None:
        with pytest.raises(Unavailable):
            await RedisChannel(url, TIMEOUT_S).call([("PING",)])

    asyncio.run(scenario())


def test_a_password_and_a_database_of_the_url_are_used(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()

    async def scenario() -> None:
        server.client().config_set("requirepass", "secret")
        address = f"127.0.0.1:{server.port}"
        with pytest.raises(Unavailable):
            await RedisChannel(f"redis://{address}/0", TIMEOUT_S).call([("PING",)])
        with pytest.raises(Unavailable):
            await RedisChannel(f"redis://:wrong@{address}/0", TIMEOUT_S).call([("PING",)])
        channel = RedisChannel(f"redis://:secret@{address}/3", TIMEOUT_S)
        await channel.call([("SET", "here", "1")])
        (clients,) = await channel.call([("CLIENT", "LIST")])
        assert b" db=3 " in clients
        await channel.close()

    try:
        asyncio.run(scenario())
    finally:
        server.kill()
