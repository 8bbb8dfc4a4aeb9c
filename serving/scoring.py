"""The scoring use case, shared by stream and API: vectors in, decisions out.

Model, rules and policy are arguments of every call, so a caller that swaps them between batches scores each batch with one of
each.  A side that is ``None`` or fails is "down", and the degraded ladder of :mod:`fraud.decide` answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.decide import DEFAULT_POLICY, Decisions, Outcome, Policy, decide
from fraud.events import Transaction, decision_id
from fraud.rules import Evaluation, Fired, RuleSet, columns_of
from serving.model import Model
from serving.records import Alert, Contribution, Decision, EntityPosition, ExtraFeature, FiredRule

__all__ = ["BLACKLIST_KINDS", "Judgement", "Scorer", "ScoringInput", "alert_of", "judge"]

BLACKLIST_KINDS = ("card", "user", "merchant", "device", "ip")
_SEVERITIES = ("low", "medium", "high", "critical")
_NO_FLOORS: tuple[str | None, ...] = (None, Outcome.CHALLENGE.name, Outcome.DENY.name)


@dataclass(slots=True)
class ScoringInput:
    """A batch: ``features`` is float64[B, F] in catalogue order, the sequences have one entry an event.

    ``extra`` is float64[B, E]: features beyond the catalogue, ``extra_names`` says which; by default those that the rule set asks for,
    and None when it asks for none.
    """

    transactions: Sequence[Transaction]
    features: NDArray[np.float64]
    late: Sequence[bool]
    entities: Sequence[Sequence[EntityPosition]]
    blacklisted: Sequence[Sequence[str]]
    extra: NDArray[np.float64] | None = None
    extra_names: tuple[str, ...] | None = None

    def extra_of(self, rules: RuleSet) -> NDArray[np.float64] | None:
        """The columns that a rule set asks for; None when it asks for none."""
        if self.extra is None or not rules.extra:
            return None
        if self.extra_names is None or self.extra_names == rules.extra:
            return self.extra
        return self.extra[:, [self.extra_names.index(name) for name in rules.extra]]

    def rows(self, positions: Sequence[int]) -> ScoringInput:
        """The batch of some of the events."""
        return ScoringInput(
            transactions=[self.transactions[i] for i in positions],
            features=self.features[positions],
            late=[self.late[i] for i in positions],
            entities=[self.entities[i] for i in positions],
            blacklisted=[self.blacklisted[i] for i in positions],
            extra=None if self.extra is None else self.extra[positions],
            extra_names=self.extra_names,
        )


@dataclass(slots=True)
class _ModelAnswer:
    raw: NDArray[np.float64] | None = None
    calibrated: NDArray[np.float64] | None = None
    anomaly: NDArray[np.float64] | None = None
    anomaly_flag: NDArray[np.bool_] | None = None


@dataclass(slots=True)
class Judgement:
    """What model, rules and policy said of a batch; a side that was down said nothing."""

    answer: _ModelAnswer
    evaluation: Evaluation | None
    made: Decisions

    @property
    def size(self) -> int:
        """Events in the batch."""
        return len(self.made.score)

    def outcomes(self) -> list[str]:
        """Names of the outcomes."""
        return [Outcome(outcome).name for outcome in self.made.outcome.tolist()]

    def model_scores(self) -> Sequence[float | None]:
        """Calibrated scores."""
        return self.each(self.answer.calibrated)

    def rules_scores(self) -> Sequence[float | None]:
        """Scores of the rules."""
        return self.each(None if self.evaluation is None else self.evaluation.score)

    def floors(self) -> Sequence[str | None]:
        """The forced floors as they are recorded; None where nothing is forced."""
        if self.evaluation is None:
            return [None] * self.size
        return [_NO_FLOORS[floor] for floor in self.evaluation.floor.tolist()]

    def fired(self) -> list[list[FiredRule]]:
        """The reasons of each event as they are recorded."""
        if self.evaluation is None:
            return [[] for _ in range(self.size)]
        return [list(map(_fired_rule, reasons)) for reasons in self.evaluation.reasons()]

    def each(self, values: NDArray[np.float64] | None) -> Sequence[float | None]:
        """A value for each event, from the side that gave them; None from one that is down."""
        return [None] * self.size if values is None else values.tolist()


def judge(batch: ScoringInput, rules: RuleSet | None, model: Model | None, policy: Policy = DEFAULT_POLICY) -> Judgement:
    """Score a batch; ``None`` is a side that is down."""
    answer = _ask_model(model, batch.features)
    evaluation = _ask_rules(rules, batch, answer)
    made = decide(
        answer.calibrated,
        None if evaluation is None else evaluation.score,
        None if evaluation is None else evaluation.floor,
        size=len(batch.transactions),
        policy=policy,
    )
    return Judgement(answer, evaluation, made)


class Scorer:
    """Turns batches into decisions.

    Args:
        door: ``stream`` or ``api``.
        code_version: recorded in every decision.
        policy: weights and cuts.
    """

    def __init__(self, door: str, code_version: str, policy: Policy = DEFAULT_POLICY) -> None:
        self._door = door
        self._code_version = code_version
        self._policy = policy

    def score(self, batch: ScoringInput, rules: RuleSet | None, model: Model | None) -> list[Decision]:
        """Decide every event of a batch with one model and one rule set; ``None`` is a side that is down."""
        judged = judge(batch, rules, model, self._policy)
        answer, outcomes = judged.answer, judged.outcomes()
        asked_rules = None if judged.evaluation is None else rules
        explained = _explain(model if answer.raw is not None else None, batch.features, outcomes)
        shared: dict[str, Any] = {
            "catalogue_version": CATALOGUE.version,
            "code_version": self._code_version,
            "door": self._door,
            "degraded": judged.made.degraded,
            "model_sha256": model.sha256 if model is not None and answer.raw is not None else None,
            "rule_set_hash": None if asked_rules is None else asked_rules.hash,
        }
        scores, model_scores, raws = judged.made.score.tolist(), judged.model_scores(), judged.each(answer.raw)
        rules_scores, floors, fired = judged.rules_scores(), judged.floors(), judged.fired()
        anomalies = judged.each(answer.anomaly)
        extra = _extra_features(asked_rules, batch)
        return [
            Decision(
                decision_id=decision_id(tx.tenant_id, tx.transaction_id),
                tenant_id=tx.tenant_id,
                transaction_id=tx.transaction_id,
                event_time_ms=tx.event_time_ms,
                outcome=outcomes[i],
                score=scores[i],
                model_score=model_scores[i],
                model_raw=raws[i],
                rules_score=rules_scores[i],
                floor=floors[i],
                late_event=batch.late[i],
                features=batch.features[i],
                entities=batch.entities[i],
                rules=fired[i],
                contributions=explained[i][0] if i in explained else None,
                contribution_base=explained[i][1] if i in explained else None,
                anomaly_score=anomalies[i],
                blacklisted=batch.blacklisted[i],
                transaction=tx,
                extra_features=extra[i] if extra else [],
                **shared,
            )
            for i, tx in enumerate(batch.transactions)
        ]


def _ask_model(model: Model | None, features: NDArray[np.float64]) -> _ModelAnswer:
    if model is None:
        return _ModelAnswer()
    raw, calibrated = model.predict(features)
    if model.anomaly is None:
        return _ModelAnswer(raw, calibrated)
    anomaly, flag = model.anomaly.evaluate(features)
    return _ModelAnswer(raw, calibrated, anomaly, flag)


def _ask_rules(rules: RuleSet | None, batch: ScoringInput, answer: _ModelAnswer) -> Evaluation | None:
    if rules is None:
        return None
    columns: dict[str, Sequence[Any]] = columns_of(batch.transactions, rules.fields)
    for kind in BLACKLIST_KINDS:
        name = f"{kind}_blacklisted"
        if name in rules.fields:
            columns[name] = [kind in lists for lists in batch.blacklisted]
    columns["late_event"] = batch.late
    if answer.anomaly is not None and answer.anomaly_flag is not None:
        columns["anomaly_score"], columns["anomaly_flag"] = answer.anomaly.tolist(), answer.anomaly_flag.tolist()
    extra = batch.extra_of(rules)
    return rules.evaluate(batch.features if extra is None else np.hstack([batch.features, extra]), columns)


def _explain(model: Model | None, features: NDArray[np.float64], outcomes: Sequence[str]) -> dict[int, tuple[list[Contribution], float]]:
    """Contributions of every event that is not allowed, by position: they cost fifty times a prediction."""
    asked = [i for i, outcome in enumerate(outcomes) if outcome != Outcome.ALLOW.name]
    if model is None or not asked:
        return {}
    table = model.contributions(features[asked])
    explained = {}
    for i, row in zip(asked, table, strict=True):
        used = np.flatnonzero(row[:-1])
        features_used, values = model.columns[used].tolist(), row[used].tolist()
        explained[i] = (list(map(Contribution, features_used, values)), float(row[-1]))
    return explained


def _fired_rule(reason: Fired) -> FiredRule:
    mode = "shadow" if reason.shadow else "enabled"
    return FiredRule(reason.rule_id, reason.reason_code, reason.severity, reason.score, reason.floor, mode, reason.message)


def _extra_features(rules: RuleSet | None, batch: ScoringInput) -> list[list[ExtraFeature]]:
    extra = None if rules is None else batch.extra_of(rules)
    if rules is None or extra is None:
        return []
    return [list(map(ExtraFeature, rules.extra, values)) for values in extra.tolist()]


def alert_of(decision: Decision) -> Alert | None:
    """The alert of a decision that is not ALLOW, or in which an enabled rule of high severity fired; else None."""
    if decision.outcome == Outcome.ALLOW.name and not decision.rules:
        return None  # nearly every decision
    fired = sorted((rule for rule in decision.rules if rule.mode == "enabled"), key=lambda rule: -_SEVERITIES.index(rule.severity))
    worst = fired[0].severity if fired else "medium"
    if decision.outcome == Outcome.ALLOW.name and (not fired or _SEVERITIES.index(worst) < _SEVERITIES.index("high")):
        return None
    tx = decision.transaction
    return Alert(
        alert_id=f"alert-{decision.decision_id.removeprefix('dec-')}",
        decision_id=decision.decision_id,
        tenant_id=decision.tenant_id,
        transaction_id=decision.transaction_id,
        card_id=tx.card_id,
        user_id=tx.user_id,
        reason=fired[0].reason_code if fired else "MODEL_SCORE",
        severity=max(worst, "high", key=_SEVERITIES.index) if decision.outcome == Outcome.DENY.name else worst,
        event_time_ms=decision.event_time_ms,
        details="; ".join(rule.message for rule in fired) or f"model score {decision.model_score}",
        lat=tx.lat,
        lon=tx.lon,
        score=decision.score,
        outcome=decision.outcome,
        source="hot",
    )
