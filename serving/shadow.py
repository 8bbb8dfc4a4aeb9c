"""The shadow lane: challengers are asked about events that are decided already, and what they would have decided is recorded.

Nothing here can reach a decision: its bytes are written before anybody is asked, and whatever goes wrong with a challenger is counted and
otherwise forgotten.  A challenger that fails or is slow three times in a row is left alone for a while, since those who wait behind this
batch would wait for it.

An event that the API has decided is asked about with the features and lists that the API had; a window that the API did not compute
is the stream's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from fraud.catalogue import CATALOGUE
from fraud.decide import DEFAULT_POLICY, Policy
from fraud.errors import InvalidEvent
from fraud.rules import RuleSet
from serving.breakers import Breaker
from serving.challengers import Versions
from serving.model import Model
from serving.records import Decision, ShadowDecision
from serving.scoring import Judgement, ScoringInput, judge

__all__ = ["MODEL", "RULES", "ShadowLane"]

RULES, MODEL = "rules", "model"

_REST_S = 30.0
_BATCH_LIMIT_S, _EVENT_LIMIT_S = 0.025, 0.001  # of work: several times what the versions in force take
# of one record's messages: with four bytes a character and 500 rules it stays below what readers take, and far below what brokers take
_MESSAGE_CHARACTERS = 32_768

_log = structlog.get_logger()


class _Trial(NamedTuple):
    """One challenger with the other side that is in force."""

    kind: str
    hash: str
    rules: RuleSet | None
    model: Model | None


class ShadowLane:
    """Asks challengers.  Belongs to one operator.

    Args:
        count: told the kind, what came of it (``same`` outcome, ``other``, ``slow``, ``failed``, ``left_out``) and of how many events.
        policy: weights and cuts, those of the decisions.
        clock: seconds, monotonic: how long a challenger is left alone.
        work: seconds that the processor has spent on this thread.
    """

    def __init__(
        self,
        count: Callable[[str, str, int], None],
        policy: Policy = DEFAULT_POLICY,
        *,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self._count = count
        self._policy = policy
        self._clock = clock
        self._work = work
        self._breakers: dict[str, Breaker] = {}

    def ask(self, batch: ScoringInput, decisions: Sequence[Decision], versions: Versions) -> list[ShadowDecision]:
        """What each challenger would have decided of the events that it has not decided; ``decisions`` are what the ledger gets."""
        if versions.rules_challenger is None and versions.model_challenger is None:
            return []
        shadows: list[ShadowDecision] = []
        for trial in _trials(versions):
            places = [i for i, decision in enumerate(decisions) if trial.hash != _decided_with(decision, trial.kind)]
            if not places:
                continue
            breaker = self._breakers.setdefault(trial.hash, Breaker(trial.hash, rest_s=_REST_S, clock=self._clock))
            if breaker.admits():
                shadows += self._try(trial, breaker, batch.rows(places), [decisions[i] for i in places])
            else:
                self._count(trial.kind, "left_out", len(places))
        return shadows

    def _try(self, trial: _Trial, breaker: Breaker, batch: ScoringInput, decisions: Sequence[Decision]) -> list[ShadowDecision]:
        begun_s = self._work()
        try:
            shadows = _shadows(trial, judge(_as_served(batch, decisions), trial.rules, trial.model, self._policy), decisions)
        except Exception:  # noqa: BLE001 - whatever it is: it is the challenger's, and the decisions are made
            _log.exception("shadow_failed", kind=trial.kind, challenger=trial.hash)
            self._count(trial.kind, "failed", len(decisions))
            breaker.failed()
            return []
        is_slow = self._work() - begun_s > _BATCH_LIMIT_S + _EVENT_LIMIT_S * len(decisions)
        others = sum(shadow.outcome != shadow.live_outcome for shadow in shadows)
        for result, events in (("slow", len(shadows)),) if is_slow else (("same", len(shadows) - others), ("other", others)):
            self._count(trial.kind, result, events)
        (breaker.failed if is_slow else breaker.succeeded)()
        return shadows


def _trials(versions: Versions) -> list[_Trial]:
    rules, model = versions.rules_challenger, versions.model_challenger
    trials = []
    if rules is not None:
        trials.append(_Trial(RULES, rules.hash, rules.version, versions.model))
    if model is not None:
        trials.append(_Trial(MODEL, model.hash, versions.rules, model.version))
    return trials


def _decided_with(decision: Decision, kind: str) -> str | None:
    return decision.rule_set_hash if kind == RULES else decision.model_sha256


def _as_served(batch: ScoringInput, decisions: Sequence[Decision]) -> ScoringInput:
    """The batch with what the API had of the events that it has decided."""
    answered = [i for i, decision in enumerate(decisions) if decision.door == "api" and decision.catalogue_version == CATALOGUE.version]
    if not answered:
        return batch
    served = batch.rows(list(range(len(decisions))))  # a copy: numbers and lists of the stream's own decisions stay what they are
    late, blacklisted = list(served.late), list(served.blacklisted)
    for i in answered:
        decision = decisions[i]
        served.features[i] = decision.features
        late[i], blacklisted[i] = decision.late_event, decision.blacklisted
        if served.extra is not None and served.extra_names is not None:
            for feature in decision.extra_features:
                if feature.name in served.extra_names:
                    served.extra[i, served.extra_names.index(feature.name)] = feature.value
    served.late, served.blacklisted = late, blacklisted
    return served


def _shadows(trial: _Trial, judged: Judgement, decisions: Sequence[Decision]) -> list[ShadowDecision]:
    scores, outcomes = judged.made.score.tolist(), judged.outcomes()
    model_scores, rules_scores = judged.model_scores(), judged.rules_scores()
    floors, fired = judged.floors(), judged.fired()
    if any(sum(len(rule.message) for rule in rules) > _MESSAGE_CHARACTERS for rules in fired):
        raise InvalidEvent("too_large", f"messages of more than {_MESSAGE_CHARACTERS} characters for one decision")
    return [
        ShadowDecision(
            decision_id=decision.decision_id,
            tenant_id=decision.tenant_id,
            transaction_id=decision.transaction_id,
            event_time_ms=decision.event_time_ms,
            kind=trial.kind,
            hash=trial.hash,
            outcome=outcomes[i],
            score=scores[i],
            model_score=model_scores[i],
            rules_score=rules_scores[i],
            floor=floors[i],
            rules=fired[i],
            live_outcome=decision.outcome,
            live_score=decision.score,
            live_model_sha256=decision.model_sha256,
            live_rule_set_hash=decision.rule_set_hash,
            door=decision.door,
            entities=decision.entities,
        )
        for i, decision in enumerate(decisions)
    ]
