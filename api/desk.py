"""What the routes of people work with: rules, past decisions, erasure, the audit log.  Opened once a process, closed with it.

Nothing here is needed to score, so nothing here keeps the process from starting: a broker that is away costs these routes alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import BoundedSemaphore
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request

from api.identity import Caller
from api.settings import ApiSettings
from api.tracing import HEADER, continued
from fraud.errors import Denied, Unavailable
from serving.change_log import Actor, ChangeLog
from serving.clock import now_ms
from serving.codec import Codec
from serving.decision_index import find_in_ledger, find_kept
from serving.erasure import Eraser, ErasureRequests
from serving.model import Model, load_model
from serving.online_store import OnlineStore
from serving.records import Decision
from serving.redis_link import RedisLink
from serving.rule_book import RuleBook

__all__ = ["AtDesk", "Desk", "open_desk"]

_REDIS_TIMEOUT_S = 0.5
_SEARCH_S = 10.0
_SEARCHES = 2  # at once: each reads as fast as the broker gives
_MODELS = 4  # kept loaded for replays


@dataclass(frozen=True, slots=True)
class Desk:
    """The collaborators of these routes; safe to share between threads."""

    settings: ApiSettings
    codec: Codec
    log: ChangeLog
    book: RuleBook
    eraser: Eraser
    link: RedisLink
    model_of: Callable[[str], Model]
    searches: BoundedSemaphore
    subject_key: bytes

    def decision(self, tenant_id: str, decision_id: str) -> Decision | None:
        """A decision of a tenant: of the last day from Redis, else from the ledger.

        Raises:
            Unavailable: neither could be searched to the end.
        """
        kept = find_kept(self.link, self.codec, tenant_id, decision_id)
        if kept is not None:
            return kept
        if not self.searches.acquire(blocking=False):
            raise Unavailable("ledger", "others are searching")
        try:
            return find_in_ledger(self.settings.bootstrap_servers, self.codec, decision_id, tenant_id=tenant_id, limit_s=_SEARCH_S)
        finally:
            self.searches.release()

    def operator(self, caller: Caller) -> None:
        """Refuse whoever is not of the operator's tenant: what follows concerns every tenant; raises Denied."""
        if caller.tenant_id != self.settings.operator_tenant:
            raise Denied("of another tenant than the operator's")


def actor_of(caller: Caller, request: Request) -> Actor:
    """A caller as the audit log names it."""
    return Actor(caller.tenant_id, caller.subject, caller.role.value, continued(request.headers.get(HEADER)).trace_id)


@asynccontextmanager
async def open_desk(settings: ApiSettings, codec: Codec) -> AsyncIterator[Desk]:
    """Prepare the desk; what it needs may be away."""
    redis_url = settings.redis_url.get_secret_value()
    log = ChangeLog(settings.bootstrap_servers, codec, now_ms)
    link, store = RedisLink(redis_url, _REDIS_TIMEOUT_S), OnlineStore(redis_url, timeout_s=_REDIS_TIMEOUT_S)
    desk = Desk(
        settings,
        codec,
        log,
        RuleBook(log, codec, settings.bootstrap_servers),
        Eraser(store, link, codec, ErasureRequests(settings.bootstrap_servers, codec)),
        link,
        lru_cache(_MODELS)(lambda sha256: load_model(settings.models_dir, sha256)),
        BoundedSemaphore(_SEARCHES),
        settings.ip_hash_key_file.read_bytes(),
    )
    settling = asyncio.create_task(asyncio.to_thread(_settle, desk.book))
    try:
        yield desk
    finally:
        await settling
        log.close()
        link.close()
        store.close()


def _settle(book: RuleBook) -> None:
    """Make up for a process that died between the audit log and the topic of the rules."""
    try:
        book.settle()
    except Unavailable as error:
        structlog.get_logger().warning("rules_not_settled", dependency=error.dependency, reason=error.detail)


def _desk(request: Request) -> Any:
    return request.state.desk


AtDesk = Annotated[Desk, Depends(_desk)]
