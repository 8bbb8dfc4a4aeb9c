"""The online store against a real Redis: the contract, two writers, and Redis going away and coming back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flink_jobs.known_entities import KnownEntities
from flink_jobs.reemit import Reemission, map_key
from fraud.errors import Unavailable
from fraud.kernel import empty_state
from fraud.state import encode_state
from serving.blacklist import Blacklist, blacklist_key
from serving.feast_layout import EntityKeys
from serving.online_feed import OnlineFeed
from serving.online_healing import Healing
from serving.online_store import OnlineStore
from serving.online_writer import BufferedWriter
from tests.contract.pipeline import DictMap
from tests.online_store_contract import CARD, EPOCH, A, OnlineStoreContract
from tests.redis_server import RedisServer

TIMEOUT_S = 2.0  # the default of 20 ms is for a machine that is not running a test suite


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.kill()


@pytest.fixture(autouse=True)
def _empty(server: RedisServer) -> None:
    server.client().flushall()


@pytest.fixture
def store(server: RedisServer) -> Iterator[OnlineStore]:
    opened = OnlineStore(server.url, timeout_s=TIMEOUT_S)
    yield opened
    opened.close()


class TestRedisOnlineStore(OnlineStoreContract):
    @pytest.fixture
    def store(self, server: RedisServer) -> Iterator[OnlineStore]:  # type: ignore[override]
        opened = OnlineStore(server.url, timeout_s=TIMEOUT_S)
        yield opened
        opened.close()


def encoded_key(kind: int, key: str) -> bytes:
    return EntityKeys("fraudguard").encode(kind, key)


def test_rows_expire_only_where_a_time_to_live_is_set(store: OnlineStore, server: RedisServer) -> None:
    store.write([(CARD, A, b"s", 1, 5)], EPOCH)
    assert 80 * 86_400 < server.client().ttl(encoded_key(CARD, A)) <= 90 * 86_400
    forever = OnlineStore(server.url, timeout_s=TIMEOUT_S, ttl_s=0)
    forever.write([(CARD, "default|b", b"s", 1, 5)], EPOCH)
    assert server.client().ttl(encoded_key(CARD, "default|b")) == -1
    forever.close()


def test_a_redis_that_forgot_the_script_is_taught_again(store: OnlineStore, server: RedisServer) -> None:
    store.write([(CARD, A, b"1", 1, 5)], EPOCH)
    server.client().script_flush()
    assert store.write([(CARD, A, b"2", 2, 5)], EPOCH) == 1
    assert store.read([(CARD, A)]) == [(b"2", 2, 5)]


def test_something_else_under_the_key_is_an_unavailable_store_and_not_a_crash(store: OnlineStore, server: RedisServer) -> None:
    store.write([(CARD, "default|good", b"s", 1, 5)], EPOCH)
    server.client().set(encoded_key(CARD, A), "a string")
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        store.read([(CARD, A), (CARD, "default|good")])
    # the good row's reply was read too, and does not answer the next question
    assert store.read([(CARD, "default|other")]) == [None]


def shuffled_writes(seed: int, count: int, keys: int) -> list[tuple[int, str, bytes, int, int]]:
    """Writes of every number of every key's log, out of order, many in the same millisecond."""
    draw = random.Random(seed)
    per_key = count // keys
    rows = [(CARD, f"default|{k}", b"%d" % seq, seq, 1_000 + seq // 10) for k in range(keys) for seq in range(1, per_key + 1)]
    draw.shuffle(rows)
    return rows


def test_two_writers_in_any_order_leave_the_newest_row_and_no_reader_sees_a_step_back(store: OnlineStore) -> None:
    keys, writes = 50, shuffled_writes(seed=7, count=20_000, keys=50)
    failures: list[BaseException] = []
    done = threading.Event()

    def write(part: list[tuple[int, str, bytes, int, int]]) -> None:
        try:
            for start in range(0, len(part), 100):
                store.write(part[start : start + 100], EPOCH)
        except BaseException as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    regressions, polls = 0, 0
    names = [(CARD, f"default|{k}") for k in range(keys)]

    def poll() -> None:
        nonlocal regressions, polls
        last = [0] * keys
        while not done.is_set():
            now = [row.seq if row else 0 for row in store.read(names)]
            regressions += sum(seen > seq for seen, seq in zip(last, now, strict=True))
            last, polls = now, polls + 1

    writers = [threading.Thread(target=write, args=(writes[half::2],)) for half in (0, 1)]
    poller = threading.Thread(target=poll)
    for thread in (poller, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    poller.join()
    assert failures == []
    assert polls > 2
    assert regressions == 0
    newest = 20_000 // keys
    assert store.read(names) == [(b"%d" % newest, newest, 1_000 + newest // 10)] * keys


def test_the_control_plain_hash_writes_in_that_order_do_regress(server: RedisServer) -> None:
    """Without the versions the same writes leave older rows behind, so the test above can fail."""
    client, newest = server.client(), 20
    for kind, key, state, seq, _ in shuffled_writes(seed=7, count=1_000, keys=50):
        client.hset(encoded_key(kind, key), mapping={"state": state, "seq": seq})
    assert any(int(client.hget(encoded_key(CARD, f"default|{k}"), "seq")) < newest for k in range(50))


def test_a_killed_redis_is_unavailable_at_once_and_works_again_when_it_is_back(server: RedisServer, store: OnlineStore) -> None:
    store.write([(CARD, A, b"s", 1, 5)], EPOCH)
    server.kill()
    try:
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(Unavailable, match="redis"):
                store.read([(CARD, A)])
        assert time.monotonic() - started < TIMEOUT_S  # of all twenty: nobody waited for a timeout
    finally:
        server.start()
    assert store.read([(CARD, A)]) == [None]


def test_a_restart_between_two_calls_goes_unnoticed(server: RedisServer, store: OnlineStore) -> None:
    store.read([(CARD, A)])
    server.kill()
    server.start()
    assert store.read([(CARD, A)]) == [None]


def test_a_hung_redis_costs_one_timeout_and_its_late_answer_reaches_nobody(server: RedisServer, store: OnlineStore) -> None:
    hasty = OnlineStore(server.url, timeout_s=0.2)
    store.write([(CARD, A, b"a", 1, 5), (CARD, "default|b", b"b", 2, 6)], EPOCH)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="Timeout"):
            hasty.read([(CARD, A)])
        assert time.monotonic() - started < 1
    finally:
        os.kill(server.pid, signal.SIGCONT)
    time.sleep(0.05)
    assert hasty.read([(CARD, "default|b")]) == [(b"b", 2, 6)]
    hasty.close()


def test_the_stream_writer_outlives_a_redis_restart_and_delivers_the_newest_states(server: RedisServer, store: OnlineStore) -> None:
    writer = BufferedWriter(store, started_ms=1_700_000_000_000)
    writer.put(CARD, A, b"1", 1, 5)
    assert writer.flush()
    server.kill()
    for seq in range(2, 6):
        writer.put(CARD, A, b"%d" % seq, seq, 5)
        assert not writer.flush()
    server.start()
    deadline = time.monotonic() + 5
    while not writer.flush():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert store.read([(CARD, A)]) == [(b"5", 5, 5)]
    assert (writer.recoveries, writer.dropped, writer.refused) == (1, 0, 0)


def test_blocked_ids_are_known_within_two_seconds_and_forgotten_likewise(server: RedisServer) -> None:
    client = server.client()
    client.sadd(blacklist_key("bank", "card"), "c1", "c2")
    blacklist = Blacklist(server.url, timeout_s=TIMEOUT_S)
    blacklist.refresh(["bank"], now_s=10.0)
    assert blacklist.contains("bank", "card", "c1")
    assert not blacklist.contains("bank", "card", "c3")
    assert not blacklist.contains("bank", "user", "c1")
    assert not blacklist.contains("other", "card", "c1")
    assert not blacklist.contains("bank", "card", None)
    client.srem(blacklist_key("bank", "card"), "c1")
    client.sadd(blacklist_key("bank", "ip"), "h1")
    blacklist.refresh(["bank"], now_s=11.9)
    assert blacklist.contains("bank", "card", "c1")  # not yet
    blacklist.refresh(["bank"], now_s=12.0)
    assert not blacklist.contains("bank", "card", "c1")
    assert blacklist.contains("bank", "ip", "h1")
    blacklist.close()


def test_a_tenant_seen_for_the_first_time_is_looked_up_at_once(server: RedisServer) -> None:
    server.client().sadd(blacklist_key("late", "card"), "c1")
    blacklist = Blacklist(server.url, timeout_s=TIMEOUT_S)
    blacklist.refresh(["bank"], now_s=10.0)
    blacklist.refresh(["late"], now_s=10.1)
    assert blacklist.contains("late", "card", "c1")
    blacklist.close()


def test_the_last_known_block_list_serves_while_redis_is_away(server: RedisServer) -> None:
    server.client().sadd(blacklist_key("bank", "card"), "c1")
    blacklist = Blacklist(server.url, timeout_s=TIMEOUT_S)
    blacklist.refresh(["bank"], now_s=10.0)
    server.kill()
    try:
        blacklist.refresh(["bank"], now_s=20.0)
        assert blacklist.is_degraded
        assert blacklist.contains("bank", "card", "c1")
    finally:
        server.start()
    blacklist.refresh(["bank"], now_s=22.0)
    assert not blacklist.is_degraded
    assert not blacklist.contains("bank", "card", "c1")  # it came back empty
    blacklist.close()


def test_loading_the_store_leaves_no_metrics_folder_to_child_processes() -> None:
    """Importing Feast alone would: every server started afterwards would keep its metrics in a folder that goes away."""
    script = "import os, serving.online_store; print(sorted(name for name in os.environ if name.startswith('PROMETHEUS_MULTIPROC')))"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_MULTIPROC")}
    done = subprocess.run([sys.executable, "-c", script], env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_redis_that_came_back_empty_is_filled_again_and_says_so(tmp_path: Path) -> None:
    """The whole way on the feed's own thread: killed, empty, noticed, read through, whole; a reader knows at every moment."""
    server = RedisServer(tmp_path)
    server.start()
    store, reader = (OnlineStore(server.url, timeout_s=TIMEOUT_S) for _ in range(2))
    feed = OnlineFeed(BufferedWriter(store, started_ms=1), healing=Healing(store, "cards", parts=1))
    reemission = Reemission(feed, KnownEntities())
    states = DictMap({map_key(CARD, f"bank|{number}"): encode_state(empty_state(), CARD) for number in range(3_000)})
    entities = [(CARD, f"bank|{number}") for number in range(3_000)]

    def heal() -> None:
        deadline = time.monotonic() + 30
        while not reader.look_up([]).health.is_whole:
            assert time.monotonic() < deadline
            reemission.turn(0, states)
            time.sleep(0.02)

    try:
        feed.own([0])
        heal()
        before = reader.look_up(entities)
        assert None not in before.states
        server.kill()
        server.start()
        assert reader.look_up(entities[:1]) == ([None], (False, None))
        heal()
        assert reader.look_up(entities) == before
    finally:
        feed.close()
        server.kill()
