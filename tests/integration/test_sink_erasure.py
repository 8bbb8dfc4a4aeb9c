"""The stream has erased somebody: what every table of ClickHouse says of them afterwards, through replays and kills of the sink.

Real Kafka, the real engine.  The control of each search is the same search before the erasure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from analytics.connection import connect
from analytics.deletions import DeletionWatch
from analytics.ledger_rows import LedgerRows, Value
from analytics.store import Store
from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from serving import ledger
from serving.records import EntityPosition, ErasureApplied, FiredRule, LabelApplied
from tests import sink_process
from tests import wire_samples as wire
from tests.kept import in_clickhouse
from tests.sink_world import SinkWorld, sink_world, wait_until

PATIENCE_S = 40.0
TENANT = "acme"
GONE = r"gone's \ card"  # what a parameter of a statement would trip over
HOLDING = ("transactions", "decisions", "rule_hits", "reasons", "labels")
SUBJECTS = {"card": "card_id", "user": "user_id", "device": "device_id", "ip": "ip_hash"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinkWorld]:
    with sink_world(tmp_path_factory.mktemp("erasure")) as world:
        yield world


@pytest.fixture
def world(servers: SinkWorld) -> SinkWorld:
    return servers.cleared()


def paid(identity: str, subject: str, seq: int, *, kind: str = "card") -> tuple[str, bytes]:
    """An explained decision about a payment of the subject, whose message names them; it stands at ``seq`` in the subject's log."""
    transaction = wire.transaction(transaction_id=identity, tenant_id=TENANT, **{SUBJECTS[kind]: subject})
    decision = wire.decision(
        decision_id=decision_id(TENANT, identity),
        tenant_id=TENANT,
        transaction_id=identity,
        transaction=transaction,
        features=np.full(CATALOGUE.size, 1.0),
        catalogue_version=CATALOGUE.version,
        entities=[EntityPosition(kind, f"{TENANT}|{subject}", seq)],
        rules=[FiredRule("burst", "VELOCITY", "high", 0.66, None, "enabled", f"7 payments of {subject}")],
    )
    return ledger.DECISIONS, wire.codec().encode_decision(decision)


def labelled(identity: str, card: str, seq: int) -> tuple[str, bytes]:
    entities = [EntityPosition("card", f"{TENANT}|{card}", seq)]
    applied = LabelApplied(identity, TENANT, True, wire.NOW_MS, wire.NOW_MS - 5, "analyst", entities)
    return ledger.LABELS_APPLIED, wire.codec().encode_label_applied(applied)


def shadowed(identity: str, subject: str, seq: int, *, kind: str = "card") -> tuple[str, bytes]:
    """What a challenger said of the payment; its message names the subject too."""
    shadow = replace(
        wire.SAMPLES["shadow_decision"],
        decision_id=decision_id(TENANT, identity),
        tenant_id=TENANT,
        transaction_id=identity,
        rules=[FiredRule("burst", "VELOCITY", "high", 0.66, None, "enabled", f"7 payments of {subject}")],
        entities=[EntityPosition(kind, f"{TENANT}|{subject}", seq)],
    )
    return ledger.SHADOWS, wire.codec().encode_shadow_decision(shadow)


def erased(subject: str, seq: int, *, kind: str = "card") -> tuple[str, bytes]:
    applied = ErasureApplied(TENANT, kind, f"{TENANT}|{subject}", seq, wire.NOW_MS)
    return ledger.ERASURES_APPLIED, wire.codec().encode_erasure_applied(applied)


def send(world: SinkWorld, *records: tuple[str, bytes]) -> None:
    """Into the ledger, in this order within a topic."""
    producer = Producer({"bootstrap.servers": world.kafka.bootstrap, "linger.ms": 5})
    for topic, value in records:
        producer.produce(topic, value, "one partition")
    assert producer.flush(30) == 0


def send_apart(world: SinkWorld, *groups: Sequence[tuple[str, bytes]]) -> None:
    """One group after the other by the broker's clock, which tells of a label that does not name the subject whether it is older."""
    for records in groups:
        send(world, *records)
        time.sleep(0.01)


