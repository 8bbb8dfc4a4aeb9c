from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from api.limits import Limit, Limiter, Verdict
from api.redis_channel import RedisChannel
from tests.redis_server import RedisServer

T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.kill()


def run(url: str, work: Callable[[RedisChannel], Awaitable[T]]) -> T:
    async def with_redis() -> T:
        redis = RedisChannel(url, 0.5)
        try:
            return await work(redis)
        finally:
            await redis.close()

    return asyncio.run(with_redis())


def limit(key: str, per_window: int, name: str = "tenant") -> Limit:
    return Limit(name, f"limit:{key}", per_window)


async def taken(limiter: Limiter, one: Limit, tries: int) -> int:
    return sum([(await limiter.take([one])).allowed for _ in range(tries)])


def test_a_window_lets_in_what_the_limit_says_and_not_one_more(server: RedisServer) -> None:
    assert run(server.url, lambda redis: taken(Limiter(redis), limit("exact", 50), 80)) == 50


def test_many_processes_at_once_share_one_count(server: RedisServer) -> None:
    async def race(redis: RedisChannel) -> int:
        limiters = [Limiter(redis) for _ in range(5)]
        verdicts = await asyncio.gather(*(limiters[i % 5].take([limit("race", 100)]) for i in range(300)))
        return sum(verdict.allowed for verdict in verdicts)

    assert run(server.url, race) == 100


def test_a_refused_request_takes_from_no_limit(server: RedisServer) -> None:
    async def work(redis: RedisChannel) -> tuple[list[str], int]:
        limiter = Limiter(redis)
        wide, narrow = limit("wide", 100), limit("narrow", 3, "user")
        verdicts = [await limiter.take([wide, narrow]) for _ in range(10)]
        return [verdict.limit.name for verdict in verdicts if not verdict.allowed], await taken(limiter, wide, 200)

    refusing, left = run(server.url, work)
    assert refusing == ["user"] * 7
    assert left == 97


def test_one_tenant_does_not_spend_anothers_limit(server: RedisServer) -> None:
    async def work(redis: RedisChannel) -> list[int]:
        limiter = Limiter(redis)
        return [await taken(limiter, limit("noisy", 20), 200), await taken(limiter, limit("quiet", 20), 20)]

    assert run(server.url, work) == [20, 20]


def test_whoever_waits_as_long_as_told_is_let_in(server: RedisServer) -> None:
    async def work(redis: RedisChannel) -> tuple[Verdict, Verdict, Verdict]:
        limiter = Limiter(redis, window_s=0.6)
        one = limit("wait", 10)
        await taken(limiter, one, 10)
        refused = await limiter.take([one])
        await asyncio.sleep(refused.retry_after_s / 2)
        early = await limiter.take([one])
        await asyncio.sleep(refused.retry_after_s / 2 + 0.01)
        return refused, early, await limiter.take([one])

    refused, early, late = run(server.url, work)
    assert (refused.allowed, early.allowed, late.allowed) == (False, False, True)
    assert 0 < refused.retry_after_s <= 0.66


def test_no_eleven_twelfths_of_a_window_of_any_phase_hold_more_than_the_limit(server: RedisServer) -> None:
    """The oldest bucket leaves while its requests may still be inside; plain windows would let in twice as much."""

    async def work(redis: RedisChannel) -> list[float]:
        limiter, times = Limiter(redis, window_s=0.6), []
        until_s = time.monotonic() + 2.0
        while time.monotonic() < until_s:
            if (await limiter.take([limit("phase", 60)])).allowed:
                times.append(time.monotonic())
            await asyncio.sleep(0.001)
        return times

    times = run(server.url, work)
    most = max(sum(start <= other < start + 0.53 for other in times) for start in times)  # 0.55, and what the clocks differ
    assert most <= 60
    assert len(times) >= 150  # three windows and more went by, none of them starved


def test_a_batch_costs_what_it_holds(server: RedisServer) -> None:
    async def work(redis: RedisChannel) -> list[bool]:
        limiter = Limiter(redis)
        return [(await limiter.take([limit("batch", 100)], cost)).allowed for cost in (60, 41, 40, 1)]

    assert run(server.url, work) == [True, False, True, False]


def test_a_cost_above_the_limit_is_refused_and_says_when_to_come_again(server: RedisServer) -> None:
    verdict = run(server.url, lambda redis: Limiter(redis).take([limit("huge", 10)], 11))
    assert not verdict.allowed
    assert int(verdict.headers["Retry-After"]) >= 1


def test_headers_tell_the_nearest_limit(server: RedisServer) -> None:
    verdict = run(server.url, lambda redis: Limiter(redis).take([limit("a", 100), limit("b", 5, "user")]))
    assert verdict.headers == {"RateLimit-Policy": '"user";q=5;w=60', "RateLimit": '"user";r=4;t=60'}


def test_keys_go_away_by_themselves(server: RedisServer) -> None:
    async def work(redis: RedisChannel) -> int:
        limiter = Limiter(redis, window_s=0.6)
        await limiter.take([limit("short", 5)])
        return int((await redis.call([("PTTL", "limit:short")]))[0])

    assert 0 < run(server.url, work) <= 700


def test_without_redis_requests_go_on_under_a_limit_of_the_process_alone() -> None:
    """The ladder: scoring goes on, and no tenant may do what it likes meanwhile."""

    async def work(redis: RedisChannel) -> tuple[int, bool, float]:
        limiter = Limiter(redis)
        first = await limiter.take([limit("away", 30)])
        began_s = time.perf_counter()
        more = await taken(limiter, limit("away", 30), 50)
        return more + first.allowed, limiter.is_local, time.perf_counter() - began_s

    allowed, is_local, seconds = run("redis://127.0.0.1:1/0", work)
    assert (allowed, is_local) == (30, True)
    assert seconds < 0.5  # a dead Redis is asked once, not fifty times


def test_a_redis_that_goes_away_opens_no_second_allowance(tmp_path: Path) -> None:
    """What the process has let in before counts on while it counts alone."""
    server = RedisServer(tmp_path)
    server.start()

    async def work(redis: RedisChannel) -> tuple[int, int]:
        limiter = Limiter(redis)
        one = limit("lost", 50)
        before = await taken(limiter, one, 30)
        server.kill()
        return before, await taken(limiter, one, 60)

    assert run(server.url, work) == (30, 20)


def test_the_shared_count_is_back_as_soon_as_redis_is(tmp_path: Path) -> None:
    redis_server = RedisServer(tmp_path)
    redis_server.start()
    try:

        async def work(redis: RedisChannel) -> list[bool]:
            now_s = [0.0]
            limiter, seen = Limiter(redis, clock=lambda: now_s[0]), []
            await limiter.take([limit("back", 5)])
            seen.append(limiter.is_local)
            redis_server.kill()
            seen.append((await limiter.take([limit("back", 5)])).allowed and limiter.is_local)
            redis_server.start()
            now_s[0] = 1.0
            seen.append(await taken(limiter, limit("back", 5), 9) == 5 and not limiter.is_local)
            return seen

        assert run(redis_server.url, work) == [False, True, True]
    finally:
        redis_server.kill()
