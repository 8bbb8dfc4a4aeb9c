"""The operators together: what the stream computes is what the backfill computes, in any order of delivery and over a crash."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from flink_jobs.cores import OutRow, Record
from flink_jobs.reemit import entity_of
from flink_jobs.refusals import RefusalLimits, TooManyRefused
from fraud.events import Label, Transaction
from serving import ledger
from tests.online_store_contract import MemoryOnlineStore
from training import backfill, ledger_history
from training.parity import bits_differ

from .pipeline import Pipeline, record, run_through, transaction

START_MS = 1_700_000_000_000


def _records(pipeline: Pipeline, rng: random.Random, n: int) -> list[tuple[int, Record]]:
    """Transactions out of order, a fifth sent twice, with labels among them; each with the shard of its card."""
    found: list[tuple[int, Record]] = []
    clock = START_MS
    for i in range(n):
        clock += rng.randrange(0, 3_600_000)
        tx = transaction(rng, i, clock - rng.choice([0, 0, 0, rng.randrange(0, 7_200_000)]))
        shard = zlib.crc32(tx.card_id.encode()) % pipeline.shards
        value = pipeline.codec.encode_transaction(tx)
        found.append((shard, record(value, tx.card_id, partition=shard, offset=len(found))))
        if rng.random() < 0.2:
            found.append((shard, record(value, tx.card_id, partition=shard, offset=len(found))))
        if rng.random() < 0.2:
            label = Label(
                tx.transaction_id, tx.tenant_id, tx.card_id, tx.merchant_id, tx.event_time_ms, clock, rng.random() < 0.8, tx.user_id
            )
            encoded = pipeline.codec.encode_label(label)
            found.append((shard, record(encoded, tx.card_id, source="labels", offset=len(found))))
    return found


def _history(pipeline: Pipeline, rows: list[OutRow]) -> ledger_history.LedgerHistory:
    return ledger_history.load([(row.topic, row.value) for row in rows], pipeline.codec)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("crash_every", [None, 3, 12])
@pytest.mark.parametrize("cache_entries", [100, 2])
def test_the_stream_equals_the_backfill_in_ledger_order_bit_for_bit(seed: int, crash_every: int | None, cache_entries: int) -> None:
    """Whatever the order of delivery, with every operator restored from its state again and again, and with too small a cache."""
    rng = random.Random(seed)
    pipeline = Pipeline(shards=3, seed=seed, store=(store := MemoryOnlineStore()), cache_entries=cache_entries)
    records = _records(pipeline, rng, 300)
    rows = run_through(pipeline, records, rng, crash_every=crash_every)
    history = _history(pipeline, rows)

    assert history.frame.height == 300
    assert history.repeated == 0
    history.check_complete()
    result = backfill.run(history.events, history.labels, backfill.ledger_order(history.event_seqs, history.label_seqs))
    assert not bits_differ(result.features, history.recorded).any()
    assert np.array_equal(result.seqs, history.event_seqs)
    assert np.array_equal(result.label_seqs, history.label_seqs)
    for _ in range(20):
        pipeline.heal()
    assert store.look_up([]).health.is_whole
    for key, state in (entry for maps in pipeline.maps for name in ("cards", "entities") for entry in maps[name].items()):
        if (entity := entity_of(key)) is not None:
            (copied,) = store.read([entity])
            assert copied is not None
            assert copied.state == state


def test_a_wrong_number_in_the_ledger_is_noticed() -> None:
    """Negative control: swapping two recorded numbers of one card changes features, and dropping one breaks the numbering."""
    rng = random.Random(1)
    pipeline = Pipeline(shards=2)
    history = _history(pipeline, run_through(pipeline, _records(pipeline, rng, 200), rng))
    cards = history.events[:, 3]
    same_card = np.flatnonzero(cards == cards[0])
    history.event_seqs[same_card[[0, 1]], 0] = history.event_seqs[same_card[[1, 0]], 0]
    result = backfill.run(history.events, history.labels, backfill.ledger_order(history.event_seqs, history.label_seqs))
    assert bits_differ(result.features, history.recorded).any()
    history.event_seqs[same_card[2], 0] += 1000
    with pytest.raises(ledger_history.IncompleteLedger):
        history.check_complete()


def test_decisions_of_one_card_leave_in_the_order_of_its_events() -> None:
    """Although parts of later batches may be whole before those of earlier ones."""
    rng = random.Random(7)
    pipeline = Pipeline(shards=4, seed=7)
    rows = run_through(pipeline, _records(pipeline, rng, 400), rng)
    last: dict[str, int] = {}
    for row in rows:
        if row.topic == ledger.DECISIONS:
            decision = pipeline.codec.decode_decision(row.value)
            card = next(position for position in decision.entities if position.kind == "card")
            assert card.seq > last.get(card.key, 0)
            last[card.key] = card.seq


def test_a_duplicate_is_counted_and_leaves_no_trace() -> None:
    """The second copy of a transaction changes no state and makes no decision."""
    rng = random.Random(5)
    pipeline = Pipeline(shards=1)
    tx = transaction(rng, 0, START_MS)
    tx.lat = tx.lon = None
    copies = [record(pipeline.codec.encode_transaction(tx), tx.card_id, offset=i) for i in range(3)]
    pipeline.send(0, copies[:1])
    first = pipeline.drain()
    states = _entities(pipeline)
    pipeline.send(0, copies[1:])
    assert [row.topic for row in first if row.topic == ledger.DECISIONS] == [ledger.DECISIONS]
    assert pipeline.drain() == []
    assert states == _entities(pipeline)
    assert pipeline.count_of("fraud_detection_transactions_total", status="duplicate") == 2


def _entities(pipeline: Pipeline) -> dict[str, bytes]:
    """States of the first shard's entities; what is kept beside them (progress in time, refusals) moves with every record."""
    maps = pipeline.maps[0]
    return {key: state for name in ("cards", "entities") for key, state in maps[name].entries.items() if entity_of(key) is not None}


