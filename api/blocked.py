"""Blocked entities on the request path: looked up in a copy that is refreshed beside the requests, never during one.

A tenant that asks for the first time waits for its lists once.  While Redis is away the last copy serves.
"""

from __future__ import annotations

import asyncio
import time

from fraud.events import KINDS, Transaction, entity_ids
from serving.blacklist import Blacklist

__all__ = ["Blocked"]

_TURN_S = 0.5  # how often it is looked whether the copy is due


class Blocked:
    """The block lists of the tenants that have asked."""

    def __init__(self, blacklist: Blacklist) -> None:
        self._blacklist = blacklist
        self._tenants: set[str] = set()

    async def know(self, tenant_id: str) -> None:
        """Make sure that a tenant's lists are part of the copy."""
        if tenant_id not in self._tenants:
            self._tenants.add(tenant_id)
            await self._refresh()

    def lists_of(self, tx: Transaction) -> list[str]:
        """Names of the lists that a transaction is on."""
        pairs = zip(KINDS, entity_ids(tx), strict=True)
        return [kind for kind, entity in pairs if self._blacklist.contains(tx.tenant_id, kind, entity)]

    async def keep_fresh(self) -> None:
        """Refresh the copy for as long as the process lives."""
        while True:
            await asyncio.sleep(_TURN_S)
            await self._refresh()

    async def _refresh(self) -> None:
        await asyncio.to_thread(self._blacklist.refresh, frozenset(self._tenants), time.monotonic())
