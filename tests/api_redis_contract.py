"""What the scoring path relies on of Redis: one suite, held by the dictionary of the unit tests and by the real server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from api.idempotency import FINISH_SCRIPT, Claim, Claims, Standing
from api.redis_channel import Redis
from serving.feast_layout import FEATURE_FIELDS, EntityKeys
from serving.redis_link import ScriptMissing
from tests.scoring_world import SECRET

CLAIMS = Claims(SECRET)
_numbers = itertools.count()


def new_claim(content: bytes = b"a", *, transaction: str | None = None, key: str | None = None) -> Claim:
    return CLAIMS.claim("acme", transaction or f"t-{next(_numbers)}", content, key)


class RedisContract:
    """A subclass brings ``connect``, which makes a connection for the running loop."""

    @pytest.fixture
    def connect(self) -> Callable[[], Redis]:
        raise NotImplementedError

    def run(self, connect: Callable[[], Redis], scenario: Callable[[Redis], Awaitable[None]]) -> None:
        async def with_redis() -> None:
            await scenario(connect())

        asyncio.run(with_redis())

    def test_the_first_claim_of_a_transaction_is_ours_and_the_second_waits(self, connect: Callable[[], Redis]) -> None:
        async def scenario(redis: Redis) -> None:
            first = new_claim(transaction="same")
            second = new_claim(transaction="same")
            assert (await take(redis, first)).standing is Standing.OURS
            assert (await take(redis, second)).standing is Standing.IN_PROGRESS
            await finish(redis, first, None)

        self.run(connect, scenario)

    def test_an_answer_is_given_again_byte_for_byte(self, connect: Callable[[], Redis]) -> None:
        async def scenario(redis: Redis) -> None:
            first = new_claim()
            await take(redis, first)
            answer = b'{"answer": 1}\x00\r\n\xff'
            assert await finish(redis, first, answer) is None
            claimed = await take(redis, again(first))
            assert (claimed.standing, claimed.answer) == (Standing.ANSWERED, answer)

        self.run(connect, scenario)

    def test_other_content_under_one_transaction_is_told_apart_before_and_after_the_answer(self, connect: Callable[[], Redis]) -> None:
        async def scenario(redis: Redis) -> None:
            first = new_claim(b"a", transaction="contested")
            other = new_claim(b"b", transaction="contested")
            await take(redis, first)
            assert (await take(redis, other)).standing is Standing.OTHER_CONTENT
            await finish(redis, first, b"1")
            assert (await take(redis, other)).standing is Standing.OTHER_CONTENT

        self.run(connect, scenario)

    def test_one_key_of_the_callers_stands_for_one_question(self, connect: Callable[[], Redis]) -> None:
        async def scenario(redis: Redis) -> None:
            assert (await take(redis, new_claim(b"a", key="k"))).standing is Standing.OURS
            assert (await take(redis, new_claim(b"b", key="k"))).standing is Standing.OTHER_CONTENT
            assert (await take(redis, new_claim(b"b", key="other"))).standing is Standing.OURS

        self.run(connect, scenario)

    def test_a_claim_that_was_given_back_is_free_and_one_of_others_is_not(self, connect: Callable[[], Redis]) -> None:
        async def scenario(redis: Redis) -> None:
            mine, others = new_claim(), new_claim()
            await take(redis, mine)
            await take(redis, others)
            await finish(redis, mine, None)
            await finish(redis, again(others), None)  # the same transaction, another request: not its claim
            assert (await take(redis, again(mine))).standing is Standing.OURS
            assert (await take(redis, again(others))).standing is Standing.IN_PROGRESS

        self.run(connect, scenario)

    def test_the_first_of_two_answers_counts(self, connect: Callable[[], Redis]) -> None:
        """A lease that runs out lets two requests answer one question; both callers must hear the same."""

        async def scenario(redis: Redis) -> None:
            slow = new_claim()
            quick = again(slow)
            assert await finish(redis, quick, b"first") is None
            assert await finish(redis, slow, b"second") == b"first"

        self.run(connect, scenario)

    def test_a_state_that_is_not_there_is_three_times_nothing(self, connect: Callable[[], Redis]) -> None:
        async def scenario(redis: Redis) -> None:
            key = EntityKeys("fraudguard").encode(0, "acme|nobody")
            assert await redis.call([("HMGET", key, *FEATURE_FIELDS[0])]) == [[None, None, None]]

        self.run(connect, scenario)


def again(claim: Claim) -> Claim:
    """The same question by another request."""
    return Claim(claim.record, claim.fingerprint, claim.pending[:-1] + bytes([claim.pending[-1] ^ 1]), claim.key_record)


async def take(redis: Redis, claim: Claim) -> Any:
    return CLAIMS.read(claim, await redis.call(CLAIMS.take(claim)))


async def finish(redis: Redis, claim: Claim, answer: bytes | None) -> bytes | None:
    command = CLAIMS.give_back(claim) if answer is None else CLAIMS.finish(claim, answer)
    try:
        (reply,) = await redis.call([command])
    except ScriptMissing:
        _, reply = await redis.call([("SCRIPT", "LOAD", FINISH_SCRIPT), command])
    return CLAIMS.standing_answer(reply if isinstance(reply, bytes) else None)
