"""Signing in with a browser: a token of the issuer, kept in a cookie that opens the pages and nothing else.

The cookie holds the same token that a program sends in its header, so there is no session to keep, to steal from us or to end: the
token's own end, its key's revocation and the issuer's rules hold.  It is for GET of pages alone, which change nothing, so a foreign page
that makes a browser call us can do nothing with it; and ``SameSite=Strict`` keeps the browser from even sending it then.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from api.identity import Role, Unauthenticated
from api.rendering import Renderer, the_renderer
from fraud.errors import Denied

__all__ = ["COOKIE", "PAGES", "PAGES_WITHOUT_CALLER", "PEOPLE", "SIGN_IN", "is_page", "router", "token_of"]

COOKIE = "fraudguard_token"
PAGES = "/desk"
SIGN_IN, _SIGN_OUT, STYLE = f"{PAGES}/sign-in", f"{PAGES}/sign-out", f"{PAGES}/style.css"
PAGES_WITHOUT_CALLER = frozenset({SIGN_IN, _SIGN_OUT, STYLE})  # they show nothing of anybody; limits of the address hold
PEOPLE = (Role.ANALYST, Role.LEAD, Role.ADMIN)

router = APIRouter(include_in_schema=False)

TheRenderer = Annotated[Renderer, Depends(the_renderer)]


def is_page(path: str) -> bool:
    """Whether a path is one of those that people look at."""
    return path == PAGES or path.startswith(f"{PAGES}/")


def token_of(scope: Scope, headers: Headers) -> str | None:
    """The token in the cookie of a request for a page; None for every other request, which a cookie opens nothing to."""
    cookies = headers.getlist("cookie")
    if scope["method"] != "GET" or not is_page(scope["path"]) or len(cookies) != 1:
        return None
    return cookie_parser(cookies[0]).get(COOKIE) or None


@router.get(SIGN_IN)
def sign_in_page(renderer: TheRenderer) -> Response:
    """The form."""
    return _form(renderer, 200, None)


@router.post(SIGN_IN)
async def sign_in(request: Request, renderer: TheRenderer) -> Response:
    """Check a token and keep it in the browser."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Denied("a form of another site would sign its visitor in as somebody else")
    token = "".join(parse_qs((await request.body()).decode("latin-1")).get("token", [])).strip()
    try:
        caller = request.app.state.doorkeeper.tokens.verify(token)
    except Unauthenticated:
        return _form(renderer, 401, "This token is not valid, or it has run out. A token is good for an hour.")
    if caller.role not in PEOPLE:
        return _form(renderer, 403, "This token is a program's. The pages are for analysts, leads and admins.")
    answer = RedirectResponse(PAGES, 303)
    answer.set_cookie(COOKIE, token, path=PAGES, httponly=True, samesite="strict", secure=renderer.is_production)
    return answer


@router.post(_SIGN_OUT)
async def sign_out(renderer: TheRenderer) -> Response:
    """Have the browser forget the token."""
    answer = RedirectResponse(SIGN_IN, 303)
    answer.delete_cookie(COOKIE, path=PAGES, httponly=True, samesite="strict", secure=renderer.is_production)
    return answer


def _form(renderer: Renderer, status: int, refused: str | None) -> Response:
    return renderer.page("sign_in.html", status, refused=refused, is_local=not renderer.is_production)


@router.get(STYLE)
def style(renderer: TheRenderer) -> Response:
    """The style sheet of all pages."""
    return Response(renderer.style, media_type="text/css", headers={"Cache-Control": "max-age=300"})
