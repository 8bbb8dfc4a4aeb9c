"""What the routes of people take and give, and the client with them: strict in, documented out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fraud.rules.ruleset import MAX_RULES

__all__ = [
    "AuditBody",
    "DecisionBody",
    "DifferenceBody",
    "DraftBody",
    "EntryBody",
    "ErasureBody",
    "InForceBody",
    "ReleaseBody",
    "ReplayBody",
    "RollbackBody",
    "RuleBody",
    "RuleSetBody",
    "VerdictBody",
]


class RuleBody(BaseModel):
    """One rule as its author writes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(max_length=64)
    name: str = Field(max_length=256)
    when: str = Field(max_length=4096, description="The condition.")
    score: float = Field(ge=0, le=1, allow_inf_nan=False)
    reason_code: str = Field(max_length=64)
    message: str = Field(max_length=1024)
    floor: Literal["CHALLENGE", "DENY"] | None = None
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)
    severity: Literal["low", "medium", "high", "critical"] = "medium"
    state: Literal["enabled", "shadow", "disabled"] = "enabled"


class RuleSetBody(BaseModel):
    """A set of rules."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rules: list[RuleBody] = Field(max_length=MAX_RULES)


class ReleaseBody(BaseModel):
    """One version that came into force."""

    version: int
    action: str
    rule_set_hash: str = Field(description="What decisions made with it carry.")
    base_hash: str = Field(description="The promoted set; another one in old releases alone, which tried rules within the set in force.")
    author: str
    created_ms: int
    challenger_hash: str | None = Field(description="The set that is tried beside it.")
    traffic_percentage: float = Field(description="Of how many percent of the cards the challenger decides; behind the rest it is asked.")


class InForceBody(ReleaseBody):
    """What is in force, with its rules."""

    rules: list[RuleBody]


class DraftBody(BaseModel):
    """A set that is kept for others to look at."""

    rule_set_hash: str
    author: str
    created_ms: int


class VerdictBody(BaseModel):
    """Whether a set can be used; if not, where and why."""

    valid: bool
    rule_set_hash: str | None = None
    problem: str | None = None
    rule_id: str | None = None
    position: int | None = Field(default=None, description="Character of the condition, counted from 1.")


class RollbackBody(BaseModel):
    """Which version to put back; by default the set before the one in force."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int | None = Field(default=None, ge=0, le=10**12)


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
    extra_features: dict[str, float | None] = Field(
        description="Features beyond the catalogue that the rules asked for, as served, by name, null for missing."
    )
    contributions: dict[str, float] | None = Field(description="What each feature added to model_raw; null where it was not asked for.")
    contribution_base: float | None
    anomaly_score: float | None
    blacklisted: list[str]
    transaction: dict[str, Any]
    latency_ms: float | None
    trace_id: str | None
    served_at: list[dict[str, Any]]
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


class ErasureBody(BaseModel):
    """What was erased, and the number of the entry in the audit log."""

    audit_seq: int
    online_rows: int = Field(description="Rows of the online store.")
    decisions: int = Field(description="Decisions kept by id.")


class EntryBody(BaseModel):
    """One change."""

    seq: int
    previous_hash: str
    hash: str
    time_ms: int
    actor: str
    role: str
    action: str
    target: str
    version: int | None
    before: str | None
    after: str | None
    trace_id: str | None


class AuditBody(BaseModel):
    """Changes of the caller's tenant, oldest first; ``is_intact`` speaks of the whole log."""

    entries: list[EntryBody]
    is_intact: bool = Field(description="Whether every entry is what its hash says and follows the one before it.")
    next_after: int | None = Field(description="Where to go on reading; null at the end.")
