"""A job that must refuse nearly everything stops, at the same record however often it is started, and not for bad input among good."""

from __future__ import annotations

import pytest

from flink_jobs.refusals import DEFAULT_LIMITS, RefusalLimits, Refusals, TooManyRefused

LIMITS = RefusalLimits(max_run_records=10, max_share=0.1, window_records=100)  # more than 10 of the last 100


def feed(refusals: Refusals, pattern: str) -> int:
    """Records one by one, ``x`` is refused; returns how many came before the stop, or all of them."""
    for taken, mark in enumerate(pattern):
        try:
            refusals.add(["bad_magic" if mark == "x" else None])
        except TooManyRefused:
            return taken
    return len(pattern)


def test_a_run_of_refused_records_stops_the_job_at_the_first_one_too_many() -> None:
    assert feed(Refusals(LIMITS, 1), "x" * 50) == 10
    assert feed(Refusals(LIMITS, 1), "." * 20 + "x" * 50) == 30


def test_a_good_record_ends_a_run() -> None:
    assert feed(Refusals(LIMITS, 1), ("x" * 9 + "." * 91) * 20) == 2_000


def test_a_share_of_refused_records_stops_the_job() -> None:
    assert feed(Refusals(LIMITS, 1), "." * 100 + "x....." * 100) == 100 + 6 * 10  # the eleventh within a hundred
    assert feed(Refusals(LIMITS, 1), ("x" + "." * 9) * 1_000) == 10_000  # exactly a tenth is allowed


def test_a_share_is_one_of_a_whole_window() -> None:
    """Eleven of the first forty records are no tenth of anything yet."""
    assert feed(Refusals(LIMITS, 1), "x.." * 20 + "." * 100) == 160


def test_a_shard_may_have_all_the_bad_records_of_the_window() -> None:
    """Its share of the window is smaller, what it allows is not: all bad records may have one key."""
    assert feed(Refusals(LIMITS, 4), "." * 25 + ("xx." * 100)) < 325
    assert feed(Refusals(LIMITS, 4), "." * 25 + ("x.." * 100)) == 325  # nine of twenty-five: a tenth of all where the rest is clean


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_of_any_size_stop_at_the_same_record(size: int) -> None:
    pattern = "." * 33 + "x" * 9 + "." + "x" * 40
    last = 33 + 10 + 10  # the first record too many
    refusals = Refusals(LIMITS, 1)
    codes = ["bad_magic" if mark == "x" else None for mark in pattern]
    before = last // size * size
    for at in range(0, before, size):
        refusals.add(codes[at : at + size])
    with pytest.raises(TooManyRefused, match=r"11 records in a row were refused, the last as bad_magic: .*--accept-refused"):
        refusals.add(codes[before : before + size])


@pytest.mark.parametrize("cut", [0, 5, 30, 39])
def test_an_attempt_from_a_checkpoint_stops_where_the_one_before_it_did(cut: int) -> None:
    pattern = "." * 30 + "x" * 40
    first = Refusals(LIMITS, 1)
    assert feed(first, pattern[:cut]) == cut
    second = Refusals(LIMITS, 1)
    second.restore(first.pack())
    assert second.seen == cut
    assert feed(second, pattern[cut:]) == 40 - cut


def test_without_limits_everything_is_refused_that_must_be_and_forgiven_afterwards() -> None:
    stopped = Refusals(LIMITS, 1)
    assert feed(stopped, "x" * 10) == 10
    accepting = Refusals(None, 1)
    accepting.restore(stopped.pack())
    assert feed(accepting, "x" * 5_000) == 5_000
    again = Refusals(LIMITS, 1)
    again.restore(accepting.pack())
    assert again.seen == 5_010
    assert feed(again, "x" * 50) == 10


def test_the_limits_are_those_that_were_promised() -> None:
    """At most a thousand records: with nothing but poison, a hundred in a row."""
    assert feed(Refusals(DEFAULT_LIMITS, 2), "x" * 1_000) == 100
    assert feed(Refusals(DEFAULT_LIMITS, 1), "x." * 1_000) <= 1_000
