"""The audit log as people read it.  There is no route that changes or removes an entry, and no way to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.bodies import AuditBody, EntryBody
from api.desk import AtDesk
from api.identity import Caller, Role, require
from api.problems import responses
from api.strict_json import StrictRoute

__all__ = ["router"]

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=StrictRoute)

Officer = Annotated[Caller, require(Role.LEAD, Role.ADMIN)]


@router.get("", operation_id="list_changes", responses=responses(422))
def entries(
    caller: Officer,
    desk: AtDesk,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> AuditBody:
    """Who changed what, when."""
    desk.log.refresh()
    own = [entry for entry in desk.log.entries[after:] if entry.tenant_id == caller.tenant_id]
    page = own[:limit]
    fields = tuple(EntryBody.model_fields)
    return AuditBody(
        entries=[EntryBody(**{name: getattr(entry, name) for name in fields}) for entry in page],
        is_intact=not desk.log.faults,
        next_after=page[-1].seq if len(own) > limit else None,
    )
