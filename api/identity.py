"""Who calls, and what they may do.

The gate (``api.gate``) puts the :class:`Caller` of every request that is not public into ``request.state.caller`` before any
route runs, so a route without a role is closed, not open.  The tenant comes from here and from nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from fraud.errors import Denied

__all__ = ["API_KEY_HEADER", "PUBLIC_PATHS", "Caller", "Role", "Unauthenticated", "require"]

API_KEY_HEADER = "X-API-Key"
# The only operations that answer a stranger, beside the form to sign in to the pages (api.sessions).
# Development adds /openapi.json and the pages that show it.
PUBLIC_PATHS = frozenset({"/health", "/health/ready", "/metrics"})


class Role(StrEnum):
    """What a caller is: a program that asks for decisions, or a person of growing responsibility."""

    SERVICE = "service"
    ANALYST = "analyst"
    LEAD = "lead"
    ADMIN = "admin"


class Unauthenticated(Denied):
    """Nobody that we know; says nothing of the cause."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller; ``subject`` is a person's or a key's id, unique within the tenant."""

    tenant_id: str
    subject: str
    role: Role


# For the OpenAPI document: the gate checks both.
_BEARER = HTTPBearer(auto_error=False, bearerFormat="JWT", description="A token of the OIDC issuer.")
_API_KEY = APIKeyHeader(name=API_KEY_HEADER, auto_error=False, description="A key made by ./fraudguard access key.")


def require(*roles: Role) -> Any:
    """A dependency that returns the caller when it has one of the roles; none named means any.

    Use as ``caller: Annotated[Caller, require(Role.ANALYST, Role.LEAD)]``.
    """
    allowed = frozenset(roles or Role)

    async def caller(  # not a plain function: FastAPI would call that on a thread
        request: Request, _bearer: Annotated[Any, Security(_BEARER)] = None, _key: Annotated[Any, Security(_API_KEY)] = None
    ) -> Caller:
        found: Caller | None = getattr(request.state, "caller", None)
        if found is None:
            raise Unauthenticated
        if found.role not in allowed:
            raise Denied("the role does not allow this")
        return found

    caller.roles = allowed  # type: ignore[attr-defined]  # what the test of the role matrix reads
    return Depends(caller)


def roles_of(dependency: Callable[..., Any]) -> frozenset[Role] | None:
    """The roles that a dependency made by :func:`require` allows; None for any other."""
    return getattr(dependency, "roles", None)
