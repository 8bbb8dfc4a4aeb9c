"""A writer notices every way in which the store can lose states, asks for all of them, and says when they are back."""

from __future__ import annotations

import pytest

from serving.online_healing import CHECK_S, SILENCE_S, Healing
from serving.online_health import parse_health, parse_run_id
from tests.online_store_contract import MemoryOnlineStore

CARDS, ENTITIES = 0, 1


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Writer:
    """One map of two shards; ``pass_s`` lets time pass as the feed's thread sees it."""

    def __init__(self, store: MemoryOnlineStore, clock: Clock, name: str = "cards", epoch: int = 1, parts: int = 2) -> None:
        self.clock = clock
        self.epoch = epoch
        self.dropped = 0
        self.healing = Healing(store, name, parts, clock=clock, now_ms=lambda: 42)
        self.healing.own([0, 1])

    def tend(self, *, is_written: bool = True) -> None:
        self.healing.tend(lambda: self.epoch, self.dropped, is_written=is_written)

    def pass_s(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.tend()

    def heal(self, *shards: int) -> None:
        """Do what the operator does."""
        for shard in shards:
            number = self.healing.wanted(shard)
            assert number
            self.healing.handed_over(shard, number)
        self.tend()

    @property
    def wanted(self) -> list[bool]:
        return [bool(self.healing.wanted(shard)) for shard in (0, 1)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> MemoryOnlineStore:
    return MemoryOnlineStore()


@pytest.fixture
def writer(store: MemoryOnlineStore, clock: Clock) -> Writer:
    return Writer(store, clock)


@pytest.fixture
def whole(writer: Writer, store: MemoryOnlineStore) -> Writer:
    writer.tend()
    writer.heal(0, 1)
    assert store.look_up([]).health.is_whole
    return writer


def test_an_attempt_of_the_stream_starts_by_writing_everything_again(writer: Writer, store: MemoryOnlineStore) -> None:
    assert writer.wanted == [False, False]  # nothing is wanted before the store has been told
    writer.tend()
    assert writer.wanted == [True, True]
    assert store.look_up([]).health == (False, 42)
    writer.heal(0)
    assert (writer.wanted, writer.healing.unhealed) == ([False, True], 1)
    assert not store.look_up([]).health.is_whole
    writer.heal(1)
    assert (writer.wanted, writer.healing.unhealed) == ([False, False], 0)
    assert store.look_up([]).health == (True, None)


def test_the_store_is_not_whole_before_everything_that_was_handed_over_is_written(writer: Writer, store: MemoryOnlineStore) -> None:
    writer.tend()
    for shard in (0, 1):
        writer.healing.handed_over(shard, writer.healing.wanted(shard))
    writer.tend(is_written=False)
    assert not store.look_up([]).health.is_whole
    writer.tend()
    assert store.look_up([]).health.is_whole


def test_nothing_is_wanted_of_a_whole_store_however_long(whole: Writer, store: MemoryOnlineStore) -> None:
    calls = store.calls
    for _ in range(100):
        whole.pass_s(CHECK_S / 10)
    assert whole.wanted == [False, False]
    assert store.calls - calls <= 11  # one look a second
    assert whole.healing.begun == 2


@pytest.mark.parametrize("lose", [MemoryOnlineStore.lose_everything, MemoryOnlineStore.restart])
def test_a_loss_is_noticed_within_a_second_and_by_readers_at_once(whole: Writer, store: MemoryOnlineStore, lose: object) -> None:
    assert callable(lose)
    lose(store)
    assert not store.look_up([]).health.is_whole
    whole.pass_s(CHECK_S)
    assert whole.wanted == [True, True]
    whole.heal(0, 1)
    assert store.look_up([]).health.is_whole


def test_a_loss_in_the_middle_of_healing_begins_it_anew(writer: Writer, store: MemoryOnlineStore) -> None:
    """What was handed over before the second loss does not count."""
    writer.tend()
    before = writer.healing.wanted(0)
    store.lose_everything()
    writer.pass_s(CHECK_S)
    assert writer.healing.wanted(0) > before
    writer.healing.handed_over(0, before)
    writer.tend()
    assert writer.wanted == [True, True]


def test_a_loss_between_the_last_row_and_the_mark_begins_it_anew(writer: Writer, store: MemoryOnlineStore) -> None:
    writer.tend()
    for shard in (0, 1):
        writer.healing.handed_over(shard, writer.healing.wanted(shard))
    store.lose_everything()
    writer.tend()
    assert not store.look_up([]).health.is_whole
    writer.pass_s(CHECK_S)
    assert writer.wanted == [True, True]


def test_a_store_that_was_only_away_has_lost_nothing(whole: Writer, store: MemoryOnlineStore) -> None:
    store.is_up = False
    whole.pass_s(CHECK_S)
    whole.pass_s(CHECK_S)
    store.is_up = True
    whole.pass_s(CHECK_S)
    assert whole.wanted == [False, False]


def test_rows_that_the_writer_gave_up_are_asked_for_again(whole: Writer, store: MemoryOnlineStore) -> None:
    whole.dropped = 1
    store.is_up = False
    whole.pass_s(CHECK_S)
    assert whole.healing.unhealed == 2
    store.is_up = True
    whole.pass_s(CHECK_S)
    assert whole.wanted == [True, True]
    assert not store.look_up([]).health.is_whole


def test_what_is_left_of_an_earlier_attempt_wants_nothing(whole: Writer, store: MemoryOnlineStore, clock: Clock) -> None:
    later = Writer(store, clock, epoch=2)
    later.tend()
    for _ in range(3):
        whole.pass_s(CHECK_S)
    assert whole.wanted == [False, False]
    later.heal(0, 1)
    later.pass_s(CHECK_S)
    assert later.wanted == [False, False]
    assert store.look_up([]).health.is_whole


def test_the_store_is_whole_when_the_maps_of_all_operators_are(store: MemoryOnlineStore, clock: Clock) -> None:
    cards, entities = (Writer(store, clock, name, parts=4) for name in ("cards", "entities"))
    cards.tend()
    entities.tend()
    cards.heal(0, 1)
    assert not store.look_up([]).health.is_whole
    entities.heal(0, 1)
    assert store.look_up([]).health.is_whole


def test_a_shard_that_never_says_anything_has_no_states(writer: Writer, store: MemoryOnlineStore) -> None:
    writer.tend()
    writer.heal(0)
    writer.pass_s(SILENCE_S / 2)
    assert not store.look_up([]).health.is_whole
    writer.pass_s(SILENCE_S / 2)
    writer.tend()
    assert store.look_up([]).health.is_whole


def test_a_shard_that_was_taken_for_empty_is_healed_when_it_is_heard_of(writer: Writer, store: MemoryOnlineStore) -> None:
    writer.tend()
    writer.heal(0)
    writer.pass_s(SILENCE_S)
    writer.tend()
    assert writer.wanted == [False, False]  # and here it is
    writer.pass_s(CHECK_S)
    assert writer.wanted == [False, True]
    assert not store.look_up([]).health.is_whole


def test_a_redis_that_does_not_say_who_it_is_is_refused() -> None:
    with pytest.raises(ValueError, match="run id"):
        parse_run_id(b"# Server\r\nredis_version:9\r\n")
    with pytest.raises(ValueError, match="run id"):
        parse_health(b"whole abc", b"")


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (None, (False, None)),
        (b"", (False, None)),
        (b"healing 17", (False, 17)),
        (b"whole abc", (True, None)),
        (b"whole abd", (False, None)),
        (b"something else", (False, None)),
    ],
)
def test_a_reader_trusts_only_the_mark_of_the_redis_that_answers(mark: bytes | None, expected: tuple[bool, int | None]) -> None:
    assert parse_health(mark, b"# Server\r\nredis_version:7.0\r\nrun_id:abc\r\ntcp_port:1\r\n") == expected
