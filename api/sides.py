"""Model and rules under watch: each has a time limit and a breaker, and the degraded ladder answers for the one that is down.

Both work inside this process, so a call cannot be cut off, and a hop to a thread that could be abandoned costs more than both calls
together.  The limit interrupts nobody: a call that is under way is waited for.  What it bounds is the damage: a call beyond it counts as
a failure, and after three in a row the side is left out until one call that is quick again.

A challenger that decides for a share of the cards has a breaker of its own: while it fails or is slow, what is in force decides for
those cards too.

The limit is on the processor's time, since a side waits for nothing.  On a machine that is too busy, time by the clock passes for
everything alike: to take sides down for that would turn slow answers into refused payments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, cast

import structlog

from fraud.rules import RuleSet
from serving.breakers import Breaker
from serving.challengers import Versions
from serving.model import Model
from serving.records import Decision
from serving.rollout import score_by_card
from serving.scoring import Scorer, ScoringInput

__all__ = ["LIMIT_S", "InForce", "Sides"]

LIMIT_S = 0.025  # of work for one event in one side: half the ceiling of 50 ms, so that both fit into it

_log = structlog.get_logger()


class InForce(Protocol):
    """What is to be used now."""

    @property
    def versions(self) -> Versions: ...


class _SideFailed(Exception):
    """A side gave up; the cause says how."""

    def __init__(self, side: _Side) -> None:
        super().__init__(side.breaker.name)
        self.side = side


class _Side:
    """The work that a side takes for one batch."""

    def __init__(self, breaker: Breaker, clock: Callable[[], float]) -> None:
        self.breaker = breaker
        self._clock = clock
        self.spent_s = 0.0

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        begun_s = self._clock()
        try:
            return call(*arguments)
        except Exception as error:  # whatever it is: a payment must not wait for a repair when the other side can answer
            raise _SideFailed(self) from error
        finally:
            self.spent_s += self._clock() - begun_s

    def judge(self, events: int) -> None:
        """Tell the breaker whether the work for so many events, which succeeded, was done in time."""
        (self.breaker.failed if self.spent_s > LIMIT_S * events else self.breaker.succeeded)()


class _WatchedModel:
    """What the scorer uses of a model."""

    def __init__(self, model: Model, side: _Side) -> None:
        self._model = model
        self._side = side
        self.sha256, self.columns, self.anomaly = model.sha256, model.columns, model.anomaly

    def predict(self, matrix: Any) -> Any:
        return self._side.run(self._model.predict, matrix)

    def contributions(self, matrix: Any) -> Any:
        return self._side.run(self._model.contributions, matrix)


class _WatchedRules:
    """What the scorer uses of a rule set."""

    def __init__(self, rules: RuleSet, side: _Side) -> None:
        self._rules = rules
        self._side = side
        self.hash, self.fields, self.extra = rules.hash, rules.fields, rules.extra

    def evaluate(self, features: Any, event_fields: Any) -> Any:
        return self._side.run(self._rules.evaluate, features, event_fields)


class Sides:
    """Scores batches with what is in force and in order.

    Args:
        scorer: of the door ``api``.
        in_force: models and rule sets of this moment.
        clock: seconds, monotonic: how long a breaker stays open.
        work: seconds that the processor has spent on this thread.
    """

    def __init__(
        self,
        scorer: Scorer,
        in_force: InForce,
        *,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self.breakers = {name: Breaker(name, clock=clock) for name in ("model", "rules", "challenger")}
        self._scorer = scorer
        self._in_force = in_force
        self._work = work

    @property
    def versions(self) -> Versions:
        """What decides now: what the rules ask for must be evaluated before they can be asked."""
        return self._in_force.versions.deciding

    def score(self, batch: ScoringInput, versions: Versions) -> list[Decision]:
        """Decide a batch with the versions that its extra features were evaluated for; never fails for a side that does."""
        if versions.has_rollout and not self.breakers["challenger"].admits():
            versions = Versions(versions.rules, versions.model)
        return score_by_card(
            batch,
            versions,
            live=lambda some: self._score(some, versions.rules, versions.model),
            tried=self._score_tried,
            on_failed=lambda _events, error: self._note_tried(error),
        )

    def _score_tried(self, batch: ScoringInput, rules: RuleSet | None, model: Model | None) -> list[Decision]:
        side = _Side(self.breakers["challenger"], self._work)
        decisions: list[Decision] = side.run(self._scorer.score, batch, rules, model)
        side.judge(len(batch.transactions))
        return decisions

    def _note_tried(self, error: Exception) -> None:
        self.breakers["challenger"].failed()
        _log.error("side_failed", side="challenger", exc_info=error.__cause__)

    def _score(self, batch: ScoringInput, rules: RuleSet | None, model: Model | None) -> list[Decision]:
        model_side, rules_side = (_Side(self.breakers[name], self._work) for name in ("model", "rules"))
        watched_model = None if model is None or not model_side.breaker.admits() else cast(Model, _WatchedModel(model, model_side))
        watched_rules = None if rules is None or not rules_side.breaker.admits() else cast(RuleSet, _WatchedRules(rules, rules_side))
        while True:
            try:
                decisions = self._scorer.score(batch, watched_rules, watched_model)
            except _SideFailed as failure:
                failure.side.breaker.failed()
                _log.error("side_failed", side=failure.side.breaker.name, exc_info=failure.__cause__)
                if failure.side is model_side:
                    watched_model = None
                else:
                    watched_rules = None
            else:
                break
        for side, used in ((model_side, watched_model), (rules_side, watched_rules)):
            if used is not None:
                side.judge(len(batch.transactions))
        return decisions
