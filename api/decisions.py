"""Past decisions: shown by their id, and computed again to the last bit.  A tenant finds its own and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path

from api.bodies import DecisionBody, ReplayBody
from api.desk import AtDesk, Desk
from api.identity import Caller, Role, require
from api.problems import Problem, responses
from api.strict_json import StrictRoute
from fraud.catalogue import CATALOGUE
from serving.records import Decision
from serving.replay import NotReplayable, replay

__all__ = ["DECISION_ID", "DecisionId", "describe", "router"]

router = APIRouter(prefix="/v1/decisions", tags=["decisions"], route_class=StrictRoute)

Anybody = Annotated[Caller, require()]
Analyst = Annotated[Caller, require(Role.ANALYST, Role.LEAD, Role.ADMIN)]
DECISION_ID = r"^dec-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
DecisionId = Annotated[str, Path(pattern=DECISION_ID)]


@router.get("/{decision_id}", operation_id="show_decision", responses=responses(404, 422))
def show(decision_id: DecisionId, caller: Anybody, desk: AtDesk) -> DecisionBody:
    """A decision with everything that went into it."""
    return DecisionBody(**describe(_found(desk, caller, decision_id)))


@router.post("/{decision_id}/replay", operation_id="replay_decision", responses=responses(404, 409, 422))
def replay_decision(decision_id: DecisionId, caller: Analyst, desk: AtDesk) -> ReplayBody:
    """Compute a decision again with the model and the rules of its time, and compare."""
    decision = _found(desk, caller, decision_id)
    desk.book.refresh()
    try:
        found = replay(decision, desk.book.rules, desk.model_of)
    except NotReplayable as error:
        raise Problem(409, "not_replayable", error.what) from None
    return ReplayBody(**_finite(asdict(found)), equal=found.equal)


def describe(decision: Decision) -> dict[str, Any]:
    """A decision as plain values that JSON can write; shared by the API and the command line."""
    plain = asdict(decision)
    values = [_finite(float(value)) for value in decision.features]
    ours = decision.catalogue_version == CATALOGUE.version
    plain["features"] = dict(zip(CATALOGUE.names, values, strict=True)) if ours else values
    if decision.contributions is not None:
        plain["contributions"] = {(CATALOGUE.names[one.feature] if ours else str(one.feature)): one.value for one in decision.contributions}
    plain["extra_features"] = {one.name: _finite(one.value) for one in decision.extra_features}
    del plain["transaction"]["ip_address"]
    plain["transaction"].pop("decided", None)
    return plain


def _found(desk: Desk, caller: Caller, decision_id: str) -> Decision:
    found = desk.decision(caller.tenant_id, decision_id)
    if found is None:
        raise Problem(404, "not_found")
    return found


def _finite(value: Any) -> Any:
    """Plain values without NaN and infinities, which JSON cannot write."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
