"""What tests of the scoring routes need: the use case with everything real but the sockets, and the things that stand in for those."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from api.answers import Answers, Ask, Collaborators, Timing
from api.blocked import Blocked
from api.features import FeatureReader
from api.idempotency import FINISH_SHA, Claims
from api.metrics import ApiMetrics
from api.publisher import Headers
from api.redis_channel import Redis
from api.sides import Sides
from api.tracing import Trace, continued
from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.events import KINDS, Transaction, entity_ids
from fraud.rules import RuleSet
from serving.challengers import Challenger, Versions
from serving.clock import now_ms
from serving.codec import Codec
from serving.enrich import Enricher
from serving.model import Model
from serving.redis_link import Command
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from serving.scoring import Scorer
from serving.state_reads import StateReads
from tests.wire_samples import SCHEMA_IDS

SECRET = b"k" * 32
HEALTH = "fraudguard:health"
CODEC = Codec(SCHEMA_IDS)
RULES = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)


class FakeRedis:
    """The commands of the scoring path over a dictionary; held to the real Redis' behaviour by ``api_redis_contract``."""

    def __init__(self, now_ms: Callable[[], int] = now_ms) -> None:
        self.values: dict[str, tuple[bytes, float]] = {}
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.calls = 0
        self.is_down = False
        self.values[HEALTH] = (b"whole run-1", float("inf"))
        self._now_ms = now_ms

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        self.calls += 1
        if self.is_down:
            raise Unavailable("redis", "down")
        return [self._run(*command) for command in commands]

    def _run(self, name: Any, *arguments: Any) -> Any:
        match name:
            case "GET":
                return self._get(*arguments)
            case "SET":
                key, value, *options = arguments
                assert "NX" in options
                if self._get(key) is not None:
                    return None
                unit, scale = ("PX", 1) if "PX" in options else ("EX", 1_000)
                self.values[key] = (value, self._now_ms() + scale * options[options.index(unit) + 1])
                return b"OK"
            case "INFO":
                return b"# Server\r\nrun_id:run-1\r\n"
            case "HMGET":
                key, *fields = arguments
                return [self.hashes.get(key, {}).get(one) for one in fields]
            case "EVALSHA":
                assert arguments[0] == FINISH_SHA
                return self._finish(*arguments[2:])
        raise AssertionError(name)

    def _get(self, key: str) -> bytes | None:
        value, until_ms = self.values.get(key, (b"", 0.0))
        return value if self._now_ms() < until_ms else None

    def _finish(self, key: str, claim: bytes, record: bytes, ttl_ms: int) -> bytes | None:
        found = self._get(key)
        if found is not None and found[:1] == b"A":
            return found
        if record:
            self.values[key] = (record, self._now_ms() + ttl_ms)
        elif found == claim:
            del self.values[key]
        return None


@dataclass
class FakePublisher:
    """Keeps what it is given; ``room`` is how much that may be."""

    room: int = 10**9
    is_behind: bool = False
    published: list[tuple[bytes, bytes, Headers]] = field(default_factory=list)

    def publish(self, key: bytes, value: bytes, headers: Headers) -> bool:
        if len(self.published) >= self.room:
            return False
        self.published.append((key, value, headers))
        return True

    @property
    def transactions(self) -> list[Transaction]:
        """What the stream would read."""
        return [CODEC.decode_transaction(value) for _, value, _ in self.published]


class FakeBlacklist:
    """The lists of ``serving.blacklist.Blacklist`` without a Redis: ``(tenant, kind, id)``."""

    def __init__(self, *blocked: tuple[str, str, str]) -> None:
        self._blocked = set(blocked)

    def knows(self, _tenant_id: str) -> bool:
        return True

    def lists_of(self, transactions: Sequence[Transaction]) -> list[list[str]]:
        return [
            [kind for kind, entity in zip(KINDS, entity_ids(tx), strict=True) if (tx.tenant_id, kind, entity) in self._blocked]
            for tx in transactions
        ]


class FakeModel:
    """A model by its answer: ``raw`` for every event, or the exception that it raises."""

    sha256 = "f" * 64
    anomaly = None
    columns = np.arange(3)

    def __init__(self, probability: float = 0.1, *, error: Exception | None = None, on_predict: Callable[[], None] = lambda: None) -> None:
        self._probability = probability
        self.error = error
        self._on_predict = on_predict
        self.calls = 0

    def predict(self, matrix: Any) -> Any:
        self.calls += 1
        self._on_predict()
        if self.error is not None:
            raise self.error
        return np.full(len(matrix), 0.5), np.full(len(matrix), self._probability)

    def contributions(self, matrix: Any) -> Any:
        return np.tile([0.3, 0.0, 0.1, 0.1], (len(matrix), 1))


@dataclass
class InForce:
    """What is in force, as a test wants it."""

    model: Any = field(default_factory=FakeModel)
    rules: RuleSet | None = RULES
    rules_challenger: Challenger[RuleSet] | None = None
    model_challenger: Challenger[Model] | None = None

    @property
    def versions(self) -> Versions:
        return Versions(self.rules, self.model, self.rules_challenger, self.model_challenger)


@dataclass
class World:
    """The use case and what it was made of."""

    redis: Any = field(default_factory=FakeRedis)
    publisher: FakePublisher = field(default_factory=FakePublisher)
    in_force: InForce = field(default_factory=InForce)
    blacklist: FakeBlacklist = field(default_factory=FakeBlacklist)
    now_ms: Callable[[], int] = now_ms
    clock: Callable[[], float] = time.monotonic
    work: Callable[[], float] = time.thread_time

    def __post_init__(self) -> None:
        self.metrics = ApiMetrics()
        self.sides = Sides(Scorer("api", "test"), self.in_force, clock=self.clock, work=self.work)
        self.answers = answers_with(self)

    async def ask(self, *transactions: Transaction, key: str | None = None, content: bytes | None = None) -> list[bytes | Exception]:
        asks = [Ask(tx, repr(tx).encode() if content is None else content, key) for tx in transactions]
        return await self.answers.answer(asks, TRACE, Timing(time.perf_counter()))

    def counted(self, name: str, **labels: str) -> float:
        """A sample of the metrics; 0 where there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


TRACE: Trace = continued("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


def answers_with(world: World, redis: Redis | None = None) -> Answers:
    return Answers(
        Collaborators(
            redis=redis or world.redis,
            claims=Claims(SECRET),
            states=StateReads(),
            features=FeatureReader(),
            sides=world.sides,
            blocked=Blocked(world.blacklist),  # type: ignore[arg-type]
            enricher=Enricher(SECRET),
            codec=CODEC,
            publisher=world.publisher,
            metrics=world.metrics,
            now_ms=world.now_ms,
        )
    )


_numbers = itertools.count(1)


def payment(**changed: Any) -> Transaction:
    """A payment of its own; ``changed`` names what matters to the test."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "transaction_id": f"t-{number}",
        "tenant_id": "acme",
        "card_id": "c-1",
        "merchant_id": "m-1",
        "amount_minor": 1_000 + number,
        "currency": "EUR",
        "event_time_ms": now_ms() - 1_000,
        "user_id": "u-1",
        "device_id": "d-1",
        "ip_address": "203.0.113.7",
        "country": "FR",
    }
    return Transaction(**(values | changed))
