"""The right to erasure: a person's entity leaves what is kept about it, here and in the stream, and the audit log says that it did."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request

from api.bodies import ErasureBody
from api.desk import AtDesk, actor_of
from api.identity import Caller, Role, require
from api.problems import responses
from api.strict_json import StrictRoute
from serving.change_log import change_of
from serving.clock import now_ms
from serving.erasure import subject_token
from serving.records import Erasure
from serving.validate import MAX_TEXT_CHARS, validate_erasure

__all__ = ["ERASED", "router"]

ERASED = "subject.erase"

router = APIRouter(prefix="/v1/subjects", tags=["subjects"], route_class=StrictRoute)

Officer = Annotated[Caller, require(Role.LEAD, Role.ADMIN)]
SubjectId = Annotated[
    str, Path(min_length=1, max_length=MAX_TEXT_CHARS, description="The token of a card, a user, a device; the hash of an address.")
]


@router.delete("/{kind}/{subject_id}", operation_id="erase_subject", responses=responses(422))
def erase(
    kind: Literal["card", "user", "device", "ip"], subject_id: SubjectId, caller: Officer, desk: AtDesk, request: Request
) -> ErasureBody:
    """Erase what is kept of a subject.  The request is logged first, so that none is lost with a dependency that fails."""
    erasure = Erasure(caller.tenant_id, kind, subject_id, now_ms())
    validate_erasure(erasure)
    token = subject_token(desk.subject_key, erasure)
    entry = desk.log.append(actor_of(caller, request), lambda: change_of(ERASED, token))
    erased = desk.eraser.erase(erasure)
    return ErasureBody(audit_seq=entry.seq, online_rows=erased.online_rows, decisions=erased.decisions)