def test_bad_records_become_dead_letters_and_the_rest_is_scored() -> None:
    """Each bad record gives one dead letter with its origin and a code; its neighbours in the batch are decided."""
    rng = random.Random(6)
    pipeline = Pipeline(shards=1)
    good = transaction(rng, 0, START_MS)
    good.lat = good.lon = None
    value = pipeline.codec.encode_transaction(good)
    bad = [None, b"", b"\x07rubbish", value[:-4], value + b"\0", b"\0\0\0\0\x63" + value[5:], bytes(300_000)]
    records = [record(data, good.card_id, partition=2, offset=100 + i) for i, data in enumerate(bad)]
    records.append(record(value, None, offset=1))
    records.append(record(value, good.card_id, offset=2))
    pipeline.send(0, records)
    rows = pipeline.drain()
    letters = [pipeline.codec.decode_dead_letter(row.value) for row in rows if row.topic == ledger.DEAD_LETTERS]
    assert len(letters) == len(bad) + 1
    assert [letter.origin_offset for letter in letters[:-1]] == list(range(100, 107))
    # bytes that do not decode may hold a raw address: only the origin is kept; what decodes is kept without it
    assert letters[2].value is None
    assert letters[-1].code == "empty_key"
    assert letters[-1].value is not None
    assert all(letter.code for letter in letters)
    assert len([row for row in rows if row.topic == ledger.DECISIONS]) == 1


def test_a_batch_that_is_refused_beyond_the_limit_leaves_no_trace_and_is_refused_again_after_a_restart() -> None:
    pipeline = Pipeline(shards=1, limits=RefusalLimits(max_run_records=10))
    tx = Transaction("t", "default", "card1", "m", 100, "USD", START_MS)
    good = pipeline.codec.encode_transaction(tx)
    pipeline.send(0, [record(b"poison", "card", offset=i) for i in range(8)])
    assert len(pipeline.checkpoint()) == 8
    before = dict(pipeline.maps[0]["cards"].entries)
    rest = [record(good, "card1", offset=8), *(record(b"poison", "card", offset=9 + i) for i in range(11))]
    for _ in range(2):
        with pytest.raises(TooManyRefused, match="bad_magic"):
            pipeline.send(0, rest)
        assert pipeline.drain() == []
        assert pipeline.maps[0]["cards"].entries == before
        pipeline.crash()
    pipeline.send(0, rest[:11])
    assert [row.topic for row in pipeline.drain()] == [ledger.DECISIONS, *[ledger.DEAD_LETTERS] * 10]
