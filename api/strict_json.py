"""JSON as the API reads it: UTF-8 without a byte-order mark, each name once, finite numbers, text that is text.

What is not such JSON is 400; a value that JSON can write and we cannot take (NaN, 1e999, half a surrogate pair) is 422.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.problems import Problem

__all__ = ["StrictRoute", "loads"]

_MAX_SAFE = 2**53  # beyond it a float is no longer every integer
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(body: bytes) -> Any:
    """Read a JSON document; raises Problem 400 or 422."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise Problem(400, "malformed_json", "a byte-order mark")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_refuse_number, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Problem(400, "malformed_json") from None
    if _SURROGATE.search(body):
        _check_text(value)
    return value


class StrictRoute(APIRoute):
    """Routes whose bodies are read by :func:`loads`; every router of the API has this as its ``route_class``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with a request that reads strictly."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        return loads(await self.body())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Problem(400, "malformed_json", "a name stands twice in one object")
    return found


def _refuse_number(_text: str) -> float:
    raise Problem(422, "invalid_number", "numbers are finite")


def _finite(text: str) -> float | int:
    """A number with a fraction or an exponent; a whole one is a whole number, as JSON Schema has it: 1.0 and 1e2 are integers."""
    value = float(text)
    if not math.isfinite(value):
        return _refuse_number(text)
    return int(value) if value.is_integer() and abs(value) <= _MAX_SAFE else value


def _check_text(value: Any) -> None:
    """Refuse half a surrogate pair anywhere: it cannot be written as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Problem(422, "invalid_text", "half a surrogate pair") from None
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
