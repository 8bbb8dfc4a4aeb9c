"""Challengers: behind a decision they change no byte of it, the lane says what a promotion would decide, a rollout keeps to its cards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from analytics.backtest import backtest
from flink_jobs.cores import OutRow, Record
from fraud.catalogue import CATALOGUE
from fraud.events import Label, Transaction, entities_of
from fraud.rollout import is_chosen
from fraud.rules import RuleSet
from serving import ledger
from serving.challengers import Challenger, Versions
from serving.model import Model
from serving.model_files import Calibration, Manifest, publish
from serving.records import Decision, ModelVersion, RuleSetVersion, ShadowDecision
from serving.replay import replay
from serving.scoring import Scorer, ScoringInput
from serving.versions import ControlledVersions
from tests.scoring_world import FakeModel, InForce, World
from tests.unit.test_model import train_text

from .backtest_world import NOW_MS, SHIPPED, START_MS, VELOCITY, Recorded, publish_model, rule, sent, traffic, with_rules
from .pipeline import Pipeline, codec, record, transaction
from .test_api_parity import Stream, copy_to_store

DRAFT = with_rules(
    RuleSet(SHIPPED.rules[::2], CATALOGUE.index),
    VELOCITY,
    rule("user_pace", "user_count_tx_190m > 1", score=0.2, message="{user_count_tx_190m} of {user_sum_amount_190m}"),
    rule("large", "amount_usd > 700", floor="DENY", message="{amount_usd} USD"),
)
WINDOWED = with_rules(SHIPPED, rule("device_pace", "device_count_tx_40m > 2", message="{device_count_tx_40m}"))
RESULTS = ("same", "other", "slow", "failed", "left_out")
_FEATURES = tuple(CATALOGUE.names[1::7])


def rules_record(
    rules: RuleSet, *, tried: RuleSet | None = None, percent: float = 0.0, body: str | None = None, version: int = 1
) -> Record:
    """A rule set on its topic, with what is tried beside it; ``body`` instead of the set's own."""
    made = RuleSetVersion(version, rules.hash, rules.to_json(), "ana", START_MS)
    if tried is not None:
        made = replace(made, challenger_hash=tried.hash, challenger_body=body or tried.to_json(), traffic_percentage=percent)
    return record(codec().encode_rule(made), "default", source=ledger.RULES)


def model_record(sha256: str, *, tried: str | None = None, percent: float = 0.0) -> Record:
    made = ModelVersion("fraud", "1", sha256, "", START_MS, tried, percent)
    return record(codec().encode_model(made), "default", source="models")


def publish_challenger(folder: Path) -> str:
    manifest = Manifest(feature_names=_FEATURES, catalogue_version=CATALOGUE.version, calibration=Calibration(5.0, -4.0))
    return publish(folder, train_text(2, _FEATURES), manifest)


def play(
    folder: Path, events: Sequence[Transaction | Label], *controls: Record, crashes: bool = False, kind: type[Pipeline] = Pipeline
) -> tuple[Pipeline, list[OutRow]]:
    """What the operators put out of events; every event leaves before the next one comes, so logs have one order."""
    pipeline = kind(shards=3, seed=5, now_ms=NOW_MS, rules=SHIPPED.to_json(), models=folder, model=publish_model(folder))
    rows: list[OutRow] = []
    for shard in range(3):
        for control in controls:
            pipeline.send(shard, [control])
    for number, event in enumerate(events):
        shard, one = sent(event, number, 3)
        pipeline.send(shard, [one])
        rows += pipeline.drain()
        if crashes and number % 40 == 39:
            rows += pipeline.checkpoint()
            pipeline.crash()
    return pipeline, rows


def decisions_in(rows: Sequence[OutRow]) -> list[Decision]:
    return [codec().decode_decision(row.value) for row in rows if row.topic == ledger.DECISIONS]


def shadows_in(rows: Sequence[OutRow], kind: str) -> list[ShadowDecision]:
    shadows = [codec().decode_shadow_decision(row.value) for row in rows if row.topic == ledger.SHADOWS]
    return [shadow for shadow in shadows if shadow.kind == kind]


def without_lane(rows: Sequence[OutRow]) -> list[OutRow]:
    return [row for row in rows if row.topic != ledger.SHADOWS]


