"""Stream = request: the API answers each event, the stream then applies what the API published, and both computed the same bits.

Events come out of order, with labels between them.  The store of the API is sometimes behind the stream, as it is in life: then the
answer must be what the kernel gives at the very entries of the logs that the answer says it was served at.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, Entity, Kind, Label, Transaction, entities_of
from fraud.state import decode_state, state_seq, state_time_ms
from fraud.vector import evaluate_vector
from serving import ledger
from serving.feast_layout import FEATURE_FIELDS, EntityKeys, RowCodec
from serving.records import Decision
from tests.scoring_world import CODEC, RULES, InForce, World
from training import ledger_history
from training.backfill import Served
from training.ledger_history import LedgerHistory
from training.parity import bits_differ

from .pipeline import Pipeline, record, transaction

START_MS = 1_700_000_000_000


@dataclass
class Stream:
    """The job without Flink, and every state that an entity of it ever had, by its number."""

    pipeline: Pipeline = field(default_factory=lambda: Pipeline(shards=1, rules=RULES.to_json()))
    states: dict[Entity, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    offset: int = 0
    ledger: list[tuple[str, bytes | None]] = field(default_factory=list)

    def apply(self, value: bytes, key: str, touched: list[Entity], *, source: str = "transactions") -> list[Decision]:
        self.pipeline.send(0, [record(value, key, source=source, offset=self.offset)])
        self.offset += 1
        rows = self.pipeline.drain()
        self.ledger += [(row.topic, row.value) for row in rows]
        kept = self.pipeline.maps[0]
        for kind, entity in touched:
            data = kept["cards" if kind == Kind.CARD else "entities"].entries[f"{KINDS[kind]}|{entity}"]
            self.states[kind, entity][state_seq(decode_state(data, kind))] = data
        return [CODEC.decode_decision(row.value) for row in rows if row.topic == ledger.DECISIONS]


def copy_to_store(world: World, stream: Stream, entity: Entity) -> None:
    """What the stream's feed does, of one entity: the newest state."""
    kind, key = entity
    seq, data = max(stream.states[entity].items())
    codec = RowCodec()
    values = (codec.state(data), codec.integer(seq), codec.integer(state_time_ms(decode_state(data, kind))))
    world.redis.hashes[EntityKeys("fraudguard").encode(kind, key)] = dict(zip(FEATURE_FIELDS[kind], values, strict=True))


def label_of(tx: Transaction, time_ms: int, rng: random.Random) -> Label:
    ids = (tx.transaction_id, tx.tenant_id, tx.card_id, tx.merchant_id)
    return Label(*ids, tx.event_time_ms, max(time_ms, tx.event_time_ms), rng.random() < 0.8, tx.user_id)


def play(events: int, seed: int, *, behind: float) -> tuple[int, LedgerHistory]:
    """Play events through both doors; ``behind`` is the share of writes that the store misses.

    Returns:
        How often the store was current, and the ledger.
    """
    rng, clock_ms, current = random.Random(seed), START_MS, 0
    stream, alone = Stream(), Stream()  # the second one never hears what the API has answered
    # no work is too much: a machine that is busy with other things must not take a side down here
    world = World(in_force=InForce(model=None), now_ms=lambda: 2_000_000_000_000, work=lambda: 0.0)
    for number in range(events):
        clock_ms += rng.randrange(0, 3_600_000)
        tx = transaction(rng, number, clock_ms - rng.choice([0, 0, 0, rng.randrange(0, 7_200_000)]))
        (answer,) = asyncio.run(world.ask(tx))
        assert isinstance(answer, bytes), answer
        sent = CODEC.decode_transaction(world.publisher.published[-1][1])
        api = CODEC.decode_decision(sent.decided)
        served = {one.kind: one.seq for one in api.served_at}
        known = [stream.states[entity].get(served.get(KINDS[entity[0]], 0)) for entity in entities_of(sent)]
        by_kind = dict(zip((entity[0] for entity in entities_of(sent)), known, strict=True))
        expected = evaluate_vector(sent, [by_kind.get(kind) for kind in Kind])
        assert bits_differ(api.features, expected).sum() == 0
        (ours,) = alone.apply(CODEC.encode_transaction(replace(sent, decided=None)), sent.card_id, entities_of(sent))
        (kept,) = stream.apply(CODEC.encode_transaction(sent), sent.card_id, entities_of(sent))
        assert (kept.decision_id, kept.outcome, kept.score, kept.door) == (api.decision_id, api.outcome, api.score, "api")
        assert (kept.stream_score, kept.entities, kept.transaction.decided) == (ours.score, ours.entities, None)
        assert bits_differ(kept.features, api.features).sum() == 0
        if [one.seq for one in api.entities] == [one.seq for one in ours.entities]:
            current += 1
            assert bits_differ(api.features, ours.features).sum() == 0
            assert (api.score, api.outcome, api.decision_id) == (ours.score, ours.outcome, ours.decision_id)
        touched = entities_of(sent)
        if rng.random() < 0.2:
            label = label_of(sent, clock_ms, rng)
            labelled = [entity for entity in touched if entity[0] in (Kind.CARD, Kind.USER, Kind.MERCHANT)]
            for one in (stream, alone):
                one.apply(CODEC.encode_label(label), label.card_id, labelled, source="labels")
        for entity in touched:
            if rng.random() >= behind:
                copy_to_store(world, stream, entity)
    return current, ledger_history.load(stream.ledger, CODEC)


