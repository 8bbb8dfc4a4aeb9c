"""What every answer carries and what no request may exceed: security headers, body size, cross-origin rules, no docs in production."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Bugs, Problem, answer
from api.settings import ApiSettings

__all__ = ["install", "openapi_urls"]

_HEADERS = {
    "Cache-Control": "no-store",  # an answer holds a person's spending
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_YEAR_S = 31_536_000


def openapi_urls(settings: ApiSettings) -> dict[str, str | None]:
    """Arguments of ``FastAPI``: where the document and its pages are; nowhere in production."""
    shown = not settings.is_production
    return {"openapi_url": "/openapi.json" if shown else None, "docs_url": "/docs" if shown else None, "redoc_url": None}


def install(app: FastAPI, settings: ApiSettings) -> None:
    """Wrap the application; call after every other middleware is added, so that these stand outermost."""
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-Match"],
            expose_headers=["ETag", "Retry-After"],
        )
    app.add_middleware(Bugs)
    app.add_middleware(_Envelope, max_body_bytes=settings.max_body_bytes, is_production=settings.is_production)


class _Envelope:
    """Puts the headers on every answer, and refuses a body by its announced length before a byte of it is read."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, is_production: bool) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._headers = dict(_HEADERS)
        if is_production:
            self._headers["Strict-Transport-Security"] = f"max-age={_YEAR_S}; includeSubDomains"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isascii() or not announced.isdigit() or int(announced) > self._max_body_bytes:
            await answer(Problem(413, "body_too_large", f"at most {self._max_body_bytes} bytes"))(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)
