"""F16 and F18: Redis away, frozen, slow or cut off while the stream runs; and two writers of one key."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo import definitions
from fraud.errors import Unavailable
from fraud.events import Kind
from infra import nemesis
from infra.campaign import Campaign
from serving.online_store import EntityRow, OnlineStore
from tests.faults.toxics import Proxy
from tests.faults.world import CLEAN, World, figures
from tests.redis_server import RedisServer

PATIENCE_S = 60.0
KINDS = {kind.name.lower(): kind for kind in Kind}


def _newest(campaign: Campaign) -> dict[tuple[Kind, str], int]:
    """The number at which the ledger left each entity's log."""
    newest: dict[tuple[Kind, str], int] = {}
    for decision in campaign.decisions():
        for position in decision.entities:
            entity = KINDS[position.kind], position.key
            newest[entity] = max(position.seq, newest.get(entity, 0))
    return newest


def _stale(store: OnlineStore, newest: dict[tuple[Kind, str], int]) -> list[tuple[Kind, str]]:
    """Entities of which the store does not hold what the ledger says, or something newer (a label)."""
    entities = list(newest)
    return [entity for entity, stored in zip(entities, store.read(entities), strict=True) if stored is None or stored.seq < newest[entity]]


def test_f16_redis_away_frozen_slow_and_cut_off(world: World) -> None:
    """The stream half: the ledger does not notice, and the store has caught up within a minute of Redis' return."""
    hold_s = 60.0 if world.load.kills > 1 else 4.0
    before = world.restarts()
    with world.campaign("f16") as campaign:

        def fault() -> None:
            with world.redis.with_toxics(down=True):
                time.sleep(hold_s)
            time.sleep(1.0)
            with nemesis.freeze(world.stack.layout, "redis"):
                time.sleep(hold_s)
            time.sleep(1.0)
            with world.redis.with_toxics(latency_s=0.2):
                time.sleep(hold_s)
            with world.redis.with_toxics(reset_peer=True):
                time.sleep(hold_s)

        verdict = world.under_fault(campaign, fault)
        returned_s = time.monotonic()
        newest = _newest(campaign)
        store = OnlineStore(world.stack.addresses.redis_url, timeout_s=2.0)
        while stale := _stale(store, newest):
            assert time.monotonic() - returned_s < PATIENCE_S, f"{len(stale)} of {len(newest)} entities are stale, as {stale[:3]}"
            time.sleep(0.2)
        store.close()
        world.note(
            "F16 stream",
            injected=f"Redis refused, SIGSTOP, +200 ms, reset, {hold_s:g} s each",
            limit_s=60,
            entities=len(newest),
            restarts=world.restarts() - before,
            **figures(verdict),
        )
        assert verdict.anomalies == CLEAN, verdict.examples
        assert world.restarts() == before


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path)
    running.start()
    yield running
    running.kill()


ENTITIES = [(Kind.CARD, "nobody|nothing")]


def _read_s(url: str, timeout_s: float) -> tuple[bool, float]:
    """Whether a read is answered, and how long that takes."""
    store = OnlineStore(url, timeout_s=timeout_s)
    began = time.monotonic()
    try:
        store.read(ENTITIES)
    except Unavailable:
        return False, time.monotonic() - began
    finally:
        store.close()
    return True, time.monotonic() - began


