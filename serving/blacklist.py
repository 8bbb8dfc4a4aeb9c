"""Blocked cards, users, merchants, devices and addresses: Redis sets ``blacklist:{tenant}:{kind}``, looked up in memory.

The sets have no expiry and are edited by people (``SADD blacklist:default:card …``).  A lookup costs nothing and never fails:
the sets are copied at most every two seconds, and the last copy serves while Redis is away.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from fraud.errors import Unavailable
from fraud.events import KINDS, Transaction, entity_ids
from serving.redis_link import RedisLink

__all__ = ["Blacklist", "blacklist_key"]

REFRESH_S = 2.0
_NOBODY: frozenset[str] = frozenset()


def blacklist_key(tenant_id: str, kind: str) -> str:
    """Name of the Redis set of a tenant's blocked ids of a kind ("card", "ip", …)."""
    return f"blacklist:{tenant_id}:{kind}"


class Blacklist:
    """The blocked ids of the tenants that were asked for, at most ``refresh_s`` old; safe to share between threads.

    Attributes:
        is_degraded: the last attempt to refresh failed; lookups answer from the copy before it.
    """

    def __init__(self, redis_url: str, *, refresh_s: float = REFRESH_S, timeout_s: float = 0.02) -> None:
        self.is_degraded = False
        self._link = RedisLink(redis_url, timeout_s)
        self._refresh_s = refresh_s
        self._blocked: dict[tuple[str, str], frozenset[str]] = {}
        self._tenants: set[str] = set()
        self._refreshed_s = float("-inf")
        self._refreshing = threading.Lock()  # of two threads the slower one must not put an older copy over the newer one

    def knows(self, tenant_id: str) -> bool:
        """Whether a tenant was asked for before, so that its lists are part of the next copy at the latest."""
        return tenant_id in self._tenants

    def refresh(self, tenant_ids: Iterable[str], now_s: float) -> None:
        """Bring the copies up to date if it is time, or a tenant is new; call once per batch of requests.

        Args:
            tenant_ids: the tenants of the batch; they are refreshed from now on.
            now_s: a clock that never goes back, in seconds.
        """
        with self._refreshing:
            wanted = self._tenants.union(tenant_ids)
            is_due, has_new = now_s - self._refreshed_s >= self._refresh_s, len(wanted) > len(self._tenants)
            self._tenants = wanted
            # A new tenant is fetched at once, unless Redis has just failed: then everyone waits for the next turn.
            if wanted and (is_due or (has_new and not self.is_degraded)):
                self._refreshed_s = now_s
                self._fetch(wanted)

    def contains(self, tenant_id: str, kind: str, entity_id: str | None) -> bool:
        """Whether the id is blocked, as of the last copy; False for ``None`` and for a tenant that was never refreshed."""
        return entity_id in self._blocked.get((tenant_id, kind), _NOBODY)

    def lists_of(self, transactions: Sequence[Transaction]) -> list[list[str]]:
        """Kinds of the lists that each transaction is on, in the order of ``KINDS``, as of the last copy."""
        if not self._blocked:
            return [[] for _ in transactions]
        return [
            [kind for kind, entity in zip(KINDS, entity_ids(tx), strict=True) if self.contains(tx.tenant_id, kind, entity)]
            for tx in transactions
        ]

    def close(self) -> None:
        """Close the idle connections."""
        self._link.close()

    def _fetch(self, tenant_ids: Iterable[str]) -> None:
        names = [(tenant_id, kind) for tenant_id in sorted(tenant_ids) for kind in KINDS]
        try:
            replies = self._link.call([("SMEMBERS", blacklist_key(*name)) for name in names])
        except Unavailable:
            self.is_degraded = True
            return
        self._blocked = {
            name: frozenset(member.decode(errors="replace") for member in members)
            for name, members in zip(names, replies, strict=True)
            if members
        }
        self.is_degraded = False
