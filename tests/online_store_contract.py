"""What an online store promises, as one suite for the real store and for the fake that unit tests use in its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from fraud.errors import Unavailable
from fraud.events import Kind
from serving.online_store import EntityRow, StoredState

CARD, DEVICE = int(Kind.CARD), int(Kind.DEVICE)
A = "default|a"
EPOCH = 1_000


class MemoryOnlineStore:
    """A dictionary in the place of ``OnlineStore``; ``is_up`` False makes every call fail."""

    def __init__(self) -> None:
        self.is_up = True
        self.calls = 0
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
