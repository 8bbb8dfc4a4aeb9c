"""The application put together: the only place of this room that opens connections and files.

``create_app`` lays out routes and middleware; ``open_scoring`` builds what the scoring routes use for as long as the process lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI

from api import audit, decisions, gate, health, openapi, pages, problems, rules, scoring, security, sessions, subjects
from api.answers import Answers, Collaborators
from api.blocked import Blocked
from api.desk import open_desk
from api.features import FeatureReader
from api.health import Health
from api.idempotency import Claims
from api.metrics import ApiMetrics, HttpMetrics, Watched
from api.page_problems import PageProblems
from api.pages import open_pages
from api.publisher import KafkaPublisher
from api.redis_channel import RedisChannel
from api.releases import ReleaseFollower, Releases
from api.rendering import Renderer
from api.settings import ApiSettings
from api.sides import Sides
from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.rules import InvalidRules
from serving.blacklist import Blacklist
from serving.clock import now_ms
from serving.codec import Codec
from serving.enrich import Enricher
from serving.registry import HttpRegistry, register_all
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from serving.scoring import Scorer
from serving.state_reads import StateReads

__all__ = ["OpenScoring", "ScoringParts", "create_app", "open_scoring"]

_REGISTRY_RETRY_S = 0.5
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ScoringParts:
    """What the routes find in the state of every request."""

    answers: Answers
    health: Health
    codec: Codec


OpenScoring = Callable[[ApiSettings, ApiMetrics], AbstractAsyncContextManager[ScoringParts]]


def create_app(settings: ApiSettings, *, open_parts: OpenScoring | None = None) -> FastAPI:
    """The application; nothing is opened before its lifespan begins.  ``open_parts`` replaces :func:`open_scoring` in tests."""
    metrics = ApiMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with (
            (open_parts or open_scoring)(settings, metrics) as parts,
            open_desk(settings, parts.codec) as desk,
            open_pages(settings) as page_parts,
            gate.attend(app, settings),
        ):
            yield {"answers": parts.answers, "health": parts.health, "desk": desk, "pages": page_parts}

    shown: Any = security.openapi_urls(settings)
    app = FastAPI(title="FraudGuard", version="1", lifespan=lifespan, **shown)
    for part in (scoring, decisions, rules, subjects, audit):
        app.include_router(part.router)
    for part in (health, pages, sessions):
        app.include_router(part.router)
    app.state.renderer = Renderer(is_production=settings.is_production)
    openapi.describe(app)
    problems.install(app)
    gate.install(app, settings)
    security.install(app, settings)
    app.add_middleware(PageProblems, renderer=app.state.renderer)
    app.add_middleware(HttpMetrics, metrics=metrics)
    return app


@asynccontextmanager
async def open_scoring(settings: ApiSettings, metrics: ApiMetrics) -> AsyncIterator[ScoringParts]:
    """Connect what can be connected; only the registry must answer, as nothing can be written without its ids."""
    redis_url = settings.redis_url.get_secret_value()
    ip_hash_key = settings.ip_hash_key_file.read_bytes()
    codec = await _codec(settings.registry_url)
    releases = Releases(codec, settings.models_dir, _default_rules(), on_refused=metrics.refused)
    follower = ReleaseFollower(settings.bootstrap_servers, releases)
    publisher = KafkaPublisher(settings.bootstrap_servers, capacity=settings.buffered_events)
    redis = RedisChannel(redis_url, settings.store_timeout_ms / 1e3)
    blacklist = Blacklist(redis_url)
    blocked = Blocked(blacklist)
    sides = Sides(Scorer("api", settings.code_version), releases)
    answers = Answers(
        Collaborators(
            redis=redis,
            claims=Claims(ip_hash_key),
            states=StateReads(),
            features=FeatureReader(),
            sides=sides,
            blocked=blocked,
            enricher=Enricher(ip_hash_key, settings.city_db, settings.asn_db),
            codec=codec,
            publisher=publisher,
            metrics=metrics,
            now_ms=now_ms,
        )
    )
    breakers = [answers.redis_breaker, *sides.breakers.values()]
    metrics.registry.register(Watched(publisher, breakers))
    tasks = [asyncio.create_task(publisher.serve()), asyncio.create_task(blocked.keep_fresh())]
    follower.start()
    try:
        yield ScoringParts(answers, Health(redis, publisher, follower, releases, breakers, metrics), codec)
    finally:
        follower.close()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        unsent = await publisher.close()
        if unsent:
            _log.error("events_not_sent", count=unsent)
        await redis.close()
        blacklist.close()


async def _codec(registry_url: str) -> Codec:
    """A codec with the registry's ids, as soon as the registry answers."""
    registry = HttpRegistry(registry_url)
    told = False
    while True:
        try:
            return Codec(await asyncio.to_thread(register_all, registry), registry.schema_by_id)
        except Unavailable as error:
            if not told:
                _log.warning("registry_away", reason=error.detail)
            told = True
            await asyncio.sleep(_REGISTRY_RETRY_S)


def _default_rules() -> str | None:
    """The shipped rules; without them the rules are down until the topic brings some."""
    try:
        return load_rules(DEFAULT_RULES_PATH, CATALOGUE.index).to_json()
    except InvalidRules as error:
        _log.error("rules_refused", reason=str(error))
        return None
