"""How much a tenant, a user and an address may ask for: sliding windows of a minute, counted in Redis for all API processes.

A window is thirteen buckets of five seconds; the oldest counts by the share of it that is still inside, so the limit
holds strictly for any 55 seconds, and on average for a minute.  One script call takes from all limits of a request, or from none.

Without Redis scoring must go on (the degraded ladder), and so must the limits: each process then counts by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from math import ceil
from typing import cast

from api.redis_channel import Redis
from fraud.errors import Unavailable
from serving.redis_link import Command, ScriptMissing

__all__ = ["Limit", "Limiter", "Verdict"]

_BUCKETS = 12
_HOLD_OFF_S = 1.0  # after a failure Redis is left alone: a dead one must not cost every request its timeout
_LOCAL_KEYS = 50_000

# KEYS: one hash a limit, bucket number to count. ARGV: bucket length in microseconds, cost, then each limit.
# Returns, for each limit: what is left, and the microseconds until one more would be let in (0: now). Redis' own clock, so
# that all processes agree.
_SCRIPT = f"""
local now = redis.call("TIME")
local now_us = tonumber(now[1]) * 1000000 + tonumber(now[2])
local length, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local current = math.floor(now_us / length)
local oldest = current - {_BUCKETS}
local inside = 1 - (now_us - current * length) / length
local answer, refused = {{}}, false
for i, key in ipairs(KEYS) do
  local limit = tonumber(ARGV[2 + i])
  local counts, used = {{}}, 0
  local flat = redis.call("HGETALL", key)
  for j = 1, #flat, 2 do
    local bucket = tonumber(flat[j])
    if bucket < oldest then
      redis.call("HDEL", key, flat[j])
    else
      counts[bucket] = tonumber(flat[j + 1])
      used = used + counts[bucket] * (bucket == oldest and inside or 1)
    end
  end
  local over, wait = used + cost - limit, 0
  if over > 0 then
    refused = true
    local bucket = oldest
    while over > 0 and bucket <= current do
      local share = bucket == oldest and inside or 1
      local held = (counts[bucket] or 0) * share
      if held >= over then wait = wait + length * share * over / held else wait = wait + length * share end
      over = over - held
      bucket = bucket + 1
    end
  end
  answer[2 * i - 1] = math.max(0, math.floor(limit - used))
  answer[2 * i] = math.ceil(wait)
end
if not refused then
  for i, key in ipairs(KEYS) do
    redis.call("HINCRBY", key, current, cost)
    redis.call("PEXPIRE", key, math.ceil(length * {_BUCKETS + 2} / 1000))
    answer[2 * i - 1] = math.max(0, answer[2 * i - 1] - cost)
  end
end
return answer
"""


_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Limit:
    """``per_window`` requests for whatever ``key`` names; ``name`` is what the caller is told."""

    name: str
    key: str
    per_window: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may go on, and what the caller is told of the limit that is nearest."""

    allowed: bool
    limit: Limit
    remaining: int
    retry_after_s: float
    window_s: float

    @property
    def headers(self) -> dict[str, str]:
        """``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers), and ``Retry-After`` of a refusal."""
        wait_s = ceil(self.retry_after_s)
        told = {
            "RateLimit-Policy": f'"{self.limit.name}";q={self.limit.per_window};w={ceil(self.window_s)}',
            "RateLimit": f'"{self.limit.name}";r={self.remaining};t={wait_s or ceil(self.window_s)}',
        }
        return told if self.allowed else {**told, "Retry-After": str(max(1, wait_s))}


class Limiter:
    """Takes requests from limits; belongs to one event loop.

    Args:
        redis: with a short timeout, since every request waits for it.
        window_s: length of the windows.
        clock: seconds, of the counting without Redis.
    """

    def __init__(self, redis: Redis, *, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._window_s = window_s
        self._clock = clock
        self._away_until_s = 0.0
        self._local = _LocalCounts(window_s)

    async def take(self, limits: Sequence[Limit], cost: int = 1) -> Verdict:
        """Take ``cost`` from all limits if each has it, else from none."""
        now_s = self._clock()
        if now_s >= self._away_until_s:
            try:
                verdict = self._verdict(limits, await self._count(limits, cost))
            except Unavailable:
                self._away_until_s = now_s + _HOLD_OFF_S
            else:
                if verdict.allowed:
                    self._local.count(limits, cost, now_s)  # if Redis goes away now, this process goes on from what it has let in
                return verdict
        return self._verdict(limits, self._local.count(limits, cost, now_s))

    @property
    def is_local(self) -> bool:
        """Whether this process counts by itself, because Redis did not answer."""
        return self._clock() < self._away_until_s

    async def _count(self, limits: Sequence[Limit], cost: int) -> list[int]:
        bucket_us = round(self._window_s * 1e6 / _BUCKETS)
        keys, quotas = [limit.key for limit in limits], [limit.per_window for limit in limits]
        command: Command = ("EVALSHA", _SHA, len(keys), *keys, bucket_us, cost, *quotas)
        try:
            (answer,) = await self._redis.call([command])
        except ScriptMissing:  # Redis is new, or was restarted
            _, answer = await self._redis.call([("SCRIPT", "LOAD", _SCRIPT), command])
        return cast(list[int], answer)

    def _verdict(self, limits: Sequence[Limit], answer: Sequence[int]) -> Verdict:
        remaining, waits_us = answer[::2], answer[1::2]
        longest = max(range(len(limits)), key=lambda i: (waits_us[i], -remaining[i] / limits[i].per_window))
        return Verdict(waits_us[longest] == 0, limits[longest], remaining[longest], waits_us[longest] / 1e6, self._window_s)


class _LocalCounts:
    """The same question answered by one process alone: plain windows that begin with their first request."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, limits: Sequence[Limit], cost: int, now_s: float) -> list[int]:
        windows = [self._window(limit.key, now_s) for limit in limits]
        is_over = [used + cost > limit.per_window for limit, (_, used) in zip(limits, windows, strict=True)]
        answer = []
        for limit, (began_s, used), over in zip(limits, windows, is_over, strict=True):
            taken = used if any(is_over) else used + cost
            self._windows[limit.key] = (began_s, taken)
            answer += [max(0, limit.per_window - taken), ceil((began_s + self._window_s - now_s) * 1e6) if over else 0]
        return answer

    def _window(self, key: str, now_s: float) -> tuple[float, int]:
        began_s, used = self._windows.get(key, (now_s, 0))
        if now_s - began_s < self._window_s:
            return began_s, used
        if len(self._windows) >= _LOCAL_KEYS:
            self._windows.clear()  # as many addresses as an attacker likes must fill neither memory nor time
        return now_s, 0
