"""The dictionary that stands in for Redis in unit tests keeps the promises of the real one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from api.redis_channel import Redis
from tests.api_redis_contract import RedisContract
from tests.scoring_world import FakeRedis


class TestFake(RedisContract):
    @pytest.fixture
    def connect(self) -> Callable[[], Redis]:
        return FakeRedis
