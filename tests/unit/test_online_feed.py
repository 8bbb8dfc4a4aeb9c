"""The feed writes the newest state of each entity and never makes its caller wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fraud.errors import Unavailable
from serving.online_feed import OnlineFeed
from serving.online_store import EntityRow
from serving.online_writer import BufferedWriter


class _Store:
    """Keeps rows; while ``gate`` is closed a write hangs, while ``away`` it is unavailable."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], int] = {}
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.away = False

    def write(self, rows: Sequence[EntityRow], epoch: int) -> int:  # noqa: ARG002
        self.entered.set()
        assert self.gate.wait(5.0)
        if self.away:
            raise Unavailable("redis")
        self.calls += 1
        self.rows |= {(row.kind, row.key): row.seq for row in rows}
        return len(rows)

    def claim_epoch(self, started_ms: int) -> int:
        return started_ms


def test_closing_writes_what_is_left() -> None:
    store = _Store()
    feed = OnlineFeed(BufferedWriter(store, 1), interval_s=60.0)
    feed.put(0, "a", b"x", 1, 0)
    feed.put(2, "b", b"x", 7, 0)
    feed.close()
    assert store.rows == {(0, "a"): 1, (2, "b"): 7}


def test_of_many_states_of_an_entity_the_newest_is_written_once() -> None:
    store = _Store()
    feed = OnlineFeed(BufferedWriter(store, 1), interval_s=60.0)
    for seq in range(1, 1_001):
        feed.put(0, "a", b"x", seq, 0)
    feed.close()
    assert store.rows == {(0, "a"): 1_000}
    assert store.calls == 1


def test_a_hanging_store_does_not_hold_the_operator() -> None:
    """What is handed over meanwhile is written when the store answers again."""
    store = _Store()
    store.gate.clear()
    feed = OnlineFeed(BufferedWriter(store, 1), interval_s=0.001)
    feed.put(0, "a", b"x", 1, 0)
    assert store.entered.wait(5.0)
    feed.put(0, "a", b"x", 2, 0)  # returns although the store hangs
    store.gate.set()
    feed.close()
    assert store.rows == {(0, "a"): 2}


def test_a_store_that_is_away_loses_nothing_that_its_return_does_not_bring() -> None:
    store = _Store()
    store.away = True
    clock = [0.0]
    writer = BufferedWriter(store, 1, clock=lambda: clock[0])
    feed = OnlineFeed(writer, interval_s=60.0)
    feed.put(0, "a", b"x", 1, 0)
    feed.close()
    assert store.rows == {}
    assert writer.waiting == 1
    store.away = False
    clock[0] += 60.0
    assert writer.flush()
    assert store.rows == {(0, "a"): 1}
