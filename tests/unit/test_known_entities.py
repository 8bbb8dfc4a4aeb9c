"""What the filter lets pass: never a state that is there, and hardly a read of one that is not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.entities import EntityLogs
from flink_jobs.known_entities import KnownEntities
from fraud.events import Kind, Transaction
from fraud.vector import Evaluator, event_row
from tests.contract.pipeline import DictMap

ENTITIES = st.lists(st.tuples(st.sampled_from(list(map(int, Kind))), st.text(max_size=12)), max_size=40)
CARD = int(Kind.CARD)


class CountingMap(DictMap):
    """Tells how often it was read."""

    def __init__(self, entries: dict[str, bytes] | None = None) -> None:
        super().__init__(entries)
        self.reads = 0

    def get(self, key: str) -> bytes | None:
        self.reads += 1
        return super().get(key)


def told(*shards: int) -> KnownEntities:
    known = KnownEntities()
    known.own(shards)
    for shard in shards:
        known.read_through(shard)
    return known


@given(held=ENTITIES, asked=ENTITIES)
def test_nothing_that_is_held_or_was_asked_for_is_new(held: list[tuple[int, str]], asked: list[tuple[int, str]]) -> None:
    known = told(0)
    for entity in held:
        known.add(*entity)
    for entity in asked:
        known.is_new(*entity)
    assert not any(known.is_new(*entity) for entity in held + asked)


def test_a_stranger_is_new_once() -> None:
    known = told(0, 3)
    assert known.is_new(CARD, "acme|c1")
    assert not known.is_new(CARD, "acme|c1")
    assert known.is_new(int(Kind.USER), "acme|c1")


def test_nothing_is_new_before_every_shard_has_been_read_through() -> None:
    known = KnownEntities()
    assert not known.is_new(CARD, "before anybody said which shards there are")
    known.own([1, 2])
    known.read_through(1)
    assert not known.is_new(CARD, "a")
    known.read_through(2)
    assert not known.is_new(CARD, "a")  # asked for meanwhile, so that it may be there
    assert known.is_new(CARD, "b")


def test_few_strangers_are_taken_for_acquaintances() -> None:
    known = told(0)
    for number in range(50_000):
        known.add(CARD, f"acme|{number}")
    assert sum(not known.is_new(CARD, f"bank|{number}") for number in range(10_000)) <= 1


def test_a_state_that_was_never_written_is_not_read_and_one_that_left_the_cache_is() -> None:
    logs, states, evaluator = EntityLogs(Evaluator(), None, cache_entries=1), CountingMap(), Evaluator()
    logs.own([0])
    logs._known.read_through(0)
    columns = evaluator.catalogue.slices[CARD]
    out = np.empty(columns.stop - columns.start)
    row = event_row(Transaction("t1", "acme", "c1", "m", 100, "EUR", 1_700_000_000_000))
    for key in ("acme|c1", "acme|c2", "acme|c3"):
        assert logs.observe(states, CARD, key, row, out) == 1
        logs.commit(states)
    assert states.reads == 0
    assert logs.observe(states, CARD, "acme|c1", row, out) == 2
    assert states.reads == 1
