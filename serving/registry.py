"""The schema registry: registers the schemas of ``avro/`` and finds the text of a schema by its id.

Two registries with one behaviour (one test-suite holds both): a server that speaks Confluent's protocol, and one inside the
process for offline work and tests.  Every subject is BACKWARD compatible: a new version must read what the one before it wrote.

The client is a few requests over :mod:`http.client`.  confluent_kafka's own needs authlib and httpx, takes half a second to
import in every worker, and retries on its own clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from fraud.errors import InvalidEvent, Unavailable
from serving.schema_compatibility import reading_problems
from serving.schemas import TOPIC_SCHEMAS, canonical_form, schema_text

__all__ = ["HttpRegistry", "IncompatibleSchema", "LocalRegistry", "SchemaRegistry", "register_all"]

DEPENDENCY = "schema registry"

_COMPATIBILITY = "BACKWARD"
_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_MAX_ID = 2**31 - 1
_MAX_REPLY_BYTES = 1024 * 1024
_SCHEMA_NOT_FOUND = 40403  # a bare 404 may as well be a wrong address
_REFUSED = frozenset({409, 422})


class IncompatibleSchema(ValueError):
    """A new version of a schema that cannot read what the one in force has written: a mistake of ours, found before it runs."""


class SchemaRegistry(Protocol):
    """What the rest of the system needs of a registry."""

    def register(self, subject: str, schema: str) -> int:
        """Make ``schema`` (text) the newest version of ``subject``, if it is not there yet, and return its id.

        Raises:
            IncompatibleSchema: it cannot read what the version before it wrote, or it is no schema.
            Unavailable: the registry does not answer.
        """

    def schema_by_id(self, schema_id: int) -> str:
        """Text of the schema with that id.

        Raises:
            InvalidEvent: ``unknown_schema_id``.
            Unavailable: the registry does not answer.
        """


def register_all(registry: SchemaRegistry) -> dict[str, int]:
    """Register every schema under the subject of each of its topics; returns the ids by schema name, as ``Codec`` wants them."""
    ids: dict[str, int] = {}
    for topic, name in TOPIC_SCHEMAS.items():
        schema_id = registry.register(f"{topic}-value", schema_text(name))
        ids.setdefault(name, schema_id)
    return ids


class LocalRegistry:
    """A registry inside the process; the id of a schema is computed from it, so that processes agree without talking."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._latest: dict[str, Any] = {}

    def register(self, subject: str, schema: str) -> int:
        """See :meth:`SchemaRegistry.register`."""
        parsed = _parse(subject, schema)
        before = self._latest.get(subject)
        if before is not None:
            _refuse(subject, reading_problems(parsed, before))
        schema_id = int.from_bytes(sha256(canonical_form(parsed).encode()).digest()[:4], "big") & _MAX_ID
        self._texts.setdefault(schema_id, schema)
        self._latest[subject] = parsed
        return schema_id

    def schema_by_id(self, schema_id: int) -> str:
        """See :meth:`SchemaRegistry.schema_by_id`."""
        text = self._texts.get(schema_id)
        if text is None:
            raise InvalidEvent("unknown_schema_id", str(schema_id))
        return text


def _parse(subject: str, schema: str) -> Any:
    try:
        parsed = json.loads(schema)
        _refuse(subject, reading_problems(parsed, parsed))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, IncompatibleSchema):
            raise
        raise IncompatibleSchema(f"{subject}: not an Avro schema") from None
    return parsed


def _refuse(subject: str, problems: list[str]) -> None:
    if problems:
        raise IncompatibleSchema(f"{subject}: {'; '.join(problems)}")


