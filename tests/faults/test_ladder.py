"""The degraded ladder: each component really stopped under a running API, what it answers meanwhile, and that it finds its way back.

``./fraudguard test faults -k ladder`` prints the table.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from infra.scoring_job import models_dir
from tests.api_stack import Answer, ApiStack, question
from tests.faults.conftest import LADDER

pytestmark = pytest.mark.slow

CEILING_MS = 50.0
BUFFER = 50
TRIES = 40


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiStack]:
    own = ApiStack(tmp_path_factory.mktemp("ladder"), buffered_events=BUFFER)
    try:
        own.train()
        own.up()
        for _ in range(20):
            own.ask("/v1/score", question())
        # the first record waits for the producer to make itself known to the broker
        own.wait_until(lambda: own.sample("fraud_api_buffered_events") == 0, "events are not sent")
        yield own
    finally:
        own.down()


@pytest.fixture
def rungs(pytestconfig: pytest.Config) -> list[tuple[str, ...]]:
    header = ("stopped", "decision", "degraded", "features", "median ms", "max ms")
    return pytestconfig.stash.setdefault(LADDER, [header])


def ask_often(stack: ApiStack) -> tuple[list[Answer], list[float]]:
    """Answers one after the other, and the milliseconds that each took as the API counts them."""
    answers = [stack.ask("/v1/score", question(card_id=f"c-{i}")) for i in range(TRIES)]
    assert {one.status for one in answers} == {200}, answers[0].body
    return answers, sorted(one.json["latency_ms"] for one in answers)


def note(rungs: list[tuple[str, ...]], stopped: str, answers: list[Answer], took_ms: list[float]) -> None:
    one = answers[-1].json
    features = "missing" if one["freshness"] is None else "lost ones missing" if "store_healing" in one["degraded"] else "as stored"
    numbers = (f"{took_ms[len(took_ms) // 2]:.1f}", f"{took_ms[-1]:.1f}")
    rungs.append((stopped, one["decision"], ", ".join(one["degraded"]) or "-", features, *numbers))


def degraded(stack: ApiStack) -> list[str]:
    found: list[str] = stack.ask("/v1/score", question()).json["degraded"]
    return found


def test_ladder_with_everything_there(stack: ApiStack, rungs: list[tuple[str, ...]]) -> None:
    """The control: nothing is degraded, so that what the other rungs show comes from what they stop."""
    answers, took_ms = ask_often(stack)
    whole = [one for one in answers if not one.json["degraded"] and one.json["freshness"] and one.json["model_score"] is not None]
    assert len(whole) > 0.9 * TRIES  # a machine that is shared may keep Redis from its core for longer than the ceiling
    note(rungs, "nothing", answers, took_ms)


def test_ladder_without_redis(stack: ApiStack, rungs: list[tuple[str, ...]]) -> None:
    stack.stop("redis")
    try:
        answers, took_ms = ask_often(stack)
        assert all("store_down" in one.json["degraded"] and one.json["freshness"] is None for one in answers)
        assert all(one.json["model_score"] is not None for one in answers)
        # the first few wait for a server that is not there, then the breaker answers for it; half of them is the promise here, as
        # a shared machine may hold up any one
        assert took_ms[len(took_ms) // 2] < CEILING_MS
        ready = stack.ask("/health/ready")
        assert (ready.status, ready.json["dependencies"]["redis"]["state"]) == (200, "down")
        note(rungs, "redis", answers, took_ms)
    finally:
        stack.start("redis")
    stack.wait_until(lambda: degraded(stack) == ["store_healing"], "it takes a Redis that may have lost something for a whole one")
    answers, took_ms = ask_often(stack)
    assert all("store_healing" in one.json["degraded"] for one in answers)
    note(rungs, "redis, restarted", answers, took_ms)
    stack.mark_whole()
    assert stack.wait_until(lambda: degraded(stack) == [], "the store is not found again") < 5.0


def test_ladder_without_kafka(stack: ApiStack, rungs: list[tuple[str, ...]]) -> None:
    """What fits into the buffer reaches the topic in order when Kafka is back; what does not is counted."""
    stack.wait_until(lambda: stack.sample("fraud_api_buffered_events") == 0, "what came before has not left the buffer")
    stack.stop("kafka")
    asked = [question(card_id="one-card") for _ in range(BUFFER + 10)]
    try:
        first = [stack.ask("/v1/score", one) for one in asked]
        assert {one.status for one in first} == {200}
        stack.wait_until(lambda: "kafka_down" in degraded(stack), "it does not notice that Kafka is away")
        overflowed = stack.sample("fraud_api_lost_events_total", cause="overflow")
        assert overflowed >= 10
        assert stack.sample("fraud_api_buffered_events") == BUFFER
        answers, took_ms = ask_often(stack)
        assert all("kafka_down" in one.json["degraded"] for one in answers)
        assert took_ms[len(took_ms) // 2] < CEILING_MS
        assert stack.sample("fraud_api_lost_events_total", cause="overflow") == overflowed + TRIES
        note(rungs, "kafka", answers, took_ms)
    finally:
        stack.start("kafka")
    stack.wait_until(lambda: stack.sample("fraud_api_buffered_events") == 0, "the buffer is not drained", 60.0)
    arrived = [one.transaction.transaction_id for one in stack.published() if one.transaction.card_id == "one-card"]
    assert arrived == [one["transaction_id"] for one in asked[:BUFFER]]
    assert stack.wait_until(lambda: degraded(stack) == [], "it does not notice that Kafka is back") < 10.0


def test_ladder_without_a_model(stack: ApiStack, rungs: list[tuple[str, ...]]) -> None:
    models = models_dir(stack.plan.layout)
    hidden = models.with_name("hidden")
    stack.stop("api")
    shutil.move(models, hidden)
    try:
        stack.start("api")
        answers, took_ms = ask_often(stack)
        assert all("model_down" in one.json["degraded"] for one in answers)
        assert {(one.json["decision"], one.json["model_score"]) for one in answers} == {("ALLOW", None)}
        assert stack.ask("/health/ready").json["dependencies"]["model"]["state"] == "down"
        note(rungs, "model", answers, took_ms)
    finally:
        shutil.rmtree(models, ignore_errors=True)
        shutil.move(hidden, models)
    stack.wait_until(lambda: degraded(stack) == [], "the model is not found again")


def test_ladder_without_redis_and_kafka(stack: ApiStack, rungs: list[tuple[str, ...]]) -> None:
    stack.stop("redis")
    stack.stop("kafka")
    try:
        degraded(stack)
        stack.wait_until(lambda: degraded(stack) == ["store_down", "kafka_down"], "it does not notice both")
        answers, took_ms = ask_often(stack)
        note(rungs, "redis, kafka", answers, took_ms)
        assert all(one.json["degraded"] == ["store_down", "kafka_down"] for one in answers)
    finally:
        stack.start("redis")
        stack.mark_whole()
        stack.start("kafka")
    time.sleep(1.0)
    assert stack.wait_until(lambda: degraded(stack) == [], "it does not come back whole") < 30.0
