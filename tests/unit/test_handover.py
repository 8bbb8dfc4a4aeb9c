"""What lies at hand between two operators of a process, and that nothing does where nobody will come for it."""

from __future__ import annotations

from flink_jobs.handover import Handover
from flink_jobs.packing import Item, ItemKind

ITEMS = [Item(ItemKind.LABEL, b"body")]


def test_what_was_packed_is_taken_once_and_for_the_very_same_bytes() -> None:
    handover = Handover()
    handover.join(object())
    handover.put(0, 1, b"packed", ITEMS)
    assert handover.take(0, 1, b"packed") is ITEMS
    assert handover.take(0, 1, b"packed") is None
    handover.put(0, 2, b"packed", ITEMS)
    assert handover.take(0, 2, b"other") is None


def test_nothing_is_kept_in_a_process_in_which_nobody_takes_it() -> None:
    """Where ``infer`` has a TaskManager of its own, five hundred batches would lie about beside ``ingest``."""
    handover, taker = Handover(), object()
    handover.put(0, 1, b"packed", ITEMS)
    assert handover.take(0, 1, b"packed") is None
    handover.join(taker)
    handover.put(0, 2, b"packed", ITEMS)
    handover.leave(taker)
    assert handover.take(0, 2, b"packed") is None
    handover.put(0, 3, b"packed", ITEMS)
    assert handover.take(0, 3, b"packed") is None


def test_of_too_many_the_oldest_is_decoded() -> None:
    handover = Handover(capacity=2)
    handover.join(object())
    for batch in (1, 2, 3):
        handover.put(0, batch, b"packed", ITEMS)
    assert [handover.take(0, batch, b"packed") is ITEMS for batch in (1, 2, 3)] == [False, True, True]
