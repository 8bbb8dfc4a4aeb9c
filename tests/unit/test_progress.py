"""Event-time progress: the slowest active partition holds the watermark, a silent one does not."""

from __future__ import annotations

from flink_jobs.progress import Progress

NOW = 1_700_000_000_000


def test_an_event_behind_the_watermark_is_late_and_one_on_it_is_not() -> None:
    progress = Progress(out_of_orderness_ms=5_000, idle_ms=30_000)
    assert not progress.is_late(0, NOW, NOW)
    assert not progress.is_late(0, NOW - 5_000, NOW)
    assert progress.is_late(0, NOW - 5_001, NOW)


def test_the_slowest_partition_holds_the_watermark() -> None:
    progress = Progress(out_of_orderness_ms=5_000, idle_ms=30_000)
    progress.is_late(0, NOW, NOW)
    progress.is_late(1, NOW - 86_400_000, NOW)
    assert not progress.is_late(1, NOW - 86_400_000 + 1, NOW)


def test_a_silent_partition_stops_holding_it_and_resumes_without_harm() -> None:
    progress = Progress(out_of_orderness_ms=5_000, idle_ms=30_000)
    progress.is_late(1, NOW - 3_600_000, NOW)
    progress.is_late(0, NOW, NOW)
    assert not progress.is_late(0, NOW - 6_000, NOW + 30_000)
    assert progress.is_late(0, NOW - 6_000, NOW + 30_001)
    # back again and up to date: not late
    assert not progress.is_late(1, NOW + 1_000, NOW + 40_000)


def test_progress_survives_a_restore() -> None:
    progress = Progress(out_of_orderness_ms=5_000, idle_ms=30_000)
    progress.is_late(3, NOW, NOW + 1)
    progress.is_late(1, NOW - 9, NOW + 2)
    other = Progress(out_of_orderness_ms=5_000, idle_ms=30_000)
    other.restore(progress.pack())
    assert other.newest == progress.newest
    assert other.watermark_ms(NOW) == progress.watermark_ms(NOW)
