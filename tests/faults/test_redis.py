"""F16, F17 and F18: Redis away, frozen, slow or cut off while the stream runs; Redis without its data; and two writers of one key."""

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
import redis
from feast import RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo import definitions
from fraud.errors import Unavailable
from fraud.events import Kind
from infra import nemesis
from infra.campaign import Campaign
from serving.online_health import StoreHealth
from serving.online_store import EntityRow, OnlineStore
from serving.state_reads import Reading
from tests.faults.toxics import Proxy
from tests.faults.world import CLEAN, World, figures
from tests.redis_server import RedisServer

PATIENCE_S = 60.0
CONTROL_S = 15.0  # with healing it takes a few
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


def _healed_s(store: OnlineStore, newest: dict[tuple[Kind, str], int]) -> float:
    """Seconds until the store says that it is whole; it must then hold everything that the ledger says, or something newer."""
    began_s = time.monotonic()
    while not _look_up(store, []).health.is_whole:
        assert time.monotonic() - began_s < PATIENCE_S, f"{len(_stale(store, newest))} of {len(newest)} entities are stale"
        time.sleep(0.1)
    stale = _stale(store, newest)
    assert stale == [], f"whole, it says, and {len(stale)} of {len(newest)} entities are stale"
    return round(time.monotonic() - began_s, 1)


def _look_up(store: OnlineStore, entities: list[tuple[int, str] | None]) -> Reading:
    """As a reader does who has waited for Redis."""
    began_s = time.monotonic()
    while True:
        try:
            return store.look_up(entities)
        except Unavailable:
            assert time.monotonic() - began_s < PATIENCE_S
            time.sleep(0.05)


@pytest.fixture
def online(world: World) -> Iterator[OnlineStore]:
    store = OnlineStore(world.stack.addresses.redis_url, timeout_s=2.0)
    yield store
    store.close()


@pytest.mark.slow
def test_f17_a_store_that_was_emptied_is_whole_again_without_any_traffic(world: World, online: OnlineStore) -> None:
    """FLUSHALL: from the next read on an absent entity is missing and not new; within a minute every state is back, to the byte."""
    with world.campaign("f17-flush") as campaign:
        seconds = world.load.events / world.load.rate
        world.send(campaign, world.traffic(campaign.tenant, seconds=seconds, cards=world.load.events))  # many entities, few events each
        campaign.settle()
        newest = _newest(campaign)
        _healed_s(online, newest)
        before = online.look_up(list(newest))
        with redis.Redis.from_url(world.stack.addresses.redis_url) as client:
            rows = client.dbsize()
            client.flushall()
        after = online.look_up(list(newest))
        assert not after.health.is_whole
        assert after.states == [None] * len(newest)
        healed_s = _healed_s(online, newest)
        world.note("F17 FLUSHALL", injected="idle stream", limit_s=60, healed_s=healed_s, entities=len(newest), rows=rows)
        assert online.look_up(list(newest)) == before


@pytest.mark.slow
def test_f17_a_redis_that_lost_its_last_seconds_under_load_is_whole_again(world: World, online: OnlineStore) -> None:
    """Killed with -9, Redis finds a log that ends before its last writes did."""
    url = world.stack.addresses.redis_url
    with world.campaign("f17-kill") as campaign, redis.Redis.from_url(url) as client:
        healths: list[StoreHealth] = []

        def fault() -> None:
            time.sleep(3.0)
            client.config_set("appendonly", "no")  # what is written from here on no restart brings back
            client.set("f17-probe", 1)
            time.sleep(1.5)
            nemesis.kill(world.stack.layout, "redis")
            nemesis.live_pid(world.stack.layout, "redis")
            healths.append(_look_up(online, []).health)

        verdict = world.under_fault(campaign, fault)
        newest = _newest(campaign)
        healed_s = _healed_s(online, newest)
        world.note("F17 kill -9", injected="last 1.5 s lost", healed_s=healed_s, entities=len(newest), **figures(verdict))
        assert client.get("f17-probe") is None, "nothing was lost, so nothing was tested"
        assert [health.is_whole for health in healths] == [False]
        assert verdict.anomalies == CLEAN, verdict.examples


def _states_that_die_with_their_worker(world: World, campaign: Campaign) -> dict[tuple[Kind, str], int]:
    """States that are in a checkpoint and that no worker has been able to write: each worker is killed while Redis is away."""
    with world.redis.with_toxics(down=True):
        world.send(campaign, world.traffic(campaign.tenant, seconds=2.0))
        campaign.settle()
        world.wait_for_a_checkpoint()
        for name in ("taskmanager-1", "taskmanager-2"):
            nemesis.kill(world.stack.layout, name)
    world.make_whole()
    return _newest(campaign)


@pytest.mark.slow
def test_f17_what_a_killed_worker_had_not_written_yet_is_written_by_its_successor(world: World, online: OnlineStore) -> None:
    with world.campaign("f17-worker") as campaign:
        newest = _states_that_die_with_their_worker(world, campaign)
        healed_s = _healed_s(online, newest)
        world.note("F17 worker", injected="TaskManagers killed before they wrote", healed_s=healed_s, entities=len(newest))


@pytest.mark.slow
@pytest.mark.job(variant="no healing")
def test_f17_control_without_healing_the_store_stays_as_it_is(world: World, online: OnlineStore) -> None:
    with world.campaign("f17-control") as campaign:
        newest = _states_that_die_with_their_worker(world, campaign)
        time.sleep(CONTROL_S)
        unwritten = len(_stale(online, newest))
        with redis.Redis.from_url(world.stack.addresses.redis_url) as client:
            client.flushall()
        time.sleep(CONTROL_S)
        lost = len(_stale(online, newest))
        world.note("F17 control", injected="healing removed", unwritten=unwritten, lost=lost, entities=len(newest))
        assert unwritten > 0
        assert lost == len(newest)
        assert not online.look_up([]).health.is_whole


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


@pytest.mark.slow
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


@pytest.mark.slow
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
