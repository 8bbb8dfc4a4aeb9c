"""Windows beyond the catalogue through both doors: what a request saw, what the stream saw, and what history gives, to the last bit."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from analytics.backtest import Backtest, backtest
from analytics.history import DECISION_FIELDS
from fraud.events import Kind, entities_of
from fraud.rules import RuleSet
from serving import ledger
from serving.records import Decision
from serving.replay import replay
from tests.scoring_world import CODEC, RULES, InForce, World
from training.ledger_history import load

from .backtest_world import VELOCITY, release, rule, with_rules
from .pipeline import Pipeline, record, transaction
from .test_api_parity import START_MS, Stream, copy_to_store, label_of

WINDOWS = with_rules(
    RULES,
    VELOCITY,
    rule("user_pace", "user_count_tx_190m > 1", message="{user_count_tx_190m} of {user_sum_amount_190m}"),
    rule("device_cards", "device_distinct_card_5h > 2", state="shadow", message="{device_distinct_card_5h}"),
    rule("never", "ip_count_tx_17m > 0", state="disabled"),
)
NAMES = ("card_distinct_merchant_37m", "user_count_tx_190m", "user_sum_amount_190m", "device_distinct_card_5h")


@dataclass
class Play:
    """The ledger of events of which some came through the API first, and both sets of rules."""

    records: list[tuple[str, bytes | None]] = field(default_factory=list)

    def decisions(self) -> list[Decision]:
        return [CODEC.decode_decision(value) for topic, value in self.records if topic == ledger.DECISIONS]

    def backtest(self, draft: RuleSet) -> Backtest:
        return backtest(load(self.records, CODEC, DECISION_FIELDS), draft, rules_of=_rules_of, model_of=_no_model)


def _rules_of(digest: str) -> RuleSet:
    return {one.hash: one for one in (RULES, WINDOWS)}[digest]


def _no_model(_sha256: str) -> Any:
    raise AssertionError


def play(events: int, seed: int, *, behind: float) -> Play:
    """Half of the events come through the API, whose store misses a share of the writes; the windows are promoted in the middle."""
    rng, clock_ms = random.Random(seed), START_MS
    stream, made = Stream(Pipeline(shards=1, rules=RULES.to_json())), Play()
    world = World(in_force=InForce(model=None), now_ms=lambda: 2_000_000_000_000)
    for number in range(events):
        if number == events // 3:
            world.in_force.rules = WINDOWS  # the API hears of it at another moment than the stream
        if number == events // 2:
            stream.pipeline.send(0, [release(WINDOWS, 1)])
        clock_ms += rng.choice([20_000, 60_000, 300_000])
        tx = transaction(rng, number, clock_ms - rng.choice([0, 0, 0, rng.randrange(0, 7_200_000)]))
        if rng.random() < 0.5:
            (answer,) = asyncio.run(world.ask(tx))
            assert isinstance(answer, bytes), answer
            tx = CODEC.decode_transaction(world.publisher.published[-1][1])
        else:
            tx.ip_hash = None
            world.answers._with.enricher.enrich(tx)
        (kept,) = stream.apply(CODEC.encode_transaction(tx), tx.card_id, entities_of(tx))
        touched = [(kind, position.key) for kind, position in zip(_kinds(kept), kept.entities, strict=True)]
        if rng.random() < 0.2:
            label = label_of(tx, clock_ms, rng)
            labelled = [entity for entity in touched if entity[0] in (Kind.CARD, Kind.USER, Kind.MERCHANT)]
            stream.apply(CODEC.encode_label(label), label.card_id, labelled, source="labels")
        for entity in touched:
            if rng.random() >= behind:
                copy_to_store(world, stream, entity)
    made.records = stream.ledger
    return made


def _kinds(decision: Decision) -> list[int]:
    return [int(Kind[position.kind.upper()]) for position in decision.entities]


@pytest.mark.parametrize(("seed", "behind"), [(1, 0.0), (2, 0.3)])
def test_both_doors_serve_what_history_gives(seed: int, behind: float) -> None:
    made = play(300, seed, behind=behind)
    decisions = made.decisions()
    for door in ("api", "stream"):
        served = [one for one in decisions if one.door == door and one.extra_features]
        assert len(served) > 60
        assert {tuple(feature.name for feature in one.extra_features) for one in served} == {NAMES}
        assert sum(one.extra_features[0].value > 1 for one in served) > 5
    result = made.backtest(WINDOWS)
    assert result.reproduction.differing == ()
    assert result.reproduction.compared == 300


def test_a_decision_with_windows_replays_from_its_record() -> None:
    for one in play(60, 3, behind=0.0).decisions():
        assert replay(one, _rules_of, _no_model).differences == ()


def test_without_the_store_such_windows_are_missing_and_history_agrees() -> None:
    world = World(in_force=InForce(model=None, rules=WINDOWS), now_ms=lambda: 2_000_000_000_000)
    stream = Stream(Pipeline(shards=1, rules=RULES.to_json()))
    world.redis.is_down = True
    asyncio.run(world.ask(transaction(random.Random(1), 1, START_MS)))
    tx = CODEC.decode_transaction(world.publisher.published[-1][1])
    (kept,) = stream.apply(CODEC.encode_transaction(tx), tx.card_id, entities_of(tx))
    assert [feature.name for feature in kept.extra_features] == list(NAMES)
    assert np.isnan([feature.value for feature in kept.extra_features]).all()
    result = Play(stream.ledger).backtest(WINDOWS)
    assert (result.reproduction.differing, result.reproduction.without_store) == ((), 1)


def test_a_set_that_asks_for_nothing_more_leaves_parts_and_records_as_they_are() -> None:
    """No name, no column, no byte: also after a set with windows was rolled back."""
    plain, back = Pipeline(shards=1, rules=RULES.to_json()), Pipeline(shards=1, rules=RULES.to_json())
    back.send(0, [release(WINDOWS, 1)])
    back.send(0, [release(RULES, 2)])
    tx = transaction(random.Random(2), 1, START_MS)
    sent = record(CODEC.encode_transaction(tx), tx.card_id)
    parts = []
    for pipeline in (plain, back):
        pipeline.drain()
        parts.append([part.payload for part in pipeline.ingest[0].process(0, [sent], pipeline.maps[0])])
    assert parts[0] == parts[1]


def test_a_rule_set_that_cannot_be_used_leaves_the_one_in_force() -> None:
    """In ``ingest`` as in ``infer``: windows stay those of the set that judges."""
    stream = Stream(Pipeline(shards=1, rules=RULES.to_json()))
    stream.pipeline.send(0, [release(WINDOWS, 1)])
    for value in (b"no record", None):
        stream.pipeline.send(0, [record(value, "default", source=ledger.RULES)])
    tx = transaction(random.Random(3), 1, START_MS)
    tx.ip_address = None
    (kept,) = stream.apply(CODEC.encode_transaction(tx), tx.card_id, [])
    assert kept.rule_set_hash == WINDOWS.hash
    assert len(kept.extra_features) == len(NAMES)
    assert stream.pipeline.count_of("fraud_detection_releases_refused_total", kind="rules") == 2
