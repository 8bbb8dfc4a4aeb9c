"""The stream's writer keeps the newest rows while the store is away, and never stops the stream."""

from __future__ import annotations

import pytest

from fraud.events import Kind
from serving.online_store import EntityRow
from serving.online_writer import CHUNK_ROWS, BufferedWriter
from tests.online_store_contract import MemoryOnlineStore

CARD = int(Kind.CARD)
STARTED_MS = 1_700_000_000_000


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class SlowStore(MemoryOnlineStore):
    """Takes 40 ms a write."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def write(self, rows: list[EntityRow], epoch: int) -> int:  # type: ignore[override]
        self._clock.now_s += 0.04
        return super().write(rows, epoch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> MemoryOnlineStore:
    return MemoryOnlineStore()


@pytest.fixture
def writer(store: MemoryOnlineStore, clock: Clock) -> BufferedWriter:
    return BufferedWriter(store, STARTED_MS, clock=clock)


def put(writer: BufferedWriter, key: str, seq: int) -> None:
    writer.put(CARD, key, b"%d" % seq, seq, seq)


def test_of_an_entity_only_the_last_state_of_a_batch_is_written(writer: BufferedWriter, store: MemoryOnlineStore) -> None:
    for seq in range(1, 6):
        put(writer, "a", seq)
    assert writer.flush()
    assert store.read([(CARD, "a")]) == [(b"5", 5, 5)]
    assert writer.written == 1


def test_a_flush_with_nothing_to_write_does_not_call_the_store(writer: BufferedWriter, store: MemoryOnlineStore) -> None:
    assert writer.flush()
    assert store.calls == 0


def test_rows_wait_while_the_store_is_away_and_the_newest_arrive_when_it_is_back(
    writer: BufferedWriter, store: MemoryOnlineStore, clock: Clock
) -> None:
    store.is_up = False
    put(writer, "a", 1)
    put(writer, "b", 1)
    assert not writer.flush()
    put(writer, "a", 2)
    assert (writer.failed_flushes, writer.waiting) == (1, 2)
    store.is_up = True
    clock.now_s += 2
    assert writer.flush()
    assert store.read([(CARD, "a"), (CARD, "b")]) == [(b"2", 2, 2), (b"1", 1, 1)]
    assert (writer.recoveries, writer.written, writer.waiting) == (1, 2, 0)


def test_a_store_that_is_away_is_tried_less_and_less_often_down_to_once_a_second(
    writer: BufferedWriter, store: MemoryOnlineStore, clock: Clock
) -> None:
    store.is_up = False
    put(writer, "a", 1)
    for _ in range(1000):  # ten seconds of micro-batches
        writer.flush()
        clock.now_s += 0.01
    assert 10 <= writer.failed_flushes <= 15
    assert store.calls == writer.failed_flushes


def test_a_flush_ends_with_its_budget_and_the_next_one_goes_on(clock: Clock) -> None:
    writer = BufferedWriter(SlowStore(clock), STARTED_MS, clock=clock, budget_s=0.05)
    for seq in range(1, 5 * CHUNK_ROWS + 1):
        put(writer, f"{seq}", seq)
    assert not writer.flush()
    assert writer.waiting == 3 * CHUNK_ROWS
    assert not writer.flush()
    assert writer.flush()
    assert writer.written == 5 * CHUNK_ROWS


def test_more_waiting_entities_than_allowed_drop_the_oldest_and_say_so(store: MemoryOnlineStore, clock: Clock) -> None:
    writer = BufferedWriter(store, STARTED_MS, clock=clock, max_waiting_rows=2)
    for key in ("a", "b", "c"):
        put(writer, key, 1)
    assert writer.flush()
    assert writer.dropped == 1
    assert store.read([(CARD, "a"), (CARD, "b"), (CARD, "c")])[0] is None
    assert writer.written == 2


def test_what_is_left_of_an_earlier_attempt_is_refused_and_counted(store: MemoryOnlineStore, clock: Clock) -> None:
    old, new = (BufferedWriter(store, STARTED_MS, clock=clock) for _ in range(2))
    put(old, "a", 7)
    old.flush()
    put(new, "a", 3)
    new.flush()
    put(old, "a", 8)
    assert old.flush()
    assert store.read([(CARD, "a")]) == [(b"3", 3, 3)]
    assert (old.refused, new.refused) == (1, 0)
