"""The four ways into the kernel give the same bits: step by step, from stored bytes, as a peek, and over history at once."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE
from fraud.events import Kind, Label, Transaction, entity_ids, hash64
from fraud.state import decode_state, encode_state, state_seq
from fraud.vector import Evaluator, evaluate_vector, event_features, event_row
from tests.contract.logs import START_MS, Entity, logs, random_log, transaction
from tests.contract.naive import DAY_MS, HOUR_MS, MINUTE_MS

kinds = st.sampled_from(Kind)


@given(data=st.data())
def test_a_state_that_was_stored_after_every_step_gives_the_same_bits(data: st.DataObject) -> None:
    """Encoding and decoding between any two operations changes no feature of any later one, nor the bytes."""
    kind = data.draw(kinds)
    kept, stored = Entity(kind), Entity(kind)
    for entry in data.draw(logs(kind)):
        expected, actual = kept.apply(entry), stored.apply(entry)
        if expected is not None and actual is not None:
            assert actual.tobytes() == expected.tobytes()
        content = encode_state(stored.state, kind)
        assert content == encode_state(kept.state, kind)
        stored.state = decode_state(content, kind)


@given(data=st.data())
def test_a_peek_sees_what_the_observation_sees_and_leaves_no_trace(data: st.DataObject) -> None:
    kind = data.draw(kinds)
    entity = Entity(kind)
    for entry in data.draw(logs(kind, max_size=40)):
        if isinstance(entry, Transaction):
            memory, content = entity.state.tobytes(), encode_state(entity.state, kind)
            peeked = entity.peek(entry)
            assert entity.state.tobytes() == memory
            assert encode_state(entity.state, kind) == content
            assert peeked.tobytes() == entity.peek(entry).tobytes()
            observed = entity.apply(entry)
            assert observed is not None
            assert peeked.tobytes() == observed.tobytes()
        else:
            entity.apply(entry)


@given(data=st.data())
def test_working_memory_of_earlier_calls_does_not_matter(data: st.DataObject) -> None:
    kind = data.draw(kinds)
    used, fresh = Entity(kind), Entity(kind)
    for entry in random_log(kind, 50, seed=1):
        Entity(kind).apply(entry)
    for entry in data.draw(logs(kind, max_size=40)):
        fresh.evaluator = Evaluator()
        expected, actual = fresh.apply(entry), used.apply(entry)
        if expected is not None and actual is not None:
            assert actual.tobytes() == expected.tobytes()


def test_working_memory_grows_with_the_log() -> None:
    small, large = Entity(Kind.CARD), Entity(Kind.CARD)
    small.evaluator._scratch = k.new_scratch(1)
    for i in range(300):
        tx = transaction(START_MS + 1_000 * i, i, merchant_id=f"m{i}", device_id=f"d{i}", merchant_mcc=i)
        expected, actual = large.apply(tx), small.apply(tx)
        assert expected is not None
        assert actual is not None
        assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", Kind)
def test_history_at_once_equals_step_by_step(kind: Kind) -> None:
    """``replay`` over many entities, in any interleaving of the file, writes the features and numbers of single steps."""
    histories = [random_log(kind, size, seed, 20 * MINUTE_MS) for seed, size in enumerate((1, 40, 700, 3, 120))]
    rows: list[NDArray[np.int64]] = []
    facts: list[tuple[int, int, int]] = []
    items, starts = [], [0]
    columns, width = CATALOGUE.slices[kind], CATALOGUE.size
    expected, expected_seqs, expected_label_seqs = [], [], []
    for history in histories:
        entity = Entity(kind)
        for entry in history:
            out = entity.apply(entry)
            if isinstance(entry, Label):
                items.append(-1 - len(facts))
                facts.append((entry.transaction_time_ms, hash64(f"default|{entry.transaction_id}"), int(entry.is_fraud)))
                expected_label_seqs.append(state_seq(entity.state))
            else:
                assert out is not None
                items.append(len(rows))
                rows.append(event_row(entry))
                expected.append(out)
                expected_seqs.append(state_seq(entity.state))
        starts.append(len(items))
    events = np.array(rows)
    vectors = np.full((len(rows), width), -1.0)
    seqs, label_seqs = np.zeros(len(rows), np.int64), np.zeros(len(facts), np.int64)
    k.replay(
        events,
        np.array(facts, dtype=np.int64).reshape(-1, 3),
        np.array(items),
        np.array(starts),
        CATALOGUE.plans[kind],
        k.new_scratch(),
        columns.start,
        vectors,
        seqs,
        label_seqs,
    )
    assert np.ascontiguousarray(vectors[:, columns]).tobytes() == np.array(expected).tobytes()
    assert (vectors[:, : columns.start] == -1).all(), "columns of other kinds are not touched"
    assert (vectors[:, columns.stop :] == -1).all(), "columns of other kinds are not touched"
    assert (seqs.tolist(), label_seqs.tolist()) == (expected_seqs, expected_label_seqs)


def test_a_request_evaluates_all_entities_from_their_stored_bytes() -> None:
    """``evaluate_vector`` over the online store's bytes is the vector that the stream's entities write side by side."""
    rng = random.Random(5)
    entities: dict[tuple[Kind, str], Entity] = {}
    for i in range(250):
        tx = transaction(
            START_MS + i * HOUR_MS - rng.choice((0, 0, DAY_MS)),
            amount_minor=rng.randrange(100_000),
            transaction_id=f"t{i}",
            card_id=f"c{rng.randrange(5)}",
            merchant_id=f"m{rng.randrange(4)}",
            user_id=rng.choice((None, "u1", "u2")),
            device_id=rng.choice((None, "d1", "d2", "d3")),
            ip_hash=rng.choice((None, "i1")),
            lat=rng.choice((None, 48.0)),
            lon=rng.choice((None, 2.0)),
        )
        if tx.lat is None or tx.lon is None:
            tx.lat = tx.lon = None
        expected = np.full(CATALOGUE.size, np.nan)
        event_features(event_row(tx), expected)
        states: list[bytes | None] = []
        for kind, entity_id in zip(Kind, entity_ids(tx), strict=True):
            entity = None if entity_id is None else entities.get((kind, entity_id))
            states.append(None if entity is None else encode_state(entity.state, kind))
        served = evaluate_vector(tx, states)
        for kind, entity_id in zip(Kind, entity_ids(tx), strict=True):
            if entity_id is not None:
                out = entities.setdefault((kind, entity_id), Entity(kind)).apply(tx)
                assert out is not None
                expected[CATALOGUE.slices[kind]] = out
        assert served.tobytes() == expected.tobytes()


def test_features_of_an_entity_that_the_event_does_not_name_are_missing() -> None:
    card_only = transaction(START_MS, user_id=None)
    vector = evaluate_vector(card_only, [None] * len(Kind))
    for kind in (Kind.USER, Kind.DEVICE, Kind.IP):
        assert np.isnan(vector[CATALOGUE.slices[kind]]).all()
    assert vector[CATALOGUE.index["card_count_tx_30d"]] == 1
    assert vector[CATALOGUE.index["merchant_count_tx_24h"]] == 1


def test_the_log_numbers_what_was_applied() -> None:
    """Every transaction and every label takes the next number, whether or not it changes anything else."""
    entity = Entity(Kind.MERCHANT)
    label = Label("t", "default", "c", "m", START_MS, START_MS, True)
    log: list[Transaction | Label] = [transaction(START_MS), label, label, transaction(START_MS - 90 * DAY_MS), label]
    for number, entry in enumerate(log, start=1):
        entity.apply(entry)
        assert state_seq(entity.state) == number