class HttpRegistry:
    """Client of a registry server (Apicurio, Confluent, Karapace).

    Known ids are kept for good.  Unknown ids are kept for ``unknown_ttl_s``, and at most ``unknown_limit`` of them: while that
    many are fresh, a further unknown id is answered without asking, so garbage costs the server at most ``unknown_limit``
    requests in ``unknown_ttl_s``.  Safe to share between threads; the worst race asks twice.

    Args:
        url: base of the protocol, such as ``http://127.0.0.1:8081/apis/ccompat/v7``.
        timeout_s: of each request.
        authorization: value of the header of that name, if the server wants one; never logged.
        unknown_ttl_s: how long a negative answer holds: a schema may be registered a moment after its first record.
        unknown_limit: how many of them are remembered.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        authorization: str | None = None,
        unknown_ttl_s: float = 10.0,
        unknown_limit: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise ValueError(f"not the address of a registry: {url}")
        self._secure = parts.scheme == "https"
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": _MEDIA_TYPE, "Accept": _MEDIA_TYPE}
        if authorization is not None:
            self._headers["Authorization"] = authorization
        self._unknown_ttl_s = unknown_ttl_s
        self._unknown_limit = unknown_limit
        self._clock = clock
        self._texts: dict[int, str] = {}
        self._unknown_until: dict[int, float] = {}

    def register(self, subject: str, schema: str) -> int:
        """See :meth:`SchemaRegistry.register`; sets the subject to BACKWARD first."""
        path = quote(subject, safe="")
        status, reply = self._ask("PUT", f"/config/{path}", {"compatibility": _COMPATIBILITY})
        _check(status, reply)
        status, reply = self._ask("POST", f"/subjects/{path}/versions", {"schema": schema, "schemaType": "AVRO"})
        if status in _REFUSED:
            raise IncompatibleSchema(f"{subject}: {reply.get('message', status)}")
        schema_id: int = _checked(status, reply, "id", int)
        self._texts[schema_id] = schema
        return schema_id

    def schema_by_id(self, schema_id: int) -> str:
        """See :meth:`SchemaRegistry.schema_by_id`."""
        text = self._texts.get(schema_id)
        if text is None:
            text = self._texts[schema_id] = self._look_up(schema_id)
        return text

    def _look_up(self, schema_id: int) -> str:
        now = self._clock()
        if not 0 < schema_id <= _MAX_ID or self._is_known_to_be_unknown(schema_id, now):
            raise InvalidEvent("unknown_schema_id", str(schema_id))
        status, reply = self._ask("GET", f"/schemas/ids/{schema_id}")
        if reply.get("error_code") == _SCHEMA_NOT_FOUND:
            self._unknown_until[schema_id] = now + self._unknown_ttl_s
            raise InvalidEvent("unknown_schema_id", str(schema_id))
        text: str = _checked(status, reply, "schema", str)
        if reply.get("schemaType", "AVRO") != "AVRO":
            raise InvalidEvent("wrong_schema", f"the schema {schema_id} is not Avro")
        return text

    def _is_known_to_be_unknown(self, schema_id: int, now: float) -> bool:
        until = self._unknown_until.get(schema_id)
        if until is not None and until > now:
            return True
        if len(self._unknown_until) >= self._unknown_limit:
            self._unknown_until = {other: until for other, until in self._unknown_until.items() if until > now}
        return len(self._unknown_until) >= self._unknown_limit

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        connection = (HTTPSConnection if self._secure else HTTPConnection)(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request(method, self._base + path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
            return response.status, _object(response)
        except (OSError, HTTPException, ValueError) as error:
            raise Unavailable(DEPENDENCY, f"{method} {path}: {type(error).__name__}") from error
        finally:
            connection.close()


def _object(response: HTTPResponse) -> dict[str, Any]:
    text = response.read(_MAX_REPLY_BYTES)
    reply = json.loads(text) if text else {}
    return reply if isinstance(reply, dict) else {}


def _check(status: int, reply: dict[str, Any]) -> None:
    if status != 200:
        raise Unavailable(DEPENDENCY, f"status {status}: {str(reply.get('message', ''))[:200]}")


def _checked(status: int, reply: dict[str, Any], key: str, type_: type) -> Any:
    _check(status, reply)
    if not isinstance(reply.get(key), type_):
        raise Unavailable(DEPENDENCY, f"an answer without {key}")
    return reply[key]