@pytest.mark.parametrize("live", [SHIPPED, WINDOWED], ids=["shipped", "with windows of its own"])
@pytest.mark.parametrize("seed", range(2))
def test_every_byte_but_the_lane_is_the_same_with_and_without_challengers(tmp_path: Path, live: RuleSet, seed: int) -> None:
    """A draft with windows of its own and a model, through crashes of the operators; in the order in which records leave."""
    events = traffic(seed, 250)
    model, tried = publish_model(tmp_path), publish_challenger(tmp_path)
    _, plain = play(tmp_path, events, rules_record(live), model_record(model), crashes=True)
    _, beside = play(tmp_path, events, rules_record(live, tried=DRAFT), model_record(model, tried=tried), crashes=True)
    assert without_lane(beside) == plain
    assert len(decisions_in(plain)) == 250
    assert {decision.rule_set_hash for decision in decisions_in(plain)} == {live.hash}
    for kind in ("rules", "model"):
        assert [shadow.decision_id for shadow in shadows_in(beside, kind)] == [one.decision_id for one in decisions_in(plain)]


def test_a_challenger_that_is_promoted_changes_them(tmp_path: Path) -> None:
    """The control of the comparison."""
    events = traffic(3, 150)
    model, tried = publish_model(tmp_path), publish_challenger(tmp_path)
    _, plain = play(tmp_path, events, rules_record(SHIPPED), model_record(model))
    for controls in ((rules_record(DRAFT), model_record(model)), (rules_record(SHIPPED), model_record(tried))):
        _, promoted = play(tmp_path, events, *controls)
        assert without_lane(promoted) != plain
        assert {one.outcome for one in decisions_in(promoted)} == {"ALLOW", "CHALLENGE", "DENY"}


def test_the_lane_says_what_a_promotion_would_have_decided(tmp_path: Path) -> None:
    events = traffic(7, 250)
    model, tried = publish_model(tmp_path), publish_challenger(tmp_path)
    _, beside = play(tmp_path, events, rules_record(SHIPPED, tried=DRAFT), model_record(model, tried=tried))
    live = decisions_in(beside)
    for kind, digest, controls in (
        ("rules", DRAFT.hash, (rules_record(DRAFT), model_record(model))),
        ("model", tried, (rules_record(SHIPPED), model_record(tried))),
    ):
        shadows, promoted = shadows_in(beside, kind), decisions_in(play(tmp_path, events, *controls)[1])
        for shadow, decision, before in zip(shadows, promoted, live, strict=True):
            assert (shadow.hash, shadow.door, shadow.entities) == (digest, "stream", before.entities)
            assert (shadow.live_outcome, shadow.live_score) == (before.outcome, before.score)
            assert (shadow.live_rule_set_hash, shadow.live_model_sha256) == (SHIPPED.hash, model)
            for name in ("decision_id", "outcome", "score", "model_score", "rules_score", "floor"):
                assert getattr(shadow, name) == getattr(decision, name), name
            assert list(map(asdict, shadow.rules)) == list(map(asdict, decision.rules))
        assert 5 < sum(shadow.outcome != shadow.live_outcome for shadow in shadows) < 245
    assert sum(hit.rule_id == "velocity_37m" for shadow in shadows_in(beside, "rules") for hit in shadow.rules) > 5


def test_a_challenger_that_cannot_be_used_is_refused_and_nothing_else_is(tmp_path: Path) -> None:
    """A rule that does not compile, a share that is none, a model that is not there: in ``ingest`` as in ``infer``."""
    events = traffic(4, 60)
    model, broken = publish_model(tmp_path), DRAFT.to_json().replace("card_distinct_merchant_37m", "no_such_feature")
    _, plain = play(tmp_path, events, rules_record(WINDOWED), model_record(model))
    for control in (
        rules_record(WINDOWED, tried=DRAFT, body=broken),
        rules_record(WINDOWED, tried=DRAFT, percent=100.0),
        rules_record(WINDOWED, tried=DRAFT, percent=float("nan")),
    ):
        pipeline, rows = play(tmp_path, events, rules_record(SHIPPED, tried=DRAFT), control, model_record(model, tried="0" * 64))
        assert rows == plain
        for kind in ("rules", "models"):
            assert pipeline.count_of("fraud_detection_releases_refused_total", kind=kind) == 3


class _Raising(ControlledVersions):
    """A challenger among the models loads, and fails whenever it is asked."""

    def of(self, shard: int, load: Callable[[str], bytes | None]) -> Versions:
        versions = super().of(shard, load)
        if versions.model_challenger is None:
            return versions
        failing = cast(Model, FakeModel(error=ArithmeticError("as a test wants it")))
        return replace(versions, model_challenger=replace(versions.model_challenger, version=failing))


class _WithRaising(Pipeline):
    versions = _Raising