def follow(world: SinkWorld, **settings: Any) -> Any:
    """A sink until it has read everything, and the engine until it has rewritten its parts."""
    sink = world.run_until(0, **settings)
    wait_until(lambda: world.rows("SELECT count() FROM system.mutations WHERE NOT is_done") == [(0,)], "mutations")
    return sink


def named_in(world: SinkWorld, *names: str) -> set[str]:
    """The tables and views that say one of the names anywhere."""
    said = [name.encode() for name in names]
    everything = in_clickhouse(world.engine.settings)
    return {place.removeprefix("clickhouse ") for place, content in everything if any(name in content for name in said)}


def kept(world: SinkWorld, table: str) -> list[str]:
    return [row[0] for row in world.rows(f"SELECT DISTINCT decision_id FROM {table} FINAL ORDER BY decision_id")]


def ids(*identities: str) -> list[str]:
    return sorted(decision_id(TENANT, one) for one in identities)


def history(subject: str, kind: str, identities: Sequence[str]) -> list[tuple[str, bytes]]:
    """Payments of a subject and of somebody else, each with a label of a card that is not the subject."""
    ours = [paid(identity, subject, seq, kind=kind) for seq, identity in enumerate(identities, start=1)]
    return [*ours, paid("theirs", "stays", 1, kind=kind), *(labelled(identity, "some card", 1) for identity in (*identities, "theirs"))]


@pytest.mark.parametrize("kind", SUBJECTS)
def test_who_was_erased_is_in_no_table(world: SinkWorld, kind: str) -> None:
    send(world, *history(GONE, kind, ["a", "b", "c"]))
    follow(world)
    before = named_in(world, GONE, *ids("a", "b", "c"))
    assert {*HOLDING, "v_decisions_labelled"} <= before  # the control
    send(world, erased(GONE, 4, kind=kind))
    sink = follow(world)
    assert dict(sink.report.erased) == {**dict.fromkeys(HOLDING, 3), "reasons": 6}  # of two features each
    assert named_in(world, GONE) == set()
    assert named_in(world, *ids("a", "b", "c")) == {"erased_decisions"}  # a hash, so that none of them comes back
    for table in HOLDING:
        assert kept(world, table) == ids("theirs"), table
    assert world.rows("SELECT sum(decisions) FROM v_decisions_hourly") == [(4,)]  # a roll-up counts, and names nobody


@pytest.mark.parametrize("kind", SUBJECTS)
def test_what_a_challenger_said_of_them_goes_too(world: SinkWorld, kind: str) -> None:
    """Also what the ledger took a moment after the erasure, and what is read again or for the first time."""
    ours, theirs = (shadowed("a", GONE, 1, kind=kind), shadowed("b", GONE, 2, kind=kind)), shadowed("theirs", "stays", 1, kind=kind)
    send_apart(world, history(GONE, kind, ["a", "b", "c"]), [*ours, theirs])
    follow(world)
    assert {"shadow_decisions", "v_shadow"} <= named_in(world, *ids("a", "b"))  # the control
    assert "shadow_decisions" in named_in(world, GONE)
    send_apart(world, [erased(GONE, 4, kind=kind)], [shadowed("c", GONE, 3, kind=kind)])
    follow(world)
    assert named_in(world, GONE) == set()
    assert kept(world, "shadow_decisions") == ids("theirs")
    with connect(world.engine.settings) as client:
        client.command("TRUNCATE TABLE sink_offsets")
    follow(world, batch_records=2)
    assert named_in(world, GONE) == set()
    assert kept(world, "shadow_decisions") == ids("theirs")


def test_what_a_challenger_said_and_the_ledger_took_a_moment_after_the_erasure_goes(world: SinkWorld) -> None:
    """It was written before the sink had heard of the erasure, under a later version than the erasure has."""
    send_apart(world, history(GONE, "card", ["a"]), [erased(GONE, 2)])
    store, now = Store(world.engine.settings), int(1000 * time.time()) + 5_000
    _, value = shadowed("a", GONE, 1)
    store.write(LedgerRows(wire.codec()).shadows([Value(0, 0, now, value)]).tables, "of a batch before")
    store.close()
    assert "shadow_decisions" in named_in(world, GONE)
    follow(world)
    assert named_in(world, GONE) == set()


