"""Re-emission gives the store every state of a shard, a few at a time, and never an older one over a newer one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from flink_jobs.known_entities import KnownEntities
from flink_jobs.reemit import BUSY_MS, IDLE_MS, SLICE_ROWS, Reemission, entity_of, map_key
from fraud.events import Kind, Transaction
from fraud.kernel import empty_state
from fraud.state import encode_state, state_seq
from fraud.vector import Evaluator, event_row
from serving.online_feed import ROOM_ROWS, OnlineFeed
from serving.online_healing import Healing
from serving.online_writer import BufferedWriter
from serving.state_reads import StoredState
from tests.contract.pipeline import DictMap
from tests.online_store_contract import MemoryOnlineStore

CARD = int(Kind.CARD)
SHARD = 0


class Rig:
    """A feed whose writes are made by hand, over a store that can be looked into."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = MemoryOnlineStore()
        self.writer = BufferedWriter(self.store, 1, clock=self.clock)
        self.healing = Healing(self.store, "cards", 1, clock=self.clock)
        self.feed = OnlineFeed(self.writer, interval_s=threading.TIMEOUT_MAX, healing=self.healing)
        self.feed.own([SHARD])
        self.known = KnownEntities()
        self.known.own([SHARD])
        self.reemission = Reemission(self.feed, self.known, clock=self.clock)
        self.states = DictMap()

    def clock(self) -> float:
        return self.now_s

    def write(self) -> None:
        """What the feed's thread does every 50 ms."""
        self.feed._write()
        self.now_s += 1.0

    def turn(self) -> int:
        return self.reemission.turn(SHARD, self.states)

    def heal(self) -> int:
        """Turns until the store is whole."""
        for turns in range(1, 10_000):
            self.turn()
            self.write()
            if self.store.look_up([]).health.is_whole:
                return turns
        raise AssertionError("never whole")


@pytest.fixture
def rig() -> Rig:
    return Rig()


def state_of(events: int, kind: int = CARD) -> bytes:
    """An entity's state after so many events."""
    evaluator = Evaluator()
    columns = evaluator.catalogue.slices[kind]
    state = empty_state()
    for number in range(events):
        row = event_row(Transaction(f"t{number}", "bank", "c", "m", 100, "EUR", 1_700_000_000_000 + number))
        state = evaluator.observe(kind, state, row, np.empty(columns.stop - columns.start))
    assert state_seq(state) == events
    return encode_state(state, kind)


STATES = [state_of(events) for events in range(1, 4)]


def fill(states: DictMap, count: int) -> dict[tuple[int, str], StoredState]:
    """So many cards; returns what the store must hold of them."""
    states.put_all({map_key(CARD, f"bank|{number:05d}"): STATES[number % 3] for number in range(count)})
    states.put("progress", b"not an entity")
    return {(CARD, f"bank|{n:05d}"): StoredState(STATES[n % 3], n % 3 + 1, 1_700_000_000_000 + n % 3) for n in range(count)}


def test_who_has_read_everything_knows_who_is_new(rig: Rig) -> None:
    expected = fill(rig.states, 3 * SLICE_ROWS + 1)
    rig.write()
    assert not rig.known.is_new(CARD, "bank|a stranger before the reading")
    rig.heal()
    assert not any(rig.known.is_new(*entity) for entity in expected)
    assert rig.known.is_new(CARD, "bank|a stranger")


def test_every_state_of_the_shard_comes_back_and_then_nothing_is_wanted(rig: Rig) -> None:
    expected = fill(rig.states, 3 * SLICE_ROWS + 1)
    rig.write()
    rig.heal()
    assert dict(zip(expected, rig.store.read(list(expected)), strict=True)) == expected
    assert rig.turn() == IDLE_MS
    assert rig.writer.put_again_rows == len(expected)
    rig.store.lose_everything()
    rig.write()
    rig.heal()
    assert dict(zip(expected, rig.store.read(list(expected)), strict=True)) == expected


def test_a_shard_that_is_wanted_and_has_nothing_is_whole_at_once(rig: Rig) -> None:
    rig.write()
    assert rig.heal() <= 2


def test_nothing_is_read_while_the_store_has_everything(rig: Rig) -> None:
    rig.write()
    rig.heal()
    rig.states.scan = None  # type: ignore[assignment,method-assign]
    assert rig.turn() == IDLE_MS


def test_a_turn_ends_when_its_time_is_over(rig: Rig) -> None:
    """One look at the clock a slice: here every one of them takes longer than a turn may."""
    fill(rig.states, 10 * SLICE_ROWS)
    rig.write()
    ticks = iter(range(1_000))
    rig.reemission = Reemission(rig.feed, rig.known, clock=lambda: float(next(ticks)))
    for turn in range(1, 4):
        assert rig.turn() == BUSY_MS
        rig.write()
        assert rig.writer.put_again_rows == turn * SLICE_ROWS


def test_a_turn_ends_when_the_feed_is_full_and_the_store_away_costs_no_memory(rig: Rig) -> None:
    fill(rig.states, 3 * ROOM_ROWS)
    rig.write()
    rig.store.is_up = False
    for _ in range(20):
        assert rig.turn() == BUSY_MS
        rig.write()
    assert ROOM_ROWS - SLICE_ROWS < rig.writer.waiting <= ROOM_ROWS
    rig.store.is_up = True
    rig.heal()
    assert rig.writer.put_again_rows == 3 * ROOM_ROWS


def test_an_entry_that_was_read_before_it_changed_does_not_replace_what_waits(rig: Rig) -> None:
    key = "bank|00000"
    fill(rig.states, 1)
    rig.write()
    rig.feed.put(CARD, key, STATES[2], 3, 9)
    rig.store.is_up = False
    rig.write()
    assert rig.turn() == IDLE_MS  # hands over the state of number 1
    rig.store.is_up = True
    rig.now_s += 10.0
    rig.write()
    assert rig.store.read([(CARD, key)]) == [(STATES[2], 3, 9)]


def test_an_entry_that_was_read_before_it_changed_does_not_replace_what_is_written(rig: Rig) -> None:
    key = "bank|00000"
    fill(rig.states, 1)
    rig.write()
    rig.feed.put(CARD, key, STATES[2], 3, 9)
    rig.write()
    rig.heal()
    assert rig.store.read([(CARD, key)]) == [(STATES[2], 3, 9)]


def test_keys_of_the_map_name_their_entities() -> None:
    assert [entity_of(map_key(kind, "a|b|c")) for kind in Kind] == [(kind, "a|b|c") for kind in Kind]


@pytest.mark.parametrize("key", ["progress", "", "card", "nobody|x"])
def test_entries_that_are_no_entities_are_left_alone(key: str) -> None:
    assert entity_of(key) is None
