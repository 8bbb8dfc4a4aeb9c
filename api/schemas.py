"""What a caller sends to be scored and what it gets back: strict, bounded, and nothing that we do not know.

A request says what a record of the topic ``transactions`` says, without the tenant, which comes from the caller's identity, and
without what only synthetic data knows.  Types and lengths are held here; what a value may mean is judged by ``serving.validate``, the
same for both doors.  The answer's model is its documentation: answers are written as bytes (``api.presenting``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from fraud.events import Transaction
from serving.validate import MAX_AMOUNT_MINOR, MAX_TEXT_CHARS

__all__ = ["MAX_BATCH", "BatchAnswer", "BatchRequest", "ScoreAnswer", "ScoreRequest"]

MAX_BATCH = 100  # scored in one go: at 1 ms each a tenth of a second, which other callers of this process wait for

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
OptionalText = Annotated[str | None, Field(max_length=MAX_TEXT_CHARS)]
Country = Annotated[str | None, Field(pattern=r"^[A-Z]{2}$")]
Latitude = Annotated[float | None, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float | None, Field(ge=-180, le=180, allow_inf_nan=False)]


_EXAMPLE: dict[str, Any] = {
    "transaction_id": "tx-1",
    "card_id": "card-1",
    "merchant_id": "shop-1",
    "amount_minor": 4_200,
    "currency": "EUR",
    "event_time_ms": 1_700_000_000_000,
}


class ScoreRequest(BaseModel):
    """One card authorisation to decide."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": [_EXAMPLE]})

    transaction_id: Annotated[Text, Field(description="Identity within the tenant; the decision id and the idempotency follow from it.")]
    card_id: Annotated[Text, Field(description="Token of the card, never its number.")]
    merchant_id: Text
    amount_minor: Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR, description="Amount in minor units of the currency.")]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217.", examples=["EUR"])]
    event_time_ms: Annotated[int, Field(ge=0, le=2**53, description="When the card was presented, milliseconds since 1970 UTC.")]
    user_id: OptionalText = None
    device_id: OptionalText = None
    ip_address: Annotated[str | None, Field(max_length=45, description="Replaced by its keyed hash before anything is stored.")] = None
    ip_hash: OptionalText = None
    ip_country: Country = None
    ip_region: OptionalText = None
    ip_asn: Annotated[int | None, Field(ge=0, le=2**32 - 1)] = None
    ip_lat: Latitude = None
    ip_lon: Longitude = None
    transaction_type: Text = "purchase"
    channel: OptionalText = None
    declined: bool = False
    merchant_name: OptionalText = None
    merchant_mcc: Annotated[int | None, Field(ge=0, le=9999)] = None
    merchant_country: Country = None
    lat: Latitude = None
    lon: Longitude = None
    city: OptionalText = None
    country: Country = None
    card_type: OptionalText = None
    card_country: Country = None
    card_age_days: Annotated[int | None, Field(ge=0, le=36_525)] = None
    billing_lat: Latitude = None
    billing_lon: Longitude = None
    billing_country: Country = None

    def transaction(self, tenant_id: str) -> Transaction:
        """The record that the rest of the system works on."""
        return Transaction(tenant_id=tenant_id, **self.__dict__)

    def content(self) -> bytes:
        """What was asked, in a form that depends on neither spacing nor the order of fields: what idempotency compares."""
        return orjson.dumps(self.model_dump(exclude_unset=True), option=orjson.OPT_SORT_KEYS)


class BatchRequest(BaseModel):
    """Several transactions, decided in this order as if they had come one after the other."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    transactions: Annotated[list[ScoreRequest], Field(min_length=1, max_length=MAX_BATCH)]


class Reason(BaseModel):
    """A rule that fired, with the values that it saw put into its message."""

    rule_id: str
    code: str
    severity: Literal["low", "medium", "high", "critical"]
    score: float
    floor: Literal["CHALLENGE", "DENY"] | None
    message: str


class Contribution(BaseModel):
    """What one feature added to the model's raw score (exact tree SHAP)."""

    feature: str
    value: float | None = Field(description="The feature's own value; null when it was missing.")
    contribution: float


class Explanation(BaseModel):
    """Why the model came to its raw score: base, contributions and rest sum to it.  Made for what is not allowed."""

    raw_score: float
    base: float
    contributions: list[Contribution] = Field(description="The strongest, first.")
    rest: float = Field(description="Sum of the contributions that are not listed.")


class EntityFreshness(BaseModel):
    """As of which entry of an entity's log its windows were evaluated."""

    kind: Literal["card", "user", "merchant", "device", "ip"]
    seq: int = Field(description="Number of the last entry that was known; 0 when nothing was.")
    event_time_ms: int | None = Field(description="Newest event time that was known.")


class Freshness(BaseModel):
    """What was known when the windows were evaluated: a payment of a moment ago may not be in the store yet.

    An entity that is not listed is one whose state the store may have lost: its features were missing (``store_healing``).
    """

    read_at_ms: int
    entities: list[EntityFreshness]


class ScoreAnswer(BaseModel):
    """The one decision of a transaction."""

    decision: Literal["ALLOW", "CHALLENGE", "DENY"]
    score: float = Field(ge=0, le=1)
    decision_id: str
    transaction_id: str
    model_score: float | None = Field(description="Calibrated probability; null when the model was down.")
    rules_score: float | None = Field(description="Null when the rules were down.")
    reasons: list[Reason]
    explanation: Explanation | None
    model_sha256: str | None
    rule_set_hash: str | None
    catalogue_version: str
    freshness: Freshness | None = Field(description="Null when the store could not be read: windowed features were missing.")
    degraded: list[str] = Field(description="What was missing: model_down, rules_down, store_down, store_healing, kafka_down.")
    latency_ms: float = Field(description="From the request's arrival to the answer; that of the first answer when it is repeated.")


class BatchAnswer(BaseModel):
    """Answers in the order of the request: each a ScoreAnswer, or a problem with its status."""

    answers: list[ScoreAnswer | dict[str, Any]]
