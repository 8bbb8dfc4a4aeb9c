"""The use case behind the scoring routes: answers, idempotency, the degraded ladder, what the stream gets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest

from api.answers import Ask, Timing
from api.problems import Problem
from api.schemas import ScoreAnswer
from fraud import kernel as k
from fraud.catalogue import CATALOGUE
from fraud.errors import InvalidEvent, Unavailable
from fraud.events import Kind, Transaction, decision_id
from fraud.state import encode_state, state_seq, state_time_ms
from fraud.vector import Evaluator, event_row
from serving.clock import now_ms
from serving.feast_layout import FEATURE_FIELDS, EntityKeys, RowCodec
from tests.scoring_world import CODEC, HEALTH, TRACE, FakeBlacklist, FakeModel, FakePublisher, FakeRedis, InForce, World, payment


def ask(world: World, *transactions: Transaction, **options: Any) -> list[bytes | Exception]:
    return asyncio.run(world.ask(*transactions, **options))


def answer(world: World, transaction: Transaction | None = None, **options: Any) -> dict[str, Any]:
    """The answer to one question, which must be one."""
    (result,) = ask(world, transaction or payment(), **options)
    assert isinstance(result, bytes), result
    parsed: dict[str, Any] = json.loads(result)
    ScoreAnswer.model_validate(parsed)
    return parsed


def problem(world: World, transaction: Transaction, **options: Any) -> Problem:
    (result,) = ask(world, transaction, **options)
    assert isinstance(result, Problem)
    return result


def store(redis: FakeRedis, *history: Transaction) -> None:
    """Put the states into the store that the stream has after a history."""
    states: dict[tuple[int, str], Any] = {}
    evaluator, codec, keys = Evaluator(), RowCodec(), EntityKeys("fraudguard")
    for tx in history:
        row = event_row(tx)
        ids = (tx.card_id, tx.user_id, tx.merchant_id, tx.device_id, tx.ip_hash)
        for kind, entity in enumerate(ids):
            if entity is not None:
                key = (kind, f"{tx.tenant_id}|{entity}")
                out = np.empty(CATALOGUE.slices[kind].stop - CATALOGUE.slices[kind].start)
                states[key] = evaluator.observe(kind, states.get(key, k.empty_state()), row, out)
    for (kind, key), state in states.items():
        values = (
            codec.state(encode_state(state, kind)),
            codec.integer(state_seq(state)),
            codec.integer(state_time_ms(state)),
        )
        redis.hashes[keys.encode(kind, key)] = dict(zip(FEATURE_FIELDS[kind], values, strict=True))


# --- the answer ---


def test_an_answer_names_its_decision_its_versions_and_what_it_knew() -> None:
    world, tx = World(), payment()
    found = answer(world, tx)
    assert found["decision"] == "ALLOW"
    assert found["decision_id"] == decision_id("acme", tx.transaction_id)
    assert found["model_sha256"] == FakeModel.sha256
    assert found["rule_set_hash"] == world.in_force.rules.hash  # type: ignore[union-attr]
    assert found["degraded"] == []
    assert {one["kind"]: (one["seq"], one["event_time_ms"]) for one in found["freshness"]["entities"]} == dict.fromkeys(
        ("card", "user", "merchant", "device", "ip"), (0, None)
    )


def test_windows_are_evaluated_as_of_the_request_over_the_stored_state() -> None:
    """Five payments were seen in ten minutes; the sixth comes an hour later, when none of them is in a window of an hour any more."""
    at_ms = now_ms()
    history = [payment(event_time_ms=at_ms - 3_700_000 - 60_000 * i, ip_address=None) for i in range(5)]
    for later_ms, count in ((3_000_000, 6.0), (0, 1.0)):
        world = World()
        store(world.redis, *history)
        found = answer(world, payment(event_time_ms=at_ms - later_ms, ip_address=None))
        (tx,) = world.publisher.transactions
        features = CODEC.decode_decision(tx.decided).features
        assert features[CATALOGUE.index["card_count_tx_1h"]] == count
        assert {one["kind"]: one["seq"] for one in found["freshness"]["entities"]} == dict.fromkeys(
            ("card", "user", "merchant", "device"), 5
        )


def test_a_decision_that_is_not_allow_is_explained_and_the_parts_sum_to_the_raw_score() -> None:
    found = answer(World(in_force=InForce(FakeModel(0.95))))
    explained = found["explanation"]
    assert found["decision"] == "CHALLENGE"
    assert sum(one["contribution"] for one in explained["contributions"]) + explained["rest"] + explained["base"] == pytest.approx(
        explained["raw_score"]
    )
    assert answer(World())["explanation"] is None


def test_a_blocked_card_is_denied_whatever_the_model_says() -> None:
    world = World(blacklist=FakeBlacklist(("acme", "card", "c-1")))
    found = answer(world)
    assert found["decision"] == "DENY"
    assert any("block" in one["rule_id"] or "black" in one["rule_id"] for one in found["reasons"])


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"currency": "XXX"}, "unknown_currency"),
        ({"event_time_ms": now_ms() + 3_600_000}, "future_event"),
        ({"ip_address": "300.1.2.3"}, "bad_ip"),
    ],
)
def test_what_the_stream_would_refuse_is_refused_and_leaves_no_trace(changed: dict[str, Any], code: str) -> None:
    world = World()
    (result,) = ask(world, payment(**changed))
    assert isinstance(result, InvalidEvent)
    assert result.code == code
    assert set(world.redis.values) == {HEALTH}
    assert world.publisher.published == []


# --- what the stream gets ---


def test_the_stream_gets_the_transaction_with_the_decision_that_was_answered() -> None:
    world, tx = World(in_force=InForce(FakeModel(0.95))), payment()
    found = answer(world, tx)
    ((key, value, headers),) = world.publisher.published
    sent = CODEC.decode_transaction(value)
    decided = CODEC.decode_decision(sent.decided)
    assert key == b"c-1"
    assert (sent.ip_address, decided.transaction.ip_address, decided.transaction.decided) == (None, None, None)
    assert sent.ip_hash == decided.transaction.ip_hash is not None
    assert dict(headers)["traceparent"].decode().split("-")[1] == TRACE.trace_id == decided.trace_id
    assert (decided.door, decided.outcome, decided.score) == ("api", found["decision"], found["score"])
    assert (decided.latency_ms, decided.decision_id) == (found["latency_ms"], found["decision_id"])
    assert [one.seq for one in decided.served_at] == [0] * 5
    assert [one.seq for one in decided.entities] == [1] * 5
    assert decided.stream_score is None


# --- idempotency ---


def test_the_same_question_gets_the_first_answer_and_the_stream_sees_it_once() -> None:
    world = World()
    first = ask(world, payment(transaction_id="t"), content=b"a")
    world.in_force.model = FakeModel(0.95)  # would decide otherwise
    assert ask(world, payment(transaction_id="t"), content=b"a") == first
    assert len(world.publisher.published) == 1
    assert world.counted("fraud_api_repeated_answers_total") == 1


def test_other_content_under_one_transaction_is_a_mismatch() -> None:
    world = World()
    ask(world, payment(transaction_id="t"), content=b"a")
    refused = problem(world, payment(transaction_id="t"), content=b"b")
    assert (refused.status, refused.code) == (422, "idempotency_mismatch")


def test_other_content_under_one_key_is_a_mismatch_and_claims_nothing() -> None:
    world = World()
    answer(world, payment(transaction_id="t"), content=b"a", key="k")
    assert problem(world, payment(transaction_id="u"), content=b"b", key="k").status == 422
    assert answer(world, payment(transaction_id="u"), content=b"b")["transaction_id"] == "u"


def test_tenants_do_not_meet() -> None:
    world = World()
    first = answer(world, payment(transaction_id="t"), content=b"a", key="k")
    other = answer(world, payment(transaction_id="t", tenant_id="other"), content=b"b", key="k")
    assert first["decision_id"] != other["decision_id"]


def test_fifty_at_once_get_one_answer() -> None:
    world = World()

    async def all_at_once() -> list[list[bytes | Exception]]:
        tries = [world.ask(payment(transaction_id="t"), content=b"a") for _ in range(50)]
        return await asyncio.gather(*tries)

    assert len({str(result) for (result,) in asyncio.run(all_at_once())}) == 1
    assert len(world.publisher.published) == 1


def test_a_question_that_somebody_else_answers_and_does_not_finish_is_in_progress() -> None:
    world, tx = World(), payment(transaction_id="t")
    claims = world.answers._with.claims
    claim = claims.claim("acme", "t", b"a", None)
    asyncio.run(world.redis.call(claims.take(claim)))
    refused = problem(world, tx, content=b"a")
    assert (refused.status, refused.code, (refused.headers or {})["Retry-After"]) == (409, "in_progress", "1")


def test_a_transaction_that_came_through_the_stream_has_its_decision_already() -> None:
    world, tx = World(), payment(ip_address=None)
    store(world.redis, tx)
    refused = problem(world, tx, content=b"a")
    assert (refused.status, refused.code) == (409, "already_decided")
    assert refused.extra["decision_id"] == decision_id("acme", tx.transaction_id)
    assert world.publisher.published == []
    assert set(world.redis.values) == {HEALTH}  # the claim was given back


# --- batches ---


def test_the_second_payment_of_a_batch_sees_the_first() -> None:
    world = World()
    first, second, other = payment(), payment(), payment(card_id="c-2", user_id="u-2")
    ask(world, first, second, other)
    sent = [CODEC.decode_decision(tx.decided) for tx in world.publisher.transactions]
    index = CATALOGUE.index["card_count_tx_1h"]
    assert [one.features[index] for one in sent] == [1.0, 2.0, 1.0]
    assert [one.served_at[Kind.CARD].seq for one in sent] == [0, 1, 0]


def test_one_bad_transaction_of_a_batch_costs_its_own_answer_only() -> None:
    results = ask(World(), payment(transaction_id="a"), payment(currency="XXX"), payment(transaction_id="a"), payment())
    assert [type(one) for one in results] == [bytes, InvalidEvent, InvalidEvent, bytes]


def test_a_batch_is_read_in_one_round_trip_and_kept_in_another() -> None:
    world = World()
    ask(world, *(payment() for _ in range(10)))
    assert world.redis.calls == 2


# --- the degraded ladder ---


def test_without_a_model_the_rules_alone_decide() -> None:
    found = answer(World(in_force=InForce(model=None)))
    assert (found["decision"], found["degraded"], found["model_score"]) == ("ALLOW", ["model_down"], None)


@pytest.mark.parametrize(("probability", "decision"), [(0.5, "ALLOW"), (0.51, "DENY")])
def test_without_rules_the_model_alone_decides_at_its_own_cut(probability: float, decision: str) -> None:
    found = answer(World(in_force=InForce(FakeModel(probability), rules=None)))
    assert (found["decision"], found["degraded"], found["rules_score"]) == (decision, ["rules_down"], None)


def test_without_both_everything_is_denied() -> None:
    found = answer(World(in_force=InForce(None, None)))
    assert (found["decision"], found["score"], found["degraded"]) == ("DENY", 1.0, ["model_down", "rules_down"])


def test_without_the_store_windows_are_missing_and_not_zero() -> None:
    world = World()
    world.redis.is_down = True
    found = answer(world)
    assert (found["freshness"], found["degraded"]) == (None, ["store_down"])
    (tx,) = world.publisher.transactions
    decided = CODEC.decode_decision(tx.decided)
    assert np.isnan(decided.features[CATALOGUE.slices[Kind.CARD]]).all()
    assert not np.isnan(decided.features[CATALOGUE.index["amount"]])
    assert (decided.served_at, decided.entities, decided.degraded) == ([], [], "store_down")
    assert world.counted("fraud_api_degraded_answers_total", reason="store_down") == 1


def test_a_card_that_nobody_knows_counts_one_and_is_not_missing() -> None:
    """The other side of the test above."""
    world = World()
    answer(world)
    (tx,) = world.publisher.transactions
    assert CODEC.decode_decision(tx.decided).features[CATALOGUE.index["card_count_tx_1h"]] == 1.0


def test_what_a_store_may_have_lost_is_missing_and_what_it_still_has_is_used() -> None:
    """Redis was restarted and the stream has not written every state again: an unknown card may be an old one."""
    world = World()
    store(world.redis, payment(card_id="c-old", ip_address=None))
    world.redis.values[HEALTH] = (b"whole another-run", float("inf"))
    found = answer(world, payment(card_id="c-lost", ip_address=None))
    (tx,) = world.publisher.transactions
    decided = CODEC.decode_decision(tx.decided)
    assert found["degraded"] == ["store_healing"]
    assert decided.degraded == "store_healing"
    assert np.isnan(decided.features[CATALOGUE.slices[Kind.CARD]]).all()
    assert not np.isnan(decided.features[CATALOGUE.slices[Kind.MERCHANT]]).all()
    assert [one["kind"] for one in found["freshness"]["entities"]] == ["user", "merchant", "device"]
    assert answer(world, payment(card_id="c-old", ip_address=None))["degraded"] == []
    assert world.counted("fraud_api_degraded_answers_total", reason="store_healing") == 1


def test_a_store_that_stays_away_is_left_alone() -> None:
    world = World()
    world.redis.is_down = True
    for _ in range(20):
        answer(world)
    assert world.redis.calls < 10


def test_a_state_that_is_damaged_is_a_missing_store_and_no_error() -> None:
    world, tx = World(), payment()
    fields = FEATURE_FIELDS[Kind.CARD]
    codec = RowCodec()
    values = (codec.state(b"\x01\x00damaged"), codec.integer(3), codec.integer(1))
    world.redis.hashes[EntityKeys("fraudguard").encode(Kind.CARD, "acme|c-1")] = dict(zip(fields, values, strict=True))
    assert answer(world, tx)["degraded"] == ["store_down"]


def test_while_kafka_is_away_and_when_the_buffer_is_full_the_answer_says_so() -> None:
    assert answer(World(publisher=FakePublisher(is_behind=True)))["degraded"] == ["kafka_down"]
    assert answer(World(publisher=FakePublisher(room=0)))["degraded"] == ["kafka_down"]


def test_a_model_that_fails_costs_its_part_of_the_answer_and_is_left_alone_for_a_while() -> None:
    world = World(in_force=InForce(FakeModel(error=Unavailable("model", "broken"))))
    for _ in range(10):
        assert answer(world)["degraded"] == ["model_down"]
    assert world.in_force.model.calls == 3


class SlowClock:
    """Time that passes only when a model is asked."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_model_that_is_too_slow_is_left_out_after_three_answers_and_comes_back_when_it_is_quick() -> None:
    clock = SlowClock()
    cost_s = [0.030]

    def pass_time() -> None:
        clock.now_s += cost_s[0]

    world = World(in_force=InForce(FakeModel(on_predict=pass_time)), clock=clock, work=clock)
    assert [answer(world)["degraded"] for _ in range(5)] == [[], [], [], ["model_down"], ["model_down"]]
    cost_s[0] = 0.001
    clock.now_s += 1.0
    assert [answer(world)["degraded"] for _ in range(2)] == [[], []]


def test_an_answer_that_cannot_be_kept_is_given_all_the_same() -> None:
    class FailsSecond(FakeRedis):
        async def call(self, commands: Any) -> Any:
            self.is_down = self.calls == 1
            return await super().call(commands)

    world = World(redis=FailsSecond())
    assert answer(world)["decision"] == "ALLOW"
    assert world.counted("fraud_api_unkept_answers_total") == 1


def test_the_parts_of_a_request_are_timed() -> None:
    timing = Timing(time.perf_counter())
    asyncio.run(World().answers.answer([Ask(payment(), b"a")], TRACE, timing))
    assert timing.features_s > 0
    assert timing.scoring_s > 0
    assert timing.header.startswith("features;dur=")
