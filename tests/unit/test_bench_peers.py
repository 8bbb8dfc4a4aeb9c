"""The parts of ``bench peers`` that are ours: its locks, what it tells a peer, the figures of a drain, and the work that peers share.

Running the peers themselves is the benchmark.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cli import bench
from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.events import Kind, Transaction
from fraud.vector import event_row
from infra import bench_peers, peers_environment
from infra.bench_peers import OURS, PEERS
from infra.drain import Drain, Usage, figures, wait_until_drained
from infra.jars import parse_lock
from infra.layout import Layout
from infra.peers.settings import SETTINGS_VARIABLE, PeerSettings
from infra.peers.work import Event, pack_event, unpack_event
from infra.settings import REPO_ROOT
from infra.shares import STREAM, Share
from infra.stack import Stack
from serving.codec import Codec
from serving.schemas import SCHEMAS

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)


def pins(lock: Path) -> set[tuple[str, str]]:
    return set(PIN.findall(lock.read_text(encoding="utf-8")))


def group() -> list[str]:
    document = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(document["dependency-groups"]["peers"])


# --- the environment


def test_the_peers_lock_has_every_package_of_the_group_at_the_pinned_version() -> None:
    locked = pins(peers_environment.PEERS_LOCK)
    names = {name for name, _ in locked}
    for requirement in group():
        name = re.split(r"[=<>]", requirement)[0]
        assert name in names
        if "==" in requirement:
            assert tuple(requirement.split("==")) in locked


def test_what_computes_is_the_same_version_as_in_our_lock() -> None:
    def computing(lock: Path) -> set[tuple[str, str]]:
        return {(name, version) for name, version in pins(lock) if name in peers_environment.SAME_AS_OURS}

    ours = computing(REPO_ROOT / "infra" / "requirements.lock")
    assert {name for name, _ in ours} == peers_environment.SAME_AS_OURS
    assert computing(peers_environment.PEERS_LOCK) == ours


def test_the_peers_lock_checks_every_package_by_hash_and_names_no_host() -> None:
    text = peers_environment.PEERS_LOCK.read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z])", text.strip())
    assert len(blocks) == len(PIN.findall(text))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text


def test_the_kafka_connector_is_of_sparks_own_version() -> None:
    jars = parse_lock(peers_environment.JARS_LOCK.read_text(encoding="utf-8"))
    versions = {jar.coordinates.rsplit(":", 1)[1] for jar in jars if jar.coordinates.startswith("org.apache.spark:")}
    assert versions == {peers_environment.locked_version("pyspark")}


def test_every_peer_is_in_the_lock() -> None:
    for peer in PEERS.values():
        assert peers_environment.locked_version(peer.package)
    with pytest.raises(Unavailable):
        peers_environment.locked_version("no-such-package")


# --- what a peer is told


def settings_in(folder: Path) -> PeerSettings:
    return PeerSettings(
        bootstrap_servers="127.0.0.1:1",
        input_topic="transactions",
        output_topic="out",
        group="g",
        partitions=4,
        state_dir=str(folder),
        first_read_file=str(folder / "first-read"),
        schema_ids={"transaction": 3},
        ip_hash_key_file="key",
        models_dir="models",
        model_sha256="ab",
        rules_json="{}",
        code_version="v",
        commit_interval_ms=1000,
        jars=("a.jar",),
    )


def test_a_peer_weighs_as_much_as_our_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that weighed more would take the broker's time as well, for both of them to wait."""
    shares: list[Share | None] = []

    def start(*_: object, share: Share | None = None, **__: object) -> None:
        shares.append(share)
        raise Unavailable("peer", "seen enough")

    monkeypatch.setattr(bench_peers, "start", start)
    measuring = object.__new__(bench_peers.Bench)
    measuring._settings, measuring._python = settings_in(tmp_path), Path("python")
    measuring._stack = cast(Stack, SimpleNamespace(layout=Layout(tmp_path)))
    with pytest.raises(Unavailable, match="seen enough"):
        measuring._measure_peer(PEERS["quix"], cast(Any, SimpleNamespace(topic="out")))
    assert shares == [STREAM]


