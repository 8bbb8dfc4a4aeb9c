"""What the pages show, as ClickHouse knows it: one function a page, a record a row.  A tenant sees its own and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analytics.reader import Reader
from analytics.shares import Share, share

__all__ = [
    "AnswerTime",
    "Decided",
    "DecisionView",
    "FeatureValue",
    "FiredRuleRow",
    "MerchantRisk",
    "Minute",
    "Overview",
    "Payment",
    "RuleMeasured",
    "ScenarioRecall",
    "Stopped",
    "decision_view",
    "newest_stopped",
    "overview",
    "rule_performance",
]

_SHOWN_MERCHANTS = 10


@dataclass(frozen=True, slots=True)
class Minute:
    """Decisions that the ledger took in one minute."""

    minute_ms: int
    allowed: int
    challenged: int
    denied: int
    degraded: int

    @property
    def decisions(self) -> int:
        """All of them."""
        return self.allowed + self.challenged + self.denied


@dataclass(frozen=True, slots=True)
class AnswerTime:
    """Times of one minute; the API's are None where only the stream decided."""

    minute_ms: int
    answer_p50_ms: float | None
    answer_p99_ms: float | None
    recorded_after_p50_s: float


@dataclass(frozen=True, slots=True)
class ScenarioRecall:
    """Fraud of one kind that became known."""

    kind: str
    fraud: int
    stopped: int

    @property
    def recall(self) -> Share:
        """The share that was stopped."""
        return share(self.stopped, self.fraud)


@dataclass(frozen=True, slots=True)
class MerchantRisk:
    """What happened at one merchant."""

    merchant_id: str
    decisions: int
    stopped: int
    fraud: int
    fraud_usd: float

    @property
    def fraud_share(self) -> Share:
        """Of all payments those that are known to be fraud."""
        return share(self.fraud, self.decisions)


@dataclass(frozen=True, slots=True)
class Stopped:
    """A payment that was challenged or denied."""

    decision_id: str
    event_time_ms: int
    outcome: str
    score: float
    card_id: str
    merchant_id: str
    amount_minor: int
    currency_exponent: int
    currency: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The last hour and the last day of a tenant."""

    minutes: Sequence[Minute]
    times: Sequence[AnswerTime]
    scenarios: Sequence[ScenarioRecall]
    merchants: Sequence[MerchantRisk]
    stopped: Sequence[Stopped]


@dataclass(frozen=True, slots=True)
class RuleMeasured:
    """One rule in one mode, over everything that is kept; ``known_fraud`` is that of the tenant."""

    rule_id: str
    mode: str
    fired: int
    stopped: int
    labelled: int
    fraud: int
    genuine: int
    known_fraud: int
    fraud_usd: float
    last_fired_ms: int

    @property
    def precision(self) -> Share:
        """Of its labelled firings those that were fraud."""
        return share(self.fraud, self.labelled)

    @property
    def recall(self) -> Share:
        """Of the known fraud what it fired on."""
        return share(self.fraud, self.known_fraud)


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision with its payment and what became known of it."""

    decision_id: str
    transaction_id: str
    event_time_ms: int
    recorded_ms: int
    outcome: str
    score: float
    model_score: float | None
    model_raw: float | None
    rules_score: float | None
    anomaly_score: float | None
    floor: str | None
    degraded: str | None
    late_event: bool
    model_sha256: str | None
    rule_set_hash: str | None
    catalogue_version: str
    code_version: str
    door: str
    latency_ms: float | None
    stream_score: float | None
    trace_id: str | None
    contribution_base: float | None
    blacklisted: Sequence[str]
    extra_names: Sequence[str]
    extra_values: Sequence[float]
    card_id: str
    merchant_id: str
    merchant_name: str | None
    merchant_mcc: int | None
    user_id: str | None
    device_id: str | None
    amount_minor: int
    currency_exponent: int
    currency: str
    amount_usd: float
    channel: str | None
    city: str | None
    country: str | None
    ip_country: str | None
    card_country: str | None
    scenario: str | None
    is_fraud: bool | None
    label_source: str | None
    labelled_ms: int | None


@dataclass(frozen=True, slots=True)
class FiredRuleRow:
    """A rule that fired, with the runtime values in its message."""

    rule_id: str
    reason_code: str
    severity: str
    score: float
    floor: str | None
    mode: str
    message: str


@dataclass(frozen=True, slots=True)
class FeatureValue:
    """A feature as served, NaN where missing; ``contribution`` is what it added to the raw score, None where that was not asked."""

    feature: str
    value: float
    contribution: float | None


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment in the history of a card."""

    decision_id: str
    event_time_ms: int
    merchant_id: str
    city: str | None
    country: str | None
    amount_minor: int
    currency_exponent: int
    currency: str
    lat: float | None
    lon: float | None
    outcome: str
    score: float


@dataclass(frozen=True, slots=True)
class DecisionView:
    """Everything about one decision."""

    decision: Decided
    rules: Sequence[FiredRuleRow]
    features: Sequence[FeatureValue]
    payments: Sequence[Payment]


def overview(reader: Reader, tenant_id: str, *, minutes: int = 60, hours: int = 24) -> Overview:
    """The tenant now; raises Unavailable."""
    mine = {"tenant": tenant_id}
    lately, today = mine | {"minutes": str(minutes)}, mine | {"hours": str(hours)}
    merchants = reader.rows("merchants-at-risk", MerchantRisk, today)
    # by the lower bound: one fraud in two payments is not a greater risk than 40 in 100
    merchants.sort(key=lambda one: (-one.fraud_share.low, -one.stopped, one.merchant_id))
    return Overview(
        reader.rows("decisions-per-minute", Minute, lately),
        reader.rows("answer-times", AnswerTime, lately),
        reader.rows("recall-by-scenario", ScenarioRecall, today),
        merchants[:_SHOWN_MERCHANTS],
        newest_stopped(reader, tenant_id, limit=10),
    )


def newest_stopped(reader: Reader, tenant_id: str, *, limit: int) -> list[Stopped]:
    """The payments that were stopped last; raises Unavailable."""
    return reader.rows("newest-stopped", Stopped, {"tenant": tenant_id, "limit": str(limit)})


def rule_performance(reader: Reader, tenant_id: str) -> list[RuleMeasured]:
    """Every rule that fired, the busiest first; raises Unavailable."""
    return reader.rows("rules-measured", RuleMeasured, {"tenant": tenant_id})


def decision_view(reader: Reader, tenant_id: str, decision_id: str) -> DecisionView | None:
    """A decision of the tenant, None when it has none of that id; raises Unavailable."""
    one = {"tenant": tenant_id, "decision": decision_id}
    found = reader.rows("decision", Decided, one)
    if not found:
        return None
    decision = found[0]
    at = {"tenant": tenant_id, "card": decision.card_id, "at_ms": str(decision.event_time_ms)}
    return DecisionView(
        decision,
        reader.rows("decision-rules", FiredRuleRow, one),
        reader.rows("decision-features", FeatureValue, one),
        reader.rows("card-payments", Payment, at),
    )