def test_f16_control_without_a_short_timeout_a_frozen_redis_holds_its_caller(server: RedisServer) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        assert _read_s(server.url, 0.02) < (False, 1.0)
        assert _read_s(server.url, 2.0) > (False, 1.0)
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_the_bad_network_is_bad(server: RedisServer) -> None:
    """Control of the scenarios above: each toxic is felt by a caller, and gone when it is taken away."""
    proxy = Proxy(server.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        assert _read_s(url, 5.0)[0]
        for toxics in ({"down": True}, {"reset_peer": True}, {"timeout": True}, {"limit_bytes": 1}):
            with proxy.with_toxics(**toxics):
                assert not _read_s(url, 0.5)[0], toxics
            assert _read_s(url, 5.0)[0], toxics
        for toxics in ({"latency_s": 0.2}, {"bandwidth_bytes_per_s": 500}, {"slicer_bytes": 1, "latency_s": 0.005}):
            with proxy.with_toxics(**toxics):
                answered, seconds = _read_s(url, 5.0)
                assert answered
                assert seconds > 0.1, toxics
    finally:
        proxy.close()


KEY = "fault|one"
OPERATIONS = 100_000
PER_WRITE = 100


class Reader(threading.Thread):
    """Polls one key and counts how often it goes back; ``read`` gives (version, state) as something that can be compared."""

    def __init__(self, read: Any) -> None:
        super().__init__(daemon=True)
        self._read = read
        self._stopping = threading.Event()
        self.regressions = self.reads = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        newest: Any = None
        try:
            while not self._stopping.is_set():
                found = self._read()
                self.reads += 1
                if newest is not None and found is not None:
                    self.regressions += found < newest
                newest = found if newest is None or (found is not None and found > newest) else newest
        except BaseException as error:  # noqa: BLE001 - seen by the test
            self.failure = error

    def stop(self) -> None:
        self._stopping.set()
        self.join(10.0)
        assert self.failure is None, self.failure


def _schedules(chance: random.Random, operations: int) -> list[list[int]]:
    """Two writers' shares of the numbers 1 to ``operations``, each only roughly in order."""
    numbers = sorted(range(1, operations + 1), key=lambda number: number + chance.uniform(-200, 200))
    owners = [chance.randrange(2) for _ in numbers]
    return [[number for number, owner in zip(numbers, owners, strict=True) if owner == writer] for writer in range(2)]


def test_f18_two_writers_of_one_key(server: RedisServer) -> None:
    """100,000 writes out of order, ten to a millisecond: the newest by number stays, and no reader ever sees the key go back."""
    reading = OnlineStore(server.url, timeout_s=5.0)

    def read() -> tuple[int, bytes] | None:
        stored = reading.read([(Kind.CARD, KEY)])[0]
        return None if stored is None else (stored.seq, stored.state)

    reader = Reader(read)
    reader.start()

    def write(numbers: list[int]) -> None:
        store = OnlineStore(server.url, timeout_s=5.0)
        for at in range(0, len(numbers), PER_WRITE):
            rows = [EntityRow(Kind.CARD, KEY, b"%08d" % n, n, 1_700_000_000_000 + n // 10) for n in numbers[at : at + PER_WRITE]]
            store.write(rows, epoch=1)
        store.close()

    writers = [threading.Thread(target=write, args=(share,)) for share in _schedules(random.Random(18), OPERATIONS)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    reader.stop()
    assert read() == (OPERATIONS, b"%08d" % OPERATIONS)
    assert reader.reads > 10
    assert reader.regressions == 0
    reading.close()


def test_f18_control_feasts_own_write_keeps_what_is_not_the_newest(server: RedisServer) -> None:
    """Feast's stock Redis store reads the stored time and then writes, in two steps, and drops a write of an equal time."""
    view = definitions.card_view
    address = f"127.0.0.1:{server.port}"
    stock = RepoConfig(project="stock", registry="unused", provider="local", online_store={"type": "redis", "connection_string": address})
    entities = [EntityKey(join_keys=["card_key"], entity_values=[Value(string_val=f"fault|{i}")]) for i in range(20)]
    last = 95  # the newest five share their millisecond, as ten do everywhere else

    def write(numbers: list[int]) -> None:
        store = RedisOnlineStore()
        for number in numbers:
            moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number // 10)
            for entity in entities:
                store.online_write_batch(stock, view, [(entity, {"card_seq": Value(int64_val=number)}, moment, None)], None)

    writers = [threading.Thread(target=write, args=(share,)) for share in _schedules(random.Random(18), last)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    found = [values["card_seq"].int64_val for _, values in RedisOnlineStore().online_read(stock, view, entities, ["card_seq"]) if values]
    assert any(number != last for number in found), "control: two writers with Feast's own write"
