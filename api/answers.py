"""The use case behind the scoring routes: transactions in, the bytes of their answers out.

One round trip to Redis claims every transaction and reads every entity; features, model and rules follow in this process; the decided
transactions are handed to Kafka; a second round trip puts each answer in the place of its claim.  Whatever is away costs its part of
the answer and never the answer: the degraded ladder, which each answer names.  A batch of one is a batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from api.blocked import Blocked
from api.features import Evaluated, FeatureReader, States, View
from api.idempotency import FINISH_SCRIPT, Claim, Claims, Standing
from api.metrics import ApiMetrics
from api.presenting import answer_bytes
from api.problems import Problem
from api.publisher import Headers
from api.redis_channel import Redis
from api.sides import Sides
from api.tracing import HEADER, Trace
from fraud.errors import InvalidEvent, Unavailable
from fraud.events import Entity, Transaction, decision_id, entities_of
from serving.breakers import Breaker
from serving.challengers import Versions
from serving.codec import Codec
from serving.decision_index import keep_command
from serving.degraded import KAFKA_DOWN, STORE_DOWN, STORE_HEALING
from serving.enrich import Enricher
from serving.logs import DecisionLog
from serving.records import Decision
from serving.redis_link import Command, ScriptMissing
from serving.scoring import ScoringInput
from serving.state_reads import StateReads
from serving.validate import validate

__all__ = ["Answers", "Ask", "Collaborators", "Publisher", "Timing"]

# how long a question waits for the answer that somebody else is making, milliseconds between looks: then 409
_PATIENCE_MS = (2, 4, 8, 16, 32, 64)


class Publisher(Protocol):
    """What is needed of ``KafkaPublisher``."""

    @property
    def is_behind(self) -> bool: ...

    def publish(self, key: bytes, value: bytes, headers: Headers) -> bool: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A transaction to decide: ``content`` is what idempotency compares, ``key`` the caller's own, if it sent one."""

    transaction: Transaction
    content: bytes
    key: str | None = None


@dataclass(slots=True)
class Timing:
    """When a request arrived, by the clock, and what its parts took in seconds."""

    begun_s: float
    features_s: float = 0.0
    scoring_s: float = 0.0

    @property
    def header(self) -> str:
        """As the header ``Server-Timing`` says it."""
        return f"features;dur={self.features_s * 1e3:.3f}, scoring;dur={self.scoring_s * 1e3:.3f}"


@dataclass(frozen=True, slots=True)
class Collaborators:
    """What answers are made with; ``now_ms`` is the wall clock, ms UTC."""

    redis: Redis
    claims: Claims
    states: StateReads
    features: FeatureReader
    sides: Sides
    blocked: Blocked
    enricher: Enricher
    codec: Codec
    publisher: Publisher
    metrics: ApiMetrics
    now_ms: Callable[[], int]


@dataclass(slots=True)
class _Question:
    """One ask on its way to an answer; ``result`` is what the caller gets, ``keep`` puts the decision where its id finds it."""

    transaction: Transaction
    claim: Claim
    result: bytes | Exception | None = None
    waits: bool = False
    keep: Command | None = None


@dataclass(slots=True)
class _Reading:
    """What the first round trip brought: the states by entity, None when the store is down."""

    states: States | None
    read_at_ms: int