def test_a_challenger_that_fails_is_counted_and_left_alone_and_no_decision_notices(tmp_path: Path) -> None:
    events = traffic(4, 60)
    model = publish_model(tmp_path)
    _, plain = play(tmp_path, events, model_record(model))
    pipeline, rows = play(tmp_path, events, model_record(model, tried=publish_challenger(tmp_path)), kind=_WithRaising)
    assert rows == plain
    counts = {result: pipeline.count_of("fraud_detection_shadow_decisions_total", kind="model", result=result) for result in RESULTS}
    failed = 3 * len({sent(event, 0, 3)[0] for event in events})  # three in a row, on each shard
    assert failed >= 6
    assert counts == {"same": 0, "other": 0, "slow": 0, "failed": failed, "left_out": 60 - failed}


def test_what_is_withdrawn_is_asked_no_more(tmp_path: Path) -> None:
    events = traffic(4, 60)
    model, tried = publish_model(tmp_path), publish_challenger(tmp_path)
    _, plain = play(tmp_path, events, rules_record(SHIPPED), model_record(model))
    controls = (rules_record(SHIPPED, tried=DRAFT), model_record(model, tried=tried), rules_record(SHIPPED, version=2), model_record(model))
    assert play(tmp_path, events, *controls)[1] == plain


def test_an_event_that_the_api_decided_is_asked_about_with_what_the_api_had() -> None:
    """The store is behind the stream, so both often have other numbers; the draft's windows beyond the catalogue are the stream's."""
    rng, clock_ms = random.Random(1), START_MS
    plain = RuleSet([one for one in DRAFT.rules if one.id not in ("velocity_37m", "user_pace")], CATALOGUE.index)
    stream = Stream(Pipeline(shards=1, rules=SHIPPED.to_json()))
    stream.pipeline.send(0, [rules_record(SHIPPED, tried=plain)])
    world, differ, lists = World(in_force=InForce(model=None), now_ms=lambda: NOW_MS, work=lambda: 0.0), 0, 0
    world.blacklist._blocked |= {("acme", "card", f"card{i}") for i in range(6)}  # which the stream of this test does not know
    for number in range(250):
        clock_ms += rng.choice([20_000, 60_000, 300_000])
        tx = transaction(rng, number, clock_ms)
        asyncio.run(world.ask(tx))
        tx = codec().decode_transaction(world.publisher.published[-1][1])
        (kept,) = stream.apply(codec().encode_transaction(tx), tx.card_id, entities_of(tx))
        assert kept.door == "api"
        shadow = codec().decode_shadow_decision(stream.ledger[-1][1])
        (expected,) = Scorer("api", "test").score(
            ScoringInput([kept.transaction], np.array(kept.features)[None], [kept.late_event], [kept.entities], [kept.blacklisted]),
            plain,
            None,
        )
        assert (shadow.decision_id, shadow.outcome, shadow.score) == (kept.decision_id, expected.outcome, expected.score)
        assert list(map(asdict, shadow.rules)) == list(map(asdict, expected.rules))
        differ += kept.score != kept.stream_score
        lists += "card" in kept.blacklisted
        for entity in entities_of(tx):
            if rng.random() < 0.5:
                copy_to_store(world, stream, entity)
    assert differ > 10
    assert lists > 10


def test_a_rollout_decides_for_its_cards_and_for_no_other(tmp_path: Path) -> None:
    """Chosen cards get what a promotion would give them, all others what is in force; the lane has those that it did not decide."""
    events = traffic(7, 250)
    model, tried = publish_model(tmp_path), publish_challenger(tmp_path)
    pipeline, rolled = play(
        tmp_path, events, rules_record(SHIPPED, tried=DRAFT, percent=40.0), model_record(model, tried=tried, percent=60.0)
    )
    found: dict[tuple[str | None, str | None], int] = {}
    for rules in (SHIPPED, DRAFT):
        for one in (model, tried):
            _, whole = play(tmp_path, events, rules_record(rules), model_record(one))
            theirs = {decision.decision_id: row.value for row, decision in zip(_decision_rows(whole), decisions_in(whole), strict=True)}
            for row, decision in zip(_decision_rows(rolled), decisions_in(rolled), strict=True):
                ours = (decision.rule_set_hash, decision.model_sha256)
                if ours == (rules.hash, one):
                    found[ours] = found.get(ours, 0) + 1
                    assert row.value == theirs[decision.decision_id]
                    tx = decision.transaction
                    assert is_chosen(DRAFT.hash, tx.tenant_id, tx.card_id, 40.0) == (rules is DRAFT)
                    assert is_chosen(tried, tx.tenant_id, tx.card_id, 60.0) == (one == tried)
    assert len(found) == 4
    assert sum(found.values()) == 250
    decided = {kind: {one.decision_id for one in shadows_in(rolled, kind)} for kind in ("rules", "model")}
    assert decided["rules"] == {one.decision_id for one in decisions_in(rolled) if one.rule_set_hash == SHIPPED.hash}
    assert decided["model"] == {one.decision_id for one in decisions_in(rolled) if one.model_sha256 == model}
    assert pipeline.count_of("fraud_detection_rollout_failures_total") == 0


