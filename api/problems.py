"""Errors as ``application/problem+json`` (RFC 9457): the one place where an error becomes a status.

An answer never repeats what the caller sent: not its values, not the names of fields that we do not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.identity import Unauthenticated
from fraud.errors import Denied, InvalidEvent, Unavailable

__all__ = ["Bugs", "Problem", "ProblemBody", "answer", "install", "responses"]

MEDIA_TYPE = "application/problem+json"
_MAX_ERRORS = 20
_RETRY_AFTER_S = 1
_SAFE = re.compile(r"[^A-Za-z0-9_\-\[\]]")
_LONGEST_NAME = 48


class Problem(HTTPException):
    """An answer that is not a success: ``code`` is stable and machine-readable, ``detail`` is ours and never the caller's text."""

    def __init__(self, status: int, code: str, detail: str = "", *, headers: Mapping[str, str] | None = None, **extra: Any) -> None:
        super().__init__(status, detail, headers)
        self.status = status
        self.code = code
        self.extra = extra


class FieldError(BaseModel):
    """One field that cannot be accepted."""

    type: str
    loc: list[str | int]


class ProblemBody(BaseModel):
    """What every error looks like."""

    type: str = Field(description="urn:fraudguard:problem: and the code")
    title: str
    status: int
    detail: str | None = None
    errors: list[FieldError] | None = None
    dependency: str | None = None


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's ``responses``: these statuses are documented as problems, beside those that any operation may give."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    documented = sorted({401, 403, 413, 429, 500, 503, *statuses})
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in documented}


def answer(problem: Problem) -> Response:
    """The response of a problem."""
    body: dict[str, Any] = {
        "type": f"urn:fraudguard:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        **({"detail": problem.detail} if problem.detail else {}),
        **problem.extra,
    }
    return JSONResponse(body, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:  # noqa: PLR0911 - one line a kind of error
    """What an error is to the caller; anything unknown is a bug and says nothing of itself."""
    match error:
        case Problem():
            return error
        case InvalidEvent():
            return Problem(422, error.code, error.detail)
        case Unavailable():
            return Problem(503, "unavailable", headers={"Retry-After": str(_RETRY_AFTER_S)}, dependency=error.dependency)
        case Unauthenticated():
            return Problem(401, "unauthenticated", headers={"WWW-Authenticate": "Bearer"})
        case Denied():
            return Problem(403, "denied")
        case RequestValidationError():
            return Problem(422, "invalid_request", errors=[_field_error(one) for one in error.errors()[:_MAX_ERRORS]])
        case HTTPException():
            return Problem(error.status_code, HTTPStatus(error.status_code).name.lower(), headers=error.headers)
        case _:
            return Problem(500, "internal_error")


def install(app: FastAPI) -> None:
    """Answer every error that a route expects as a problem; the others are for :class:`Bugs`."""
    for kind in (InvalidEvent, Unavailable, Denied, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _handle)


async def _handle(_request: Request, error: Exception) -> Response:
    return answer(problem_of(error))


class Bugs:
    """Answers what nobody expected with 500 and nothing else; the log has the rest.

    Starlette's own handler of such errors stands outside of every middleware, so its answers would lack the headers of all others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            is_answered = is_answered or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:
            if scope["type"] != "http" or is_answered:
                raise
            structlog.get_logger().error("unhandled", route=getattr(scope.get("route"), "path", None), exc_info=error)
            await answer(problem_of(error))(scope, receive, send)


def _field_error(error: Mapping[str, Any]) -> dict[str, Any]:
    loc: Sequence[str | int] = error["loc"]
    if error["type"] == "extra_forbidden":
        loc = [*loc[:-1], "unknown"]  # its name is the caller's
    return {"type": error["type"], "loc": [part if isinstance(part, int) else _SAFE.sub("_", part)[:_LONGEST_NAME] for part in loc]}
