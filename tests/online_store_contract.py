"""What an online store promises, as one suite for the real store and for the fake that unit tests use in its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from fraud.errors import Unavailable
from fraud.events import Kind
from serving.online_health import Mark, PartMarks, StoreHealth
from serving.online_store import EntityRow
from serving.state_reads import Reading, StoredState

CARD, DEVICE = int(Kind.CARD), int(Kind.DEVICE)
A = "default|a"
EPOCH = 1_000
PARTS = 2
BOTH = ["cards|0", "entities|0"]


class MemoryOnlineStore:
    """A dictionary in the place of ``OnlineStore``; ``is_up`` False makes every call fail."""

    def __init__(self) -> None:
        self.is_up = True
        self.calls = 0
        self._run = 1
        self._marks: dict[str, str] = {}
        self._health = StoreHealth(is_whole=False)
        self._whole_in = ""
        self.last_epoch = 0
        self._rows: dict[tuple[int, str], tuple[tuple[int, int], StoredState]] = {}

    def read(self, entities: Sequence[tuple[int, str] | None]) -> list[StoredState | None]:
        self._answer()
        rows = [self._rows.get(entity) if entity else None for entity in entities]
        return [row[1] if row else None for row in rows]

    def write(self, rows: Iterable[EntityRow | tuple[int, str, bytes, int, int]], epoch: int) -> int:
        self._answer()
        written = 0
        for kind, key, state, seq, event_time_ms in rows:
            stored = self._rows.get((kind, key))
            if stored is None or stored[0] <= (epoch, seq):
                self._rows[kind, key] = ((epoch, seq), StoredState(state, seq, event_time_ms))
                written += 1
        return written

    def claim_epoch(self, started_ms: int) -> int:
        self._answer()
        self.last_epoch = max(started_ms, self.last_epoch + 1)
        return self.last_epoch

    def look_up(self, entities: Sequence[tuple[int, str] | None]) -> Reading:
        is_whole = self._health.is_whole and self._whole_in == self.run_id
        health = StoreHealth(is_whole=is_whole, healing_since_ms=self._health.healing_since_ms)
        return Reading(self.read(entities), health)

    def read_parts(self, names: Sequence[str], parts: int) -> PartMarks:  # noqa: ARG002
        self._answer()
        return PartMarks(self.run_id, [self._marks.get(name) for name in names])

    def begin_healing(self, names: Sequence[str], mark: Mark, now_ms: int, parts: int) -> list[bool]:  # noqa: ARG002
        self._answer()
        taken = [name not in self._marks or int(self._marks[name][:16]) <= mark.epoch for name in names]
        self._marks |= {name: mark.healing for name, is_ours in zip(names, taken, strict=True) if is_ours}
        if any(taken) and self._health.healing_since_ms is None:
            self._health = StoreHealth(is_whole=False, healing_since_ms=now_ms)
        return taken

    def finish_healing(self, name: str, mark: Mark, parts: int) -> bool:
        self._answer()
        if self._marks.get(name) != mark.healing:
            return False
        self._marks[name] = mark.whole
        if len(self._marks) == parts and {stored[17:] for stored in self._marks.values()} == {mark.whole[17:]}:
            self._health, self._whole_in = StoreHealth(is_whole=True), mark.run_id
        return True

    @property
    def run_id(self) -> str:
        return f"run-{self._run}"

    def lose_everything(self) -> None:
        """FLUSHALL."""
        self._rows.clear()
        self._marks.clear()
        self._health = StoreHealth(is_whole=False)

    def restart(self) -> None:
        """Everything is still there, and nobody knows that."""
        self._run += 1

    def _answer(self) -> None:
        self.calls += 1
        if not self.is_up:
            raise Unavailable("redis", "down")


class OnlineStoreContract:
    """Inherit and provide ``store``, empty."""

    @pytest.fixture
    def store(self) -> MemoryOnlineStore:
        raise NotImplementedError

    def test_reads_back_what_was_written_in_the_order_asked(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"\x00\xff", 3, 1_700_000_000_123), (DEVICE, "default|d", b"", 1, 0)], EPOCH)
        asked = [(DEVICE, "default|d"), None, (CARD, "default|unknown"), (CARD, A)]
        assert store.read(asked) == [(b"", 1, 0), None, None, (b"\x00\xff", 3, 1_700_000_000_123)]

    def test_asking_for_nothing_is_answered(self, store: MemoryOnlineStore) -> None:
        assert store.read([]) == []
        assert store.read([None, None]) == [None, None]
        assert store.write([], EPOCH) == 0

    def test_kinds_and_tenants_with_one_id_are_apart(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"card", 1, 5), (DEVICE, A, b"device", 2, 6), (CARD, "other|a", b"other", 3, 7)], EPOCH)
        assert [row and row.state for row in store.read([(CARD, A), (DEVICE, A), (CARD, "other|a")])] == [
            b"card",
            b"device",
            b"other",
        ]

    def test_the_second_event_of_one_millisecond_is_not_lost(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"first", 1, 5)], EPOCH)
        assert store.write([(CARD, A, b"second", 2, 5)], EPOCH) == 1
        assert store.read([(CARD, A)]) == [(b"second", 2, 5)]

    def test_a_late_event_moves_the_state_and_not_the_newest_event_time(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"newest", 1, 9)], EPOCH)
        store.write([(CARD, A, b"with the late one", 2, 4)], EPOCH)
        assert store.read([(CARD, A)]) == [(b"with the late one", 2, 4)]

    def test_an_older_number_of_the_same_attempt_is_refused(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"new", 10, 5)], EPOCH)
        assert store.write([(CARD, A, b"old", 9, 99), (DEVICE, A, b"else", 1, 1)], EPOCH) == 1
        assert store.read([(CARD, A), (DEVICE, A)]) == [(b"new", 10, 5), (b"else", 1, 1)]

    def test_the_same_number_again_overwrites(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"one", 10, 5)], EPOCH)
        assert store.write([(CARD, A, b"two", 10, 5)], EPOCH) == 1
        assert store.read([(CARD, A)]) == [(b"two", 10, 5)]

    def test_a_restored_attempt_wins_with_a_lower_number_and_the_lost_one_cannot_come_back(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"before the crash", 105, 9)], EPOCH)
        assert store.write([(CARD, A, b"replayed", 101, 4)], EPOCH + 1) == 1
        assert store.write([(CARD, A, b"from the lost attempt", 106, 10)], EPOCH) == 0
        assert store.read([(CARD, A)]) == [(b"replayed", 101, 4)]

    def test_the_last_row_of_an_entity_in_a_batch_counts(self, store: MemoryOnlineStore) -> None:
        assert store.write([(CARD, A, b"%d" % seq, seq, 5) for seq in range(1, 4)], EPOCH) == 3
        assert store.read([(CARD, A)]) == [(b"3", 3, 5)]

    def test_numbers_beyond_53_bits_keep_their_order(self, store: MemoryOnlineStore) -> None:
        store.write([(CARD, A, b"high", 2**53 + 1, 5)], EPOCH)
        assert store.write([(CARD, A, b"low", 2**53, 5)], EPOCH) == 0

    def test_a_batch_larger_than_one_script_is_written_whole(self, store: MemoryOnlineStore) -> None:
        rows = [(i % 5, f"default|{i}", b"%d" % i, i, i) for i in range(1, 700)]
        assert store.write(rows, EPOCH) == len(rows)
        assert store.read([row[:2] for row in rows]) == [row[2:] for row in rows]

    def test_every_claim_is_above_the_ones_before_it_and_the_clock(self, store: MemoryOnlineStore) -> None:
        first = store.claim_epoch(1_700_000_000_000)
        behind = store.claim_epoch(1_600_000_000_000)
        ahead = store.claim_epoch(1_800_000_000_000)
        assert first >= 1_700_000_000_000
        assert first < behind < ahead
        assert ahead >= 1_800_000_000_000

    def test_a_store_that_nobody_has_marked_is_not_whole(self, store: MemoryOnlineStore) -> None:
        assert store.look_up([(CARD, A)]) == ([None], StoreHealth(is_whole=False))
        assert store.read_parts(BOTH, PARTS).marks == [None, None]

    def test_a_store_is_whole_when_all_its_parts_are_and_only_for_readers_of_the_same_run(self, store: MemoryOnlineStore) -> None:
        mark = Mark(EPOCH, store.read_parts(BOTH, PARTS).run_id, 1)
        assert store.begin_healing(BOTH, mark, 77, PARTS) == [True, True]
        assert store.finish_healing(BOTH[0], mark, PARTS)
        assert store.look_up([]).health == StoreHealth(is_whole=False, healing_since_ms=77)
        assert store.finish_healing(BOTH[1], mark, PARTS)
        assert store.read_parts(BOTH, PARTS).marks == [mark.whole, mark.whole]
        assert store.look_up([None, (CARD, A)]) == ([None, None], StoreHealth(is_whole=True))
        later = Mark(EPOCH, "another run", 2)
        assert store.begin_healing(BOTH, later, 78, PARTS) == [True, True]
        assert all(store.finish_healing(name, later, PARTS) for name in BOTH)
        assert not store.look_up([]).health.is_whole

    def test_one_part_that_heals_makes_the_store_heal_since_the_first_of_them_began(self, store: MemoryOnlineStore) -> None:
        run_id = store.read_parts(BOTH, PARTS).run_id
        first, second = Mark(EPOCH, run_id, 1), Mark(EPOCH, run_id, 2)
        store.begin_healing(BOTH, first, 5, PARTS)
        assert all(store.finish_healing(name, first, PARTS) for name in BOTH)
        assert store.begin_healing(BOTH[:1], second, 6, PARTS) == [True]
        assert store.begin_healing(BOTH[1:], second, 7, PARTS) == [True]
        assert store.look_up([]).health == StoreHealth(is_whole=False, healing_since_ms=6)

    def test_only_the_attempt_that_began_last_can_finish(self, store: MemoryOnlineStore) -> None:
        first, second = Mark(EPOCH, "run", 1), Mark(EPOCH, "run", 2)
        store.begin_healing(BOTH, first, 5, PARTS)
        store.begin_healing(BOTH, second, 5, PARTS)
        assert not store.finish_healing(BOTH[0], first, PARTS)
        assert store.finish_healing(BOTH[0], second, PARTS)
        assert not store.finish_healing("cards|9", second, PARTS)

    def test_parts_of_a_later_attempt_of_the_stream_cannot_be_taken_back(self, store: MemoryOnlineStore) -> None:
        later = Mark(EPOCH + 1, "run", 1)
        store.begin_healing(BOTH[:1], later, 5, PARTS)
        assert store.begin_healing(BOTH, Mark(EPOCH, "run", 9), 6, PARTS) == [False, True]
        assert store.read_parts(BOTH, PARTS).marks == [later.healing, Mark(EPOCH, "run", 9).healing]