def _decision_rows(rows: Sequence[OutRow]) -> list[OutRow]:
    return [row for row in rows if row.topic == ledger.DECISIONS]


def test_a_rollout_that_fails_leaves_the_decisions_to_what_is_in_force(tmp_path: Path) -> None:
    events = traffic(4, 60)
    model = publish_model(tmp_path)
    _, plain = play(tmp_path, events, model_record(model))
    pipeline, rows = play(tmp_path, events, model_record(model, tried=publish_challenger(tmp_path), percent=99.0), kind=_WithRaising)
    assert without_lane(rows) == plain
    assert pipeline.count_of("fraud_detection_rollout_failures_total") > 50


def test_a_backtest_and_a_replay_reproduce_a_rollout(tmp_path: Path) -> None:
    """They go by what each record says; the sets ask for other windows."""
    events = traffic(9, 250)
    model, tried = publish_model(tmp_path), publish_challenger(tmp_path)
    _, rows = play(
        tmp_path, events, rules_record(WINDOWED, tried=DRAFT, percent=50.0), model_record(model, tried=tried, percent=50.0), crashes=True
    )
    recorded = Recorded([(row.topic, row.value) for row in rows], {one.hash: one for one in (WINDOWED, DRAFT)}, tmp_path)
    result = backtest(recorded.history(), WINDOWED, rules_of=recorded.rules_of, model_of=recorded.model_of)
    assert (result.reproduction.differing, result.reproduction.compared) == ((), 250)
    assert set(result.reproduction.rule_sets) == {WINDOWED.hash, DRAFT.hash}
    assert set(result.reproduction.models) == {model, tried}
    for decision in recorded.decisions()[:60]:
        assert replay(decision, recorded.rules_of, recorded.model_of).differences == ()


def test_both_doors_choose_the_same_cards() -> None:
    """With a store that is current, the stream's own answer to what the API has decided is the API's, windows of the draft included."""
    rng, clock_ms, tried = random.Random(2), START_MS, 0
    stream = Stream(Pipeline(shards=1, rules=SHIPPED.to_json()))
    stream.pipeline.send(0, [rules_record(SHIPPED, tried=DRAFT, percent=50.0)])
    in_force = InForce(model=None, rules=SHIPPED, rules_challenger=Challenger(DRAFT.hash, DRAFT, 50.0))
    world = World(in_force=in_force, now_ms=lambda: NOW_MS, work=lambda: 0.0)
    for number in range(200):
        clock_ms += rng.choice([20_000, 60_000, 300_000])
        asyncio.run(world.ask(transaction(rng, number, clock_ms)))
        tx = codec().decode_transaction(world.publisher.published[-1][1])
        (kept,) = stream.apply(codec().encode_transaction(tx), tx.card_id, entities_of(tx))
        assert kept.rule_set_hash == (DRAFT.hash if is_chosen(DRAFT.hash, tx.tenant_id, tx.card_id, 50.0) else SHIPPED.hash)
        assert kept.score == kept.stream_score
        tried += kept.rule_set_hash == DRAFT.hash
        assert bool(kept.extra_features) == (kept.rule_set_hash == DRAFT.hash)
        for entity in entities_of(tx):
            copy_to_store(world, stream, entity)
    assert 50 < tried < 150
    assert stream.pipeline.count_of("fraud_detection_transactions_total", status="confirmed") == 200


def test_an_answer_of_the_api_is_the_same_beside_challengers() -> None:
    """All but the clock; the API does not even ask them."""
    model = FakeModel(0.9)
    worlds = [
        World(in_force=InForce(FakeModel(), SHIPPED, *tried), now_ms=lambda: NOW_MS, work=lambda: 0.0)
        for tried in ((None, None), (Challenger(DRAFT.hash, DRAFT, 0.0), Challenger(model.sha256, cast(Model, model), 0.0)))
    ]
    made = []
    for world in worlds:
        rng = random.Random(3)
        for number in range(60):
            asyncio.run(world.ask(transaction(rng, number, START_MS + 60_000 * number)))
        answered = [codec().decode_decision(tx.decided) for tx in world.publisher.transactions]
        made.append([codec().encode_decision(replace(one, latency_ms=None)) for one in answered])
    assert made[0] == made[1]
    assert (len(made[0]), model.calls) == (60, 0)
