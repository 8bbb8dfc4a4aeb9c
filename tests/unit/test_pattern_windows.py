"""The windows of the pattern job without Flink: what closes them, what is late, and what a restore keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from flink_jobs.pattern_windows import MAPS, PatternWindows
from fraud.patterns import Limits
from serving.codec import Codec
from serving.pattern_events import Row
from serving.records import Alert
from tests.pattern_traffic import NOON_MS, WINDOW_MS, decision_of, honest_rows, plant, shift
from tests.wire_samples import SCHEMA_IDS

IDLE_MS = 30_000
BOUND_MS = 60_000
CODEC = Codec(SCHEMA_IDS)


class DictMap:
    """State that a test can look into."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.entries.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.entries[key] = value

    def remove(self, key: str) -> None:
        del self.entries[key]

    def items(self) -> Iterable[tuple[str, bytes]]:
        return list(self.entries.items())


class Job:
    """A core with its state and a clock; ``crash`` leaves the state and takes everything else."""

    def __init__(self, partitions: int = 2) -> None:
        self.maps = {name: DictMap() for name in MAPS}
        self.counted: Counter[str] = Counter()
        self.now_ms = 1_800_000_000_000
        self.partitions = partitions
        self.crash()

    def crash(self) -> None:
        def count(name: str, amount: int) -> None:
            self.counted[name] += amount

        self.core = PatternWindows(
            CODEC,
            Limits(),
            window_ms=WINDOW_MS,
            partitions=self.partitions,
            out_of_orderness_ms=BOUND_MS,
            idle_ms=IDLE_MS,
            count=count,
        )

    def feed(self, rows: Sequence[Row], *, partition: int | None = None, tenant: str = "default") -> list[Alert]:
        """Rows in batches of 500, 200 ms apart, dealt to the partitions in turn unless one is named."""
        alerts: list[Alert] = []
        for at in range(0, len(rows), 500):
            batch = rows[at : at + 500]
            places = [n % self.partitions if partition is None else partition for n in range(len(batch))]
            self.now_ms += 200
            values = [CODEC.encode_decision(decision_of(row, tenant)) for row in batch]
            alerts += self.core.process(places, values, self.now_ms, self.maps)
        return alerts

    def wait(self, ms: int) -> list[Alert] | None:
        self.now_ms += ms
        return self.core.look_if_idle(self.now_ms, self.maps)

    def move_to(self, time_ms: int) -> list[Alert]:
        """One ordinary event a partition at that event time."""
        rows = shift([plant("farm", 9, size=2)[0][0]] * self.partitions, 0)
        return self.feed([(f"{row[0]}-{time_ms}-{n}", time_ms, *row[2:]) for n, row in enumerate(rows)])  # type: ignore[misc]


def attack(seed: int = 0) -> list[Row]:
    return sorted([*honest_rows(0, 1_500, users=5_000, merchants=300), *plant("farm", seed)[0]], key=lambda row: row[1])


def test_a_window_is_searched_when_the_watermark_passes_its_end_and_not_before() -> None:
    job = Job()
    assert job.feed(attack()) == []
    assert job.move_to(NOON_MS + WINDOW_MS + BOUND_MS - 1) == []
    assert [alert.reason for alert in job.move_to(NOON_MS + WINDOW_MS + BOUND_MS)] == ["PATTERN_COORDINATED_DEVICE"]


def test_a_closed_window_leaves_no_state() -> None:
    job = Job()
    job.feed(attack())
    job.move_to(NOON_MS + 10 * WINDOW_MS)
    open_windows = {key for key in job.maps["windows"].entries if "|" in key}
    assert open_windows == {f"{NOON_MS + 10 * WINDOW_MS}|default"}
    assert {key.rsplit("|", 1)[0] for key in job.maps["chunks"].entries} == open_windows


def test_a_partition_behind_holds_the_watermark_back_until_it_is_idle() -> None:
    """What one partition has read ahead must not make the other's events late, in a backlog above all."""
    rows = attack()
    job = Job()
    job.feed(rows[::2], partition=0)
    job.feed(shift(rows[::2], WINDOW_MS * 3), partition=0)
    assert job.feed(rows[1::2], partition=1) == []
    assert job.counted["late"] == 0
    assert len(job.feed(shift(rows[1:2], WINDOW_MS * 3), partition=1)) == 1
    job.now_ms += IDLE_MS + 1
    job.feed(shift(rows[:1], WINDOW_MS * 9), partition=0)
    assert f"{NOON_MS + WINDOW_MS * 3}|default" not in job.maps["windows"].entries


def test_what_comes_for_a_closed_window_is_counted_and_changes_nothing() -> None:
    job = Job()
    job.move_to(NOON_MS + 3 * WINDOW_MS)
    before = dict(job.maps["chunks"].entries)
    assert job.feed(attack()) == []
    assert job.counted["late"] == len(attack())
    assert job.maps["chunks"].entries == before


def test_silence_has_the_open_windows_searched_once_and_keeps_them() -> None:
    rows = attack()
    job = Job()
    job.feed(rows)
    assert job.wait(IDLE_MS - 1) is None
    assert [alert.reason for alert in job.wait(1) or []] == ["PATTERN_COORDINATED_DEVICE"]
    assert job.wait(IDLE_MS) == []
    assert job.move_to(NOON_MS + 3 * WINDOW_MS) == []
    assert job.counted["late"] == 0


def test_an_attack_that_goes_on_after_a_silence_is_still_found_and_reported_once() -> None:
    rows = attack()
    half = len(rows) // 8
    job = Job()
    job.feed(rows[:half])
    assert job.wait(IDLE_MS) == []
    job.feed(rows[half:])
    assert len(job.move_to(NOON_MS + 3 * WINDOW_MS)) == 1


def test_a_crash_at_any_batch_changes_no_alert() -> None:
    whole = Job()
    expected = whole.feed(attack()) + whole.move_to(NOON_MS + 3 * WINDOW_MS)
    crashing = Job()
    alerts: list[Alert] = []
    for at in range(0, len(attack()), 500):
        alerts += crashing.feed(attack()[at : at + 500])
        crashing.crash()
    assert alerts + crashing.move_to(NOON_MS + 3 * WINDOW_MS) == expected
    crashing.crash()
    assert crashing.move_to(NOON_MS + 6 * WINDOW_MS) == []


def test_after_a_long_stop_no_partition_counts_as_idle() -> None:
    rows = attack()
    job = Job()
    job.feed(rows[:100])
    job.crash()
    job.now_ms += 10 * IDLE_MS
    job.feed(shift(rows, WINDOW_MS * 3), partition=0)
    job.feed(rows[100:], partition=1)
    assert job.counted["late"] == 0


def test_tenants_do_not_share_windows() -> None:
    """Half of the cards of an attack are another tenant's."""
    rows, _, _ = plant("farm", 0, size=12)
    job = Job()
    job.feed(attack()[:1_500])
    ours = [row for row in rows if int(row[0].rsplit("-", 1)[1]) % 2]
    theirs = [row for row in rows if row not in ours]
    job.feed(ours, tenant="one")
    job.feed(theirs, tenant="other")
    assert {alert.tenant_id for alert in job.move_to(NOON_MS + 3 * WINDOW_MS)} <= {"default"}


def test_a_record_that_is_no_decision_is_counted() -> None:
    job = Job()
    assert job.core.process([0], [b"no decision"], job.now_ms, job.maps) == []
    assert job.counted["undecodable"] == 1
