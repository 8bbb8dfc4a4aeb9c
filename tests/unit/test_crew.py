"""The supervisor keeps exactly the servers that are wanted: it starts new ones and stops those that nobody needs any more, for good."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.jobs import JobResumer
from infra.layout import Layout
from infra.plan import make_plan
from infra.processes import live_members
from infra.records import load_record, read_events
from infra.servers import Server
from infra.settings import StackSettings
from infra.supervisor import Crew, Orders

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")


def server(name: str, folder: Path) -> Server:
    return Server(name, SLEEP, os.environ, folder, port=1, url="", ports={}, probe=lambda _started_at: None)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.create()
    return layout


@pytest.fixture
def crew(layout: Layout) -> Iterator[Crew]:
    orders = Orders()
    plan = make_plan(layout, StackSettings.on_free_ports())
    crew = Crew(plan, orders, JobResumer(plan, frozenset(), orders.stopping))
    yield crew
    orders.stopping.set()
    crew.stop()


def is_ready(layout: Layout, name: str) -> bool:
    record = load_record(layout, name)
    return record is not None and record.phase == "ready" and record.alive


def test_a_taskmanager_that_is_no_longer_wanted_is_stopped_and_stays_away(crew: Crew, layout: Layout) -> None:
    both = [server(name, layout.run) for name in ("taskmanager-1", "taskmanager-2")]
    crew.match(both)
    wait_for(lambda: all(is_ready(layout, part.name) for part in both))
    kept, dismissed = (load_record(layout, part.name) for part in both)
    crew.match(both[:1])
    time.sleep(1.0)  # longer than a keeper waits before it starts a dead server again
    assert dismissed is not None
    assert dismissed.identity is not None
    assert live_members(dismissed.identity) == []
    after = load_record(layout, "taskmanager-2")
    assert after is not None
    assert (after.phase, after.pid) == ("stopped", None)
    assert load_record(layout, "taskmanager-1") == kept, "its neighbour did not notice"
    assert ("taskmanager-2", "stopped") in {(event.component, event.event) for event in read_events(layout)}


def test_what_is_announced_to_prometheus_follows_the_servers(crew: Crew, layout: Layout) -> None:
    one, two = (server(name, layout.run) for name in ("taskmanager-1", "taskmanager-2"))
    (layout.metrics / "stream-taskmanager-2.json").write_text("[]")  # what an operator in it has announced
    crew.match([one, two])
    assert (layout.metrics / "flink-taskmanager-2.json").exists()
    crew.match([one])
    assert [path.name for path in layout.metrics.glob("*.json")] == ["flink-taskmanager-1.json"]
    crew.match([one, two])
    assert crew.count_taskmanagers() == 2
    wait_for(lambda: is_ready(layout, "taskmanager-2"))
