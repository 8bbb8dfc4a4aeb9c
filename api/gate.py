"""The gate: nothing reaches a route unless its path is public, or its caller is known, within limits and, where asked, signed.

It stands before routing, so a path that does not exist is as closed to strangers as one that does.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import signing
from api.identity import API_KEY_HEADER, PUBLIC_PATHS, Caller, Unauthenticated
from api.keys import ApiKey, ApiKeys
from api.limits import Limit, Limiter, Verdict
from api.problems import Problem, answer, problem_of
from api.redis_channel import RedisChannel
from api.sessions import PAGES_WITHOUT_CALLER, token_of
from api.settings import ApiSettings
from api.tokens import TokenVerifier, load_key_set
from fraud.errors import Unavailable

__all__ = ["Doorkeeper", "Gate", "attend", "install", "tenant_limit"]

_REDIS_TIMEOUT_S = 0.02  # the request path can spare this once; then the limiter counts by itself for a while
_DEVELOPMENT_PATHS = frozenset({"/openapi.json", "/docs"})

_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """What the gate asks; made once the process has its keys.

    ``hash_address`` turns a client's address into what may be stored, ``clock`` gives seconds since 1970.
    """

    settings: ApiSettings
    tokens: TokenVerifier
    keys: ApiKeys
    limiter: Limiter
    hash_address: Callable[[str], str]
    clock: Callable[[], float]

    def identify(self, headers: Headers, cookie: str | None = None) -> tuple[Caller, ApiKey | None]:
        """The caller by the one credential shown; ``cookie`` is a token too.  Raises Unauthenticated, also for two of them."""
        bearers, keys = headers.getlist("authorization"), headers.getlist(API_KEY_HEADER)
        if len(bearers) + len(keys) + (cookie is not None) != 1:
            raise Unauthenticated
        if cookie is not None:
            return self.tokens.verify(cookie), None
        if keys:
            key = self.keys.verify(keys[0])
            return key.caller, key
        if not bearers[0].lower().startswith(_BEARER):
            raise Unauthenticated
        return self.tokens.verify(bearers[0][len(_BEARER) :].strip()), None

    async def admit(self, address: str, caller: Caller | None) -> Verdict:
        """Take one request from the limits of an address and, when known, of a tenant and its user."""
        limits = [Limit("address", f"limit:ip:{self.hash_address(address)}", self.settings.ip_requests_per_min)]
        if caller is not None:
            limits += [
                tenant_limit(self.settings, caller.tenant_id),
                Limit("user", f"limit:user:{caller.tenant_id}|{caller.subject}", self.settings.user_limit(caller.tenant_id)),
            ]
        return await self.limiter.take(limits)

    async def spend(self, caller: Caller, cost: int) -> None:
        """Take more from the tenant's limit, for a request that asks for the work of several; raises Problem 429."""
        if cost > 0:
            verdict = await self.limiter.take([tenant_limit(self.settings, caller.tenant_id)], cost)
            if not verdict.allowed:
                raise Problem(429, "too_many_requests", headers=verdict.headers)

    def check_signature(self, key: ApiKey, scope: Scope, headers: Headers, body: bytes) -> None:
        """Check the signature of a request; raises Unauthenticated."""
        secret = signing.secret_of(self.settings.signing_secret.get_secret_value(), key.key_id)
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        signing.check(secret, scope["method"], target, headers, body, self.clock())


def tenant_limit(settings: ApiSettings, tenant_id: str) -> Limit:
    """The limit of a tenant; what costs more than one request (a batch) takes the rest from it."""
    return Limit("tenant", f"limit:tenant:{tenant_id}", settings.tenant_limit(tenant_id))


class Gate:
    """The middleware.

    Args:
        app: what stands behind it.
        public: paths that answer anybody.
        doorkeeper: returns the one of this process, or None while it is starting.
    """

    def __init__(self, app: ASGIApp, *, public: frozenset[str], doorkeeper: Callable[[], Doorkeeper | None]) -> None:
        self._app = app
        self._public = public
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in self._public):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no websockets, and nobody opens one unasked
        keeper = self._doorkeeper()
        if keeper is None:
            await answer(Problem(503, "starting", headers={"Retry-After": "1"}))(scope, receive, send)
            return
        await self._pass(keeper, scope, receive, send)

    async def _pass(self, keeper: Doorkeeper, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        caller, key, stranger = None, None, None
        try:
            if scope["path"] not in PAGES_WITHOUT_CALLER:
                caller, key = keeper.identify(headers, token_of(scope, headers))
        except Unauthenticated as error:
            stranger = error
        verdict = await keeper.admit((scope.get("client") or ("", 0))[0], caller)
        if not verdict.allowed:
            await answer(Problem(429, "too_many_requests", headers=verdict.headers))(scope, receive, send)
            return
        if stranger is None and key is not None and (key.must_sign or signing.SIGNATURE_HEADER in headers):
            body = await _read(receive)
            receive = _again(body, receive)
            try:
                keeper.check_signature(key, scope, headers, body)
            except Unauthenticated as error:
                stranger = error
        if stranger is not None:
            await answer(problem_of(stranger))(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(verdict.headers)
            await send(message)

        await self._app(scope, receive, send_with_limits)


def install(app: FastAPI, settings: ApiSettings) -> None:
    """Close the application; until :func:`attend` runs, everything that is not public answers 503."""
    public = PUBLIC_PATHS if settings.is_production else PUBLIC_PATHS | _DEVELOPMENT_PATHS
    app.add_middleware(Gate, public=public, doorkeeper=lambda: getattr(app.state, "doorkeeper", None))


@asynccontextmanager
async def attend(app: FastAPI, settings: ApiSettings) -> AsyncIterator[Doorkeeper]:
    """Open the gate for as long as the application runs; raises Unavailable when no key of the issuer can be had at the start."""
    redis = RedisChannel(settings.redis_url.get_secret_value(), _REDIS_TIMEOUT_S)
    keys = ApiKeys(settings.api_keys_file)
    address_key = settings.ip_hash_key_file.read_bytes()
    keeper = Doorkeeper(
        settings,
        TokenVerifier(settings, await asyncio.to_thread(load_key_set, settings), keys.is_revoked, time.time),
        keys,
        Limiter(redis),
        lambda address: hmac.digest(address_key, b"limit\0" + address.encode(), "sha256").hex()[:32],
        time.time,
    )
    app.state.doorkeeper = keeper
    refresh = asyncio.create_task(_refresh_keys(settings, keeper.tokens))
    try:
        yield keeper
    finally:
        app.state.doorkeeper = None
        refresh.cancel()
        with suppress(asyncio.CancelledError):
            await refresh
        await redis.close()


async def _refresh_keys(settings: ApiSettings, tokens: TokenVerifier) -> None:
    """Take over the issuer's new keys, by the clock only: no token can make us ask.  An issuer that is away leaves the old ones."""
    while True:
        await asyncio.sleep(settings.jwks_refresh_s)
        try:
            tokens.keys = await asyncio.to_thread(load_key_set, settings)
        except Unavailable as error:
            structlog.get_logger().warning("issuer_keys_not_refreshed", reason=error.detail)


async def _read(receive: Receive) -> bytes:
    """The whole body; how long it may be, ``api.security`` has seen to."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once more, then whatever comes."""
    pending = [body]

    async def replay() -> Message:
        return {"type": "http.request", "body": pending.pop(), "more_body": False} if pending else await receive()

    return replay
