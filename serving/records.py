"""The records of the wire beside the transaction and the label: what ``avro/*.avsc`` says, as flat dataclasses.

Field names and their order are those of the schemas (a test holds them together).  No logic here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fraud.events import Transaction

__all__ = [
    "Alert",
    "Change",
    "Contribution",
    "DeadLetter",
    "Decision",
    "EntityPosition",
    "Erasure",
    "ErasureApplied",
    "ExtraFeature",
    "FiredRule",
    "LabelApplied",
    "ModelVersion",
    "RuleSetVersion",
    "ShadowDecision",
]


@dataclass(slots=True)
class EntityPosition:
    """Where the log of the entity ``key`` (``tenant_id|entity_id``) of one ``kind`` stood: entries are numbered from 1."""

    kind: str
    key: str
    seq: int


@dataclass(slots=True)
class FiredRule:
    """A rule that fired; ``floor`` is the outcome it forces at least, ``mode`` is ``enabled`` or ``shadow``."""

    rule_id: str
    reason_code: str
    severity: str
    score: float
    floor: str | None
    mode: str
    message: str


@dataclass(slots=True)
class Contribution:
    """What the feature at position ``feature`` of the catalogue added to the raw score of the model."""

    feature: int
    value: float


@dataclass(slots=True)
class ExtraFeature:
    """A feature beyond the catalogue, by its name; NaN is missing."""

    name: str
    value: float


@dataclass(slots=True)
class Decision:
    """The one decision of a transaction; ``features`` is float64 in catalogue order with NaN for missing.

    ``latency_ms`` stays ``None`` on the stream: the bytes of a decision must not depend on the clock.  ``served_at`` and
    ``stream_score`` belong to decisions of the API: what it had read, and what the stream made of the same event.
    ``extra_features`` are those that the rule set asked for beyond the catalogue.
    """

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
    features: NDArray[np.float64]
    entities: Sequence[EntityPosition]
    rules: Sequence[FiredRule]
    contributions: Sequence[Contribution] | None
    contribution_base: float | None
    anomaly_score: float | None
    blacklisted: Sequence[str]
    transaction: Transaction
    latency_ms: float | None = None
    trace_id: str | None = None
    served_at: Sequence[EntityPosition] = field(default_factory=list)
    stream_score: float | None = None
    extra_features: Sequence[ExtraFeature] = field(default_factory=list)


@dataclass(slots=True)
class ShadowDecision:
    """What a challenger would have decided, beside the decision; ``kind`` is ``rules`` or ``model``, ``hash`` names what is tried."""

    decision_id: str
    tenant_id: str
    transaction_id: str
    event_time_ms: int
    kind: str
    hash: str
    outcome: str
    score: float
    model_score: float | None
    rules_score: float | None
    floor: str | None
    rules: Sequence[FiredRule]
    live_outcome: str
    live_score: float
    live_model_sha256: str | None
    live_rule_set_hash: str | None
    door: str
    entities: Sequence[EntityPosition]


@dataclass(slots=True)
class Alert:
    """Something that a person should see; ``source`` is ``hot`` (one decision) or ``cold`` (a pattern behind the watermark)."""

    alert_id: str
    decision_id: str
    tenant_id: str
    transaction_id: str
    card_id: str
    user_id: str | None
    reason: str
    severity: str
    event_time_ms: int
    details: str
    lat: float | None
    lon: float | None
    score: float | None
    outcome: str | None
    source: str


@dataclass(slots=True)
class LabelApplied:
    """That the stream has applied a label, and the number it got in the log of each entity."""

    transaction_id: str
    tenant_id: str
    is_fraud: bool
    label_time_ms: int
    transaction_time_ms: int
    source: str
    entities: Sequence[EntityPosition] = field(default_factory=list)


@dataclass(slots=True)
class Erasure:
    """A request to erase what is kept of a subject; ``kind`` is ``card``, ``user``, ``device`` or ``ip``."""

    tenant_id: str
    kind: str
    subject_id: str
    requested_ms: int


@dataclass(slots=True)
class ErasureApplied:
    """That the stream has erased the entity ``key`` (``tenant_id|entity_id``): ``seq`` is the number of the erasure in its log."""

    tenant_id: str
    kind: str
    key: str
    seq: int
    requested_ms: int


@dataclass(slots=True)
class DeadLetter:
    """An input that can never be scored: where it was, what it was, and why not; ``detail`` never contains the payload."""

    origin_topic: str
    origin_partition: int
    origin_offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    code: str
    detail: str


@dataclass(slots=True)
class RuleSetVersion:
    """One version of the rules: ``body`` is canonical JSON, ``hash`` is the hash of it that decisions record.

    A challenger is tried beside it: it decides for ``traffic_percentage`` of the cards, and is asked behind the decision for the others.
    """

    version: int
    hash: str
    body: str
    author: str | None
    created_ms: int
    challenger_hash: str | None = None
    challenger_body: str | None = None
    traffic_percentage: float = 0.0


@dataclass(slots=True)
class ModelVersion:
    """The model in force; ``sha256`` is that of the file at ``uri``.  A challenger is tried beside it as beside a rule set."""

    name: str
    version: str
    sha256: str
    uri: str
    created_ms: int
    challenger_sha256: str | None = None
    traffic_percentage: float = 0.0


@dataclass(slots=True)
class Change:
    """Something that a person has changed; ``hash`` covers all other fields and ``previous_hash`` binds it to the change before."""

    seq: int
    previous_hash: str
    hash: str
    time_ms: int
    tenant_id: str
    actor: str
    role: str
    action: str
    target: str
    version: int | None = None
    before: str | None = None
    after: str | None = None
    body: str | None = None
    trace_id: str | None = None