class Answers:
    """Answers questions; belongs to one event loop."""

    def __init__(self, collaborators: Collaborators, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._with = collaborators
        self._clock = clock
        self.redis_breaker = Breaker("redis")
        self._log = DecisionLog()

    async def answer(self, asks: Sequence[Ask], trace: Trace, timing: Timing) -> list[bytes | Exception]:
        """Answer each ask, in order: a ScoreAnswer's bytes, or why there is none.

        Args:
            asks: transactions of one tenant.
            trace: the request's.
            timing: when it arrived; what the parts took is written there.
        """
        results: list[bytes | Exception | _Question] = [self._question(ask) for ask in asks]
        _refuse_repeats(results)
        questions = [one for one in results if isinstance(one, _Question)]
        if questions:
            await self._with.blocked.know(questions[0].transaction.tenant_id)
            await self._settle(questions, trace, timing)
        return [_result(one) for one in results]

    def _question(self, ask: Ask) -> Exception | _Question:
        tx = ask.transaction
        try:
            validate(tx, now_ms=self._with.now_ms())
            self._with.enricher.enrich(tx)
        except InvalidEvent as error:
            return error
        return _Question(tx, self._with.claims.claim(tx.tenant_id, tx.transaction_id, ask.content, ask.key))

    async def _settle(self, questions: list[_Question], trace: Trace, timing: Timing) -> None:
        read_s = self._clock()
        reading = await self._claim_and_read(questions)
        mine = [one for one in questions if one.result is None and not one.waits]
        if mine:
            versions = self._with.sides.versions
            evaluated = self._with.features.evaluate([one.transaction for one in mine], reading.states, versions.extra)
            timing.features_s = self._clock() - read_s
            self._with.metrics.features(timing.features_s)
            bodies = self._decide(mine, evaluated, versions, reading.read_at_ms, trace, timing)
            await self._finish(mine, bodies)
        await self._give_back([one for one in questions if isinstance(one.result, Exception)])
        await self._wait_for_others([one for one in questions if one.waits])

    async def _claim_and_read(self, questions: list[_Question]) -> _Reading:
        claims, reads = self._with.claims, self._with.states
        entities: list[Entity] = list(dict.fromkeys(entity for one in questions for entity in entities_of(one.transaction)))
        takes = [claims.take(one.claim) for one in questions]
        asked = reads.commands(entities)
        try:
            replies = await self._call([*(command for take in takes for command in take), *asked])
        except Unavailable:
            # nobody remembers what was asked before, and nothing is known of the entities: answer all the same
            return _Reading(None, self._with.now_ms())
        states = self._states(entities, replies[-len(asked) :])
        at = 0
        for one, take in zip(questions, takes, strict=True):
            self._stand(one, replies[at : at + len(take)], states)
            at += len(take)
        return _Reading(states, self._with.now_ms())

    def _states(self, entities: list[Entity], replies: list[object]) -> States | None:
        try:
            return self._with.features.decoded(entities, self._with.states.reading(entities, replies))
        except Unavailable:
            self._with.metrics.redis_failed()
            return None

    def _stand(self, one: _Question, replies: list[object], states: States | None) -> None:
        claimed = self._with.claims.read(one.claim, replies)
        match claimed.standing:
            case Standing.ANSWERED:
                one.result = claimed.answer
                self._with.metrics.repeated()
            case Standing.OTHER_CONTENT:
                one.result = Problem(422, "idempotency_mismatch", "the key or the transaction id has been used with other content")
            case Standing.IN_PROGRESS:
                one.waits = True
            case Standing.OURS:
                if states is not None and self._with.features.has_applied(one.transaction, states):
                    one.result = _already_decided(one.transaction)

    def _decide(
        self, mine: list[_Question], evaluated: Evaluated, versions: Versions, read_at_ms: int, trace: Trace, timing: Timing
    ) -> list[bytes]:
        begin_s = self._clock()
        transactions = [one.transaction for one in mine]
        decisions = self._with.sides.score(
            ScoringInput(
                transactions=transactions,
                features=evaluated.features,
                late=[False] * len(mine),  # lateness is the watermark's word, and there is none here
                entities=[[] if evaluated.views is None else [view.position(1) for view in views] for views in _views(evaluated, mine)],
                blacklisted=self._with.blocked.lists_of(transactions),
                extra=evaluated.extra,
                extra_names=versions.extra,
            ),
            versions,
        )
        timing.scoring_s = self._clock() - begin_s
        self._with.metrics.scored(timing.scoring_s)
        degraded = self._degraded(decisions[0], has_states=evaluated.views is not None)
        bodies = []
        for one, decision, views in zip(mine, decisions, _views(evaluated, mine), strict=True):
            bodies.append(self._present(one, decision, None if evaluated.views is None else views, read_at_ms, degraded, trace, timing))
        self._with.metrics.decided(decisions, degraded)
        self._log.decisions(decisions)
        return bodies

    def _present(
        self,
        one: _Question,
        decision: Decision,
        views: list[View] | None,
        read_at_ms: int,
        degraded: list[str],
        trace: Trace,
        timing: Timing,
    ) -> bytes:
        if views is not None and len(views) < len(entities_of(decision.transaction)):
            degraded = [*degraded, STORE_HEALING]
            self._with.metrics.healing()
        decision.degraded = ",".join(degraded) or None
        decision.trace_id = trace.trace_id
        decision.served_at = [] if views is None else [view.position() for view in views]
        decision.latency_ms = round((self._clock() - timing.begun_s) * 1e3, 3)
        value = self._with.codec.encode_decision(decision, self._with.codec.encode_transaction(decision.transaction))
        one.keep = keep_command(decision, value)
        is_kept = self._publish(decision, value, trace)
        if not is_kept and KAFKA_DOWN not in degraded:
            degraded = [*degraded, KAFKA_DOWN]
        return answer_bytes(decision, views, read_at_ms, degraded)

    def _degraded(self, decision: Decision, *, has_states: bool) -> list[str]:
        """What is missing, in the words of the answer: those of ``fraud.decide`` one by one, then those of this door."""
        sides = (
            [name for name in ("model_down", "rules_down") if name.removesuffix("_down") in decision.degraded] if decision.degraded else []
        )
        return [*sides, *([] if has_states else [STORE_DOWN]), *([KAFKA_DOWN] if self._with.publisher.is_behind else [])]

    def _publish(self, decision: Decision, value: bytes, trace: Trace) -> bool:
        """Hand the transaction to the stream with its decision."""
        codec, tx = self._with.codec, decision.transaction
        record = codec.encode_transaction(replace(tx, decided=value))
        return self._with.publisher.publish(tx.card_id.encode(), record, [(HEADER, trace.traceparent.encode())])

    async def _finish(self, mine: list[_Question], bodies: list[bytes]) -> None:
        """Keep the answers; where somebody else was first, his counts."""
        replies: list[object] = [None] * len(mine)
        try:
            finishes = [self._with.claims.finish(one.claim, body) for one, body in zip(mine, bodies, strict=True)]
            replies = (await self._call([*finishes, *(one.keep for one in mine if one.keep)]))[: len(mine)]
        except Unavailable:
            self._with.metrics.unkept(len(mine))
        for one, body, reply in zip(mine, bodies, replies, strict=True):
            first = self._with.claims.standing_answer(reply if isinstance(reply, bytes) else None)
            one.result = body if first is None else first

    async def _give_back(self, refused: list[_Question]) -> None:
        if not refused:
            return
        try:
            await self._call([self._with.claims.give_back(one.claim) for one in refused])
        except Unavailable:
            return  # the lease ends by itself

    async def _wait_for_others(self, waiting: list[_Question]) -> None:
        for pause_ms in _PATIENCE_MS:
            if not waiting:
                return
            await asyncio.sleep(pause_ms / 1e3)
            try:
                replies = await self._call([command for one in waiting for command in self._with.claims.look(one.claim)])
            except Unavailable:
                break
            for one, reply in zip(waiting, replies, strict=True):
                claimed = self._with.claims.read_again(one.claim, reply if isinstance(reply, bytes) else None)
                if claimed.standing is Standing.ANSWERED:
                    one.result, one.waits = claimed.answer, False
                    self._with.metrics.repeated()
            waiting = [one for one in waiting if one.waits]
        for one in waiting:
            one.result = Problem(409, "in_progress", "the same question is being answered", headers={"Retry-After": "1"})

    async def _call(self, commands: list[Command]) -> list[object]:
        """One round trip, if the breaker lets it through."""
        if not self.redis_breaker.admits():
            raise Unavailable("redis", "left alone for a moment")
        try:
            replies = await self._with.redis.call(commands)
        except ScriptMissing:
            return await self._reload(commands)
        except Unavailable:
            self.redis_breaker.failed()
            self._with.metrics.redis_failed()
            raise
        self.redis_breaker.succeeded()
        return replies

    async def _reload(self, commands: list[Command]) -> list[object]:
        """Redis was restarted or flushed: give it the script, and ask again."""
        return (await self._with.redis.call([("SCRIPT", "LOAD", FINISH_SCRIPT), *commands]))[1:]


def _result(one: bytes | Exception | _Question) -> bytes | Exception:
    if not isinstance(one, _Question):
        return one
    assert one.result is not None  # every question is settled
    return one.result


def _refuse_repeats(results: list[bytes | Exception | _Question]) -> None:
    """A transaction that stands twice in one batch is asked once; the second is a mistake."""
    seen: set[str] = set()
    for place, one in enumerate(results):
        if isinstance(one, _Question):
            if one.claim.record in seen:
                results[place] = InvalidEvent("repeated_transaction", "transaction_id stands twice in this batch")
            seen.add(one.claim.record)


def _already_decided(tx: Transaction) -> Problem:
    """The stream has seen this transaction before us, and it has one decision."""
    identity = decision_id(tx.tenant_id, tx.transaction_id)
    return Problem(
        409,
        "already_decided",
        "this transaction has come through the stream; its decision can be read",
        headers={"Location": f"/v1/decisions/{identity}"},
        decision_id=identity,
    )


def _views(evaluated: Evaluated, mine: list[_Question]) -> list[list[View]]:
    return evaluated.views if evaluated.views is not None else [[] for _ in mine]
