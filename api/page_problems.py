"""Problems on pages, in words: what would be ``application/problem+json`` to a program is a page to a person.

Whoever is not signed in is led to the form, which is what a person can do about it.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import MEDIA_TYPE
from api.rendering import Renderer
from api.sessions import SIGN_IN, is_page

__all__ = ["PageProblems"]

_AWAY = {
    "clickhouse": ("Analytics is away", "ClickHouse does not answer. Decisions go on being made; they are shown here once it is back."),
    "charts": ("The charts are away", "The process that draws them has ended. It starts again with the next page: please reload."),
}  # fmt: skip
_WORDS = {
    403: ("Not for your role", "Pages are for analysts, leads and admins, and reports of backtests are for the operator's tenant."),
    404: ("Not found", "There is no such page, or your tenant has no such decision."),
    405: ("Not possible here", "Pages are there to be looked at."),
    422: ("Not found", "The address names nothing that could exist."),
    429: ("Too many requests", "Please wait a moment and reload."),
    500: ("Something went wrong", "It is in the log of the API."),
    503: ("Away for a moment", "Something that this page needs does not answer. Please reload in a moment."),
}
_TOLD = frozenset({"retry-after", "set-cookie"})


class PageProblems:
    """The middleware: stands outside of everything that answers problems."""

    def __init__(self, app: ASGIApp, *, renderer: Renderer) -> None:
        self._app = app
        self._renderer = renderer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def rewrite(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and Headers(raw=message["headers"]).get("content-type") == MEDIA_TYPE:
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await self._page(start, body)(scope, receive, send)

        await self._app(scope, receive, rewrite)

    def _page(self, start: Message, body: bytes) -> Response:
        status = start["status"]
        if status == 401:
            made: Response = RedirectResponse(SIGN_IN, 303)
        else:
            title, text = _AWAY.get(json.loads(body).get("dependency", ""), _WORDS.get(status, _WORDS[500]))
            made = self._renderer.page("problem.html", status, title=title, text=text, code=status)
        headers = MutableHeaders(raw=made.raw_headers)
        for name, value in Headers(raw=start["headers"]).items():
            if name in _TOLD or (name not in headers and name not in ("content-type", "content-length", "www-authenticate")):
                headers.append(name, value)
        made.raw_headers = headers.raw
        return made
