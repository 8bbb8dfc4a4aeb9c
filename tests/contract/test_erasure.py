"""Erasure in the stream: an entity begins anew at one place of its log, and whoever computes the ledger again begins there too."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from flink_jobs.cores import Record
from fraud.catalogue import CATALOGUE
from fraud.events import Kind, Label, Transaction, entity_key
from fraud.state import decode_state, encode_state, erased_state
from serving import ledger
from serving.records import Erasure
from training import backfill, ledger_history
from training.backfill import Erasures
from training.parity import bits_differ

from .pipeline import Pipeline, record, run_through

START_MS = 1_700_000_000_000
SHARDS = 3
SUBJECTS = (("card", "card", 6), ("user", "u", 3), ("device", "d", 2))


def home(key: str) -> int:
    return zlib.crc32(key.encode()) % SHARDS


def transaction(rng: random.Random, number: int, time_ms: int) -> Transaction:
    return Transaction(
        transaction_id=f"t{number}",
        tenant_id=rng.choice(["default", "acme"]),
        card_id=f"card{rng.randrange(6)}",
        merchant_id=f"m{rng.randrange(4)}",
        amount_minor=rng.randrange(1, 300_000),
        currency="EUR",
        event_time_ms=time_ms,
        user_id=rng.choice([None, "u0", "u1", "u2"]),
        device_id=rng.choice([None, "d0", "d1"]),
        ip_address=rng.choice([None, "8.8.8.8"]),
    )


def traffic(pipeline: Pipeline, rng: random.Random, count: int) -> list[tuple[int, Record]]:
    """Transactions out of order, labels and erasures of every kind among them; each with its home shard."""
    found: list[tuple[int, Record]] = []
    clock_ms = START_MS

    def add(value: bytes, key: str, source: str) -> None:
        found.append((home(key), record(value, key, source=source, offset=len(found))))

    for number in range(count):
        clock_ms += rng.randrange(0, 3_600_000)
        tx = transaction(rng, number, clock_ms - rng.choice([0, 0, rng.randrange(0, 7_200_000)]))
        add(pipeline.codec.encode_transaction(tx), tx.card_id, ledger.TRANSACTIONS)
        if rng.random() < 0.2:
            label = Label(tx.transaction_id, tx.tenant_id, tx.card_id, tx.merchant_id, tx.event_time_ms, clock_ms, True, tx.user_id)
            add(pipeline.codec.encode_label(label), tx.card_id, ledger.LABELS)
        if rng.random() < 0.15:
            kind, prefix, of = rng.choice(SUBJECTS)
            subject = f"{prefix}{rng.randrange(of)}"
            erasure = Erasure(rng.choice(["default", "acme"]), kind, subject, clock_ms)
            add(pipeline.codec.encode_erasure(erasure), subject, ledger.ERASURES)
    return found


def play(seed: int, *, crash_every: int | None = None) -> ledger_history.LedgerHistory:
    """Three hundred transactions through three shards, with a crash now and then; the committed ledger."""
    rng, pipeline = random.Random(seed), Pipeline(shards=SHARDS, seed=seed)
    committed = run_through(pipeline, traffic(pipeline, rng, 300), rng, crash_every=crash_every)
    return ledger_history.load([(row.topic, row.value) for row in committed], pipeline.codec)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crash_every", [None, 3])
def test_the_ledger_computed_again_begins_anew_where_the_stream_did(seed: int, crash_every: int | None) -> None:
    history = play(seed, crash_every=crash_every)
    assert {Kind(kind).name for kind in history.erasures.kinds.tolist()} == {"CARD", "USER", "DEVICE"}
    history.check_complete()
    again = history.recompute()
    assert not history.differing(again.features).any()
    assert np.array_equal(again.seqs, history.event_seqs)
    assert np.array_equal(again.label_seqs, history.label_seqs)


def test_without_the_erasures_the_ledger_computes_to_something_else() -> None:
    """The control: the features that came after an erasure are not those of a log that was never erased."""
    history = play(0)
    order = backfill.ledger_order(history.event_seqs, history.label_seqs)
    assert history.differing(backfill.run(history.events, history.labels, order).features).sum() > 50
    late = Erasures(history.erasures.kinds, history.erasures.entities, history.erasures.seqs + 2)  # one entry too late
    assert history.differing(backfill.run(history.events, history.labels, order, erasures=late).features).any()


def test_of_an_erased_entity_the_state_keeps_the_number_alone() -> None:
    pipeline, rng = Pipeline(shards=1), random.Random(3)
    payments = [transaction(rng, number, START_MS + number) for number in range(5)]
    for one in payments:
        one.tenant_id, one.card_id, one.user_id, one.merchant_id, one.ip_address = "acme", "gone", "who", "m0", None
    *before, after = payments
    values = [record(pipeline.codec.encode_transaction(one), "gone", offset=i) for i, one in enumerate(before)]
    for kind, subject in (("card", "gone"), ("user", "who")):
        values.append(record(pipeline.codec.encode_erasure(Erasure("acme", kind, subject, START_MS)), subject, source=ledger.ERASURES))
    pipeline.send(0, values)
    rows = pipeline.drain()
    applied = [pipeline.codec.decode_erasure_applied(row.value) for row in rows if row.topic == ledger.ERASURES_APPLIED]
    assert [(one.kind, one.key, one.seq) for one in applied] == [("card", "acme|gone", 5), ("user", "acme|who", 5)]
    for entries, of, subject in (("cards", Kind.CARD, "gone"), ("entities", Kind.USER, "who")):
        kept = pipeline.maps[0][entries].entries[f"{of.name.lower()}|{entity_key('acme', subject)}"]
        assert kept == encode_state(erased_state(5), of)
        assert encode_state(decode_state(kept, of), of) == kept
    assert pipeline.count_of("fraud_detection_erasures_total", kind="card") == 1
    pipeline.send(0, [record(pipeline.codec.encode_transaction(after), "gone", offset=99)])
    (row,) = pipeline.drain()
    decision = pipeline.codec.decode_decision(row.value)
    alone = Pipeline(shards=1)
    alone.send(0, [record(alone.codec.encode_transaction(after), "gone")])
    fresh = alone.codec.decode_decision(alone.drain()[0].value)
    for of in (Kind.CARD, Kind.USER):  # as of somebody who was never seen
        columns = CATALOGUE.slices[of]
        assert not bits_differ(decision.features[columns], fresh.features[columns]).any()
    merchant = CATALOGUE.slices[Kind.MERCHANT]  # the control: the shop was not erased
    assert bits_differ(decision.features[merchant], fresh.features[merchant]).any()
    assert {one.kind: one.seq for one in decision.entities if one.kind in ("card", "user")} == {"card": 6, "user": 6}


@pytest.mark.parametrize(
    ("erasure", "key", "code"),
    [
        (Erasure("acme", "merchant", "m1", START_MS), "m1", "bad_kind"),
        (Erasure("acme", "card", "c1", START_MS), "c2", "key_mismatch"),
        (Erasure("a|b", "card", "c1", START_MS), "c1", "bad_tenant"),
        (Erasure("acme", "card", "c\n1", START_MS), "c\n1", "bad_text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_names_nobody_is_a_dead_letter(erasure: Erasure, key: str, code: str) -> None:
    pipeline = Pipeline(shards=1)
    pipeline.send(0, [record(pipeline.codec.encode_erasure(erasure), key, source=ledger.ERASURES)])
    (row,) = pipeline.drain()
    assert (row.topic, pipeline.codec.decode_dead_letter(row.value).code) == (ledger.DEAD_LETTERS, code)