def test_what_is_read_again_or_late_brings_nobody_back(world: SinkWorld) -> None:
    """Everything once more from the first record, with other bounds; then a payment from before the erasure that stood behind it."""
    send_apart(world, history(GONE, "device", ["a", "b"]), [erased(GONE, 9, kind="device")], [labelled("late", "some card", 1)])
    follow(world)
    with connect(world.engine.settings) as client:
        client.command("TRUNCATE TABLE sink_offsets")
    follow(world, batch_records=2)
    assert kept(world, "transactions") == ids("theirs")
    assert kept(world, "labels") == ids("theirs", "late")  # nothing was known of it yet
    send(world, paid("late", GONE, 3, kind="device"))
    follow(world)
    for table in HOLDING:
        assert kept(world, table) == ids("theirs"), table
    send(world, paid("a", GONE, 10, kind="device"), paid("new", GONE, 11, kind="device"), labelled("new", "some card", 2))
    follow(world)
    for table in ("transactions", "decisions", "rule_hits", "reasons"):
        assert kept(world, table) == ids("theirs", "a", "new"), table
    assert kept(world, "labels") == ids("theirs", "new")


def test_a_sink_that_dies_amid_an_erasure_erases_when_it_comes_back(world: SinkWorld) -> None:
    """Each of the sinks dies with everything of a batch done and nothing remembered, and each has other bounds."""
    send_apart(world, history(GONE, "card", [f"t{number}" for number in range(40)]), [erased(GONE, 41)])
    for records, batches in ((7, 2), (60, 1), (100, 1)):
        process = sink_process.start(world.engine.settings, world.settings(batch_records=records), dies_after_batches=batches)
        process.join(PATIENCE_S)
        assert process.exitcode == -9
    follow(world, batch_records=11)
    assert named_in(world, GONE) == set()
    for table in HOLDING:
        assert kept(world, table) == ids("theirs"), table


def test_rows_that_a_killed_writer_left_behind_go_when_the_next_sink_begins(world: SinkWorld) -> None:
    send(world, *history(GONE, "card", ["a"]), erased(GONE, 2))
    follow(world)
    store, before_ms = Store(world.engine.settings), int(1000 * time.time()) - 60_000
    _, value = paid("a", GONE, 1)
    store.write(LedgerRows(wire.codec()).decisions([Value(0, 0, before_ms, value)]).tables, "of another batch")
    store.close()
    assert "transactions" in named_in(world, GONE)
    follow(world)
    assert named_in(world, GONE) == set()


def test_a_deletion_that_the_engine_cannot_do_is_told_until_it_is_done(world: SinkWorld) -> None:
    send(world, *history(GONE, "card", ["a"]))
    follow(world)
    deletions = DeletionWatch(Store(world.engine.settings))
    deletions.look()
    assert deletions.failing == dict.fromkeys((*HOLDING, "shadow_decisions"), 0)
    with connect(world.engine.settings) as client:
        client.command("CREATE TABLE obstacle ENGINE = Memory AS SELECT 1 AS stands")
        fails = "throwIf(decision_id != '' AND (SELECT count() FROM obstacle) > 0) = 0"
        client.command(f"ALTER TABLE labels DELETE WHERE {fails} SETTINGS mutations_sync = 0")
    wait_until(lambda: deletions.look() or deletions.failing["labels"] == 1, "a deletion that fails")
    with connect(world.engine.settings) as client:
        client.command("TRUNCATE TABLE obstacle")
    wait_until(lambda: deletions.look() or deletions.failing["labels"] == 0, "the engine's next attempt")
    assert kept(world, "labels") == []
    world.engine.kill()
    deletions.look()
    assert deletions.failing == {}
    world.engine.start()
