"""Blocked entities on the request path: looked up in a copy that is refreshed beside the requests, never during one.

A tenant that asks for the first time waits for its lists once.  While Redis is away the last copy serves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from fraud.events import Transaction
from serving.blacklist import Blacklist

__all__ = ["Blocked"]

_TURN_S = 0.5  # how often it is looked whether the copy is due


class Blocked:
    """The block lists of the tenants that have asked."""

    def __init__(self, blacklist: Blacklist) -> None:
        self._blacklist = blacklist

    async def know(self, tenant_id: str) -> None:
        """Make sure that a tenant's lists are part of the copy."""
        if not self._blacklist.knows(tenant_id):
            await self._refresh((tenant_id,))

    def lists_of(self, transactions: Sequence[Transaction]) -> list[list[str]]:
        """Names of the lists that each transaction is on."""
        return self._blacklist.lists_of(transactions)

    async def keep_fresh(self) -> None:
        """Refresh the copy for as long as the process lives."""
        while True:
            await asyncio.sleep(_TURN_S)
            await self._refresh(())

    async def _refresh(self, tenant_ids: Iterable[str]) -> None:
        await asyncio.to_thread(self._blacklist.refresh, tenant_ids, time.monotonic())