def compare(events: int, seed: int, *, behind: float) -> int:
    """Play, and compute the ledger's features again as of what each answer was served at; returns how often the store was current."""
    current, history = play(events, seed, behind=behind)
    assert len(history.early.rows) == events - current
    assert not history.blind.any()
    assert not history.differing(history.recompute().features).any()
    return current


def test_with_a_store_that_is_current_every_answer_is_the_streams() -> None:
    assert compare(400, seed=1, behind=0.0) == 400


def test_with_a_store_that_is_behind_every_answer_is_that_of_the_entries_it_was_served_at() -> None:
    assert 50 < compare(400, seed=2, behind=0.2) < 350


@pytest.mark.slow
def test_over_ten_thousand_events() -> None:
    assert compare(5_000, seed=3, behind=0.0) == 5_000
    assert 500 < compare(5_000, seed=4, behind=0.2) < 4_500


def test_an_answer_that_says_it_was_served_elsewhere_does_not_compare() -> None:
    """The control of the recomputation: every early answer is taken for one that had read one entry less."""
    _, history = play(200, seed=5, behind=0.3)
    earlier = np.maximum(history.early.seqs - 1, np.minimum(history.early.seqs, 0))
    again = replace(history, early=Served(history.early.rows, earlier)).recompute()
    assert history.differing(again.features).sum() > len(history.early.rows) // 2


def test_an_answer_without_a_store_is_kept_and_not_compared() -> None:
    stream, tx = Stream(), transaction(random.Random(6), 1, START_MS)
    tx.ip_address = None
    (ours,) = Stream().apply(CODEC.encode_transaction(tx), tx.card_id, entities_of(tx))
    blind = replace(ours, door="api", entities=[], features=np.full_like(ours.features, np.nan), degraded="store_down")
    tx.decided = CODEC.encode_decision(blind)
    (kept,) = stream.apply(CODEC.encode_transaction(tx), tx.card_id, entities_of(tx))
    history = ledger_history.load(stream.ledger, CODEC)
    assert (kept.degraded, kept.entities) == ("store_down", ours.entities)
    assert history.blind.all()
    assert not history.differing(history.recompute().features).any()


def test_an_entity_that_could_not_be_read_is_missing_in_the_recomputation_too() -> None:
    """While the store heals the API leaves out what may be lost; the control is a value where there should be none."""
    stream, tx = Stream(), transaction(random.Random(6), 1, START_MS)
    tx.ip_address = None
    (ours,) = Stream().apply(CODEC.encode_transaction(tx), tx.card_id, entities_of(tx))
    features = ours.features.copy()
    features[CATALOGUE.slices[Kind.MERCHANT]] = np.nan
    read = [replace(one, seq=one.seq - 1) for one in ours.entities if one.kind != "merchant"]
    tx.decided = CODEC.encode_decision(replace(ours, door="api", features=features, served_at=read))
    stream.apply(CODEC.encode_transaction(tx), tx.card_id, entities_of(tx))
    history = ledger_history.load(stream.ledger, CODEC)
    assert not history.differing(history.recompute().features).any()
    assert history.differing(ours.features[None]).all()


@pytest.mark.parametrize("wrong", [{"door": "stream"}, {"decision_id": "dec-of-another"}, {"score": float("nan")}, {"score": 1.5}])
def test_a_decision_that_does_not_belong_to_its_transaction_is_refused(wrong: dict[str, Any]) -> None:
    stream, tx = Stream(), transaction(random.Random(7), 1, START_MS)
    (ours,) = Stream().apply(CODEC.encode_transaction(tx), tx.card_id, [])
    tx.decided = CODEC.encode_decision(replace(ours, **{"door": "api", **wrong}))
    stream.apply(CODEC.encode_transaction(tx), tx.card_id, [])
    ((topic, value),) = stream.ledger
    assert topic == ledger.DEAD_LETTERS
    assert CODEC.decode_dead_letter(value).code == "bad_decision"


def test_another_features_bit_would_be_seen() -> None:
    """The control of the comparison."""
    features = np.array([1.0, np.nan, 0.0])
    assert bits_differ(features, np.array([1.0, np.nan, -0.0])).sum() == 1