def test_settings_survive_their_file(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    settings.write(tmp_path / "settings.json")
    assert PeerSettings.from_environment({SETTINGS_VARIABLE: str(tmp_path / "settings.json")}) == settings


def an_event(**overrides: str | None) -> Event:
    tx = Transaction("t1", "acme", "c1", "m1", 1999, "EUR", 1_700_000_000_000, user_id="u1", **overrides)  # type: ignore[arg-type]
    features = np.full(CATALOGUE.size, np.nan)
    features[3] = 0.1
    return Event(tx, event_row(tx), np.array([4, -1, 2, -1, -1]), features)


def test_an_event_survives_a_hop_to_the_last_bit() -> None:
    codec = Codec({name: number for number, name in enumerate(SCHEMAS, start=1)})
    event = an_event()
    again = unpack_event(pack_event(event, codec), codec)
    assert again.tx == event.tx
    assert again.row.tolist() == event.row.tolist()
    assert again.seqs.tolist() == event.seqs.tolist()
    assert again.features.tobytes() == event.features.tobytes()
    again.features[0], again.seqs[1] = 1.0, 7  # the next hop writes into them


def test_an_event_without_an_entity_of_a_kind_has_a_key_that_no_other_shares() -> None:
    event = an_event()
    assert event.has(Kind.USER)
    assert event.key(Kind.USER) == "acme|u1"
    assert not event.has(Kind.DEVICE)
    assert "t1" in event.key(Kind.DEVICE)


# --- the measurement


def test_the_rate_counts_from_the_first_record_read() -> None:
    """Outputs that all come at the end are not infinitely fast."""
    late = figures(Drain(started_s=0.0, first_read_s=5.0, outputs_s=[15.0] * 100))
    assert late["events_per_s"] == 10
    assert late["startup_s"] == 5.0
    assert late["events_per_s_from_first_output"] is None  # all at once: it would say nothing


def test_the_last_80_percent_leave_a_slow_start_out() -> None:
    slow_start = [float(i) for i in range(20)] + [20 + i / 10 for i in range(80)]
    found = figures(Drain(0.0, 0.0, slow_start))
    assert found["events_per_s_last_80_percent"] == 10
    assert found["events_per_s"] == 4


def test_no_output_has_no_rate() -> None:
    assert figures(Drain(0.0, 1.0, []))["events_per_s"] is None


class FakeWorld:
    """An output that grows by a plan, and a clock that only sleeping moves."""

    def __init__(self, sizes: list[int], *, real: int | None = None, dies_after: int | None = None) -> None:
        self._sizes: Iterator[int] = iter(sizes)
        self._last = 0
        self._real = real
        self._looks = 0
        self._dies_after = dies_after
        self.now = 0.0

    def size(self) -> int:
        self._looks += 1
        self._last = next(self._sizes, self._last)
        return self._last

    def wait(self, wanted: int) -> str:
        return wait_until_drained(
            wanted,
            self.size,
            lambda: self._last if self._real is None else self._real,
            lambda: None,
            lambda: self._dies_after is None or self._looks < self._dies_after,
            timeout_s=60.0,
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_drain_ends_when_everything_is_there_and_nothing_more_comes() -> None:
    world = FakeWorld([0, 40, 100])
    assert world.wait(100) == "drained"
    assert world.now < 10


def test_markers_of_transactions_do_not_count_as_output() -> None:
    assert FakeWorld([0, 60, 100], real=97).wait(100) == "timeout"


def test_a_program_that_ends_early_is_not_waited_for() -> None:
    world = FakeWorld([0, 40], dies_after=3)
    assert world.wait(100) == "ended"
    assert world.now < 5


def test_a_program_that_ended_with_its_work_done_is_done() -> None:
    assert FakeWorld([0, 100], dies_after=2).wait(100) == "drained"


def test_cpu_time_is_that_between_first_read_and_last_output() -> None:
    usage = Usage()
    for at_s, cpu_s, rss in ((0.0, 1.0, 10), (10.0, 6.0, 30), (20.0, 14.0, 20), (30.0, 9.0, 0)):
        usage.add(at_s, cpu_s, rss)
    assert usage.cpu_s(10.2, 19.0) == 8.0
    assert usage.cpu_s(20.0, 30.0) == 0.0  # a child that ended takes nothing back
    assert usage.peak_rss_bytes == 30
    assert Usage().cpu_s(0.0, 1.0) == 0.0


# --- the verdict of the command


RIGHT = {"end": "drained", "decided": 10, "differing_rows": 0, "differing_card_rows_in_file_order": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"end": "timeout"},
        {"end": "failed"},
        {"decided": 9},
        {"differing_rows": 1},
        {"differing_card_rows_in_file_order": 1},
    ],
)
def test_a_program_that_lost_or_miscounted_is_a_finding(wrong: dict[str, object]) -> None:
    assert bench.is_right(RIGHT, 10)
    assert not bench.is_right({**RIGHT, **wrong}, 10)
    assert not bench.is_right({"end": "drained", "decided": 10, "incomplete": "gaps"}, 10)


def test_ours_is_not_a_name_of_a_peer() -> None:
    assert OURS not in PEERS


def test_the_ratio_to_process_mode_is_not_flattered_by_outputs_that_come_all_at_the_end() -> None:
    ours = {"events_per_s": 4_000, "events_per_s_last_80_percent": 5_000}
    theirs = {"events_per_s": 800, "events_per_s_last_80_percent": 40_000}
    results = dict(zip(bench_peers.OUR_MODES, (ours, theirs), strict=True))
    assert bench_peers.ratio_to_process_mode(results) == 5.0
    assert bench_peers.ratio_to_process_mode({bench_peers.OURS: ours}) is None
