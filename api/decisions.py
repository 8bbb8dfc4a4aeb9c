"""Past decisions: shown by their id, and computed again to the last bit.  A tenant finds its own and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from api.desk import AtDesk, Desk
from api.identity import Caller, Role, require
from api.problems import Problem, responses
from api.strict_json import StrictRoute
from fraud.catalogue import CATALOGUE
from serving.records import Decision
from serving.replay import NotReplayable, replay

__all__ = ["describe", "router"]

router = APIRouter(prefix="/v1/decisions", tags=["decisions"], route_class=StrictRoute)

Anybody = Annotated[Caller, require()]
Analyst = Annotated[Caller, require(Role.ANALYST, Role.LEAD, Role.ADMIN)]
DecisionId = Annotated[str, Path(pattern=r"^dec-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]


class DecisionBody(BaseModel):
    """A decision as recorded."""

    decision_id: str
    tenant_id: str
    transaction_id: str
    event_time_ms: int
    outcome: str
    score: float
    model_score: float | None
    model_raw: float | None
    rules_score: float | None
    floor: str | None
    degraded: str | None
    late_event: bool
    model_sha256: str | None
    rule_set_hash: str | None
    catalogue_version: str
    code_version: str
    door: str
    features: dict[str, float | None] | list[float | None] = Field(
        description="As served, by name, null for missing; a list when another version of the catalogue served them."
    )
    entities: list[dict[str, Any]]
    rules: list[dict[str, Any]]
    contributions: dict[str, float] | None = Field(description="What each feature added to model_raw; null where it was not asked for.")
    contribution_base: float | None
    anomaly_score: float | None
    blacklisted: list[str]
    transaction: dict[str, Any]
    latency_ms: float | None
    trace_id: str | None
    served_at: list[dict[str, Any]] | None
    stream_score: float | None


class DifferenceBody(BaseModel):
    """A field that came out otherwise."""

    field: str
    recorded: Any
    recomputed: Any


class ReplayBody(BaseModel):
    """What a replay found."""

    decision_id: str
    equal: bool
    differences: list[DifferenceBody]
    model_sha256: str | None
    rule_set_hash: str | None
    recorded_code_version: str


@router.get("/{decision_id}", responses=responses(404, 422))
def show(decision_id: DecisionId, caller: Anybody, desk: AtDesk) -> DecisionBody:
    """A decision with everything that went into it."""
    return DecisionBody(**describe(_found(desk, caller, decision_id)))


@router.post("/{decision_id}/replay", responses=responses(404, 409, 422))
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
