"""Which process is whose: identity beyond the pid, sessions that outlive their leader, ports and their holders."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.layout import Layout
from infra.ports import PortTaken, find_free_ports, is_free, require_free
from infra.processes import Identity, identify, is_alive, live_members, start, stop_groups
from infra.records import Record, load_record, save_record
from infra.shares import Share

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable, "-S", "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]  # fmt: skip


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = start(SLEEP, environment=os.environ, folder=tmp_path, log_file=tmp_path / "log")
    yield child
    child.kill()
    child.wait()


def identity_of(child: subprocess.Popen[bytes]) -> Identity:
    identity = identify(child.pid)
    assert identity is not None
    return identity


def test_a_recycled_pid_is_not_taken_for_the_process_that_had_it(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    stranger = replace(identity, mark=identity.mark + "0")
    assert is_alive(identity)
    assert not is_alive(stranger)
    assert live_members(stranger) == []


@pytest.mark.skipif(sys.platform != "linux", reason="how processes are weighed is Linux' own")
def test_a_process_has_its_share_in_every_way_that_the_kernel_weighs(tmp_path: Path) -> None:
    child = start(SLEEP, environment=os.environ, folder=tmp_path, log_file=tmp_path / "log", share=Share(15, 200))
    try:
        wait_until_executed(child, SLEEP)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 15
        weighed = Path(f"/proc/{child.pid}/autogroup")
        if weighed.exists():
            assert weighed.read_text(encoding="ascii").endswith("nice 15\n")
        told = Path(f"/proc/{child.pid}/sched")
        if told.exists() and (found := re.search(r"se\.slice\s*:\s*(\d+)", told.read_text(encoding="ascii"))):
            assert int(found[1]) == 200_000  # ns
    finally:
        child.kill()
        child.wait()


def wait_until_executed(child: subprocess.Popen[bytes], argv: list[str]) -> None:
    deadline = time.monotonic() + 10.0
    while psutil.Process(child.pid).cmdline() != argv:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stopping_a_recycled_pid_leaves_the_stranger_alone(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    assert stop_groups([replace(identity, mark="another time")], grace_s=0.1) == []
    assert sleeper.poll() is None


def test_a_dead_child_that_nobody_collected_counts_as_dead(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    os.kill(sleeper.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_alive(identity):
        assert time.monotonic() < deadline
    assert identify(sleeper.pid) is None


def test_children_of_a_killed_leader_are_found_and_stopped(tmp_path: Path) -> None:
    script = f"import subprocess, time; print(subprocess.Popen({SLEEP!r}).pid, flush=True); time.sleep(60)"
    leader = start([sys.executable, "-c", script], environment=os.environ, folder=tmp_path, log_file=tmp_path / "log")
    identity = identity_of(leader)
    deadline = time.monotonic() + 10
    while not (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
    child = int((tmp_path / "log").read_text())
    leader.kill()
    leader.wait()
    assert live_members(identity) == [child]
    assert stop_groups([identity], grace_s=5.0) == []
    assert identify(child) is None


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = start(STUBBORN, environment=os.environ, folder=tmp_path, log_file=tmp_path / "log")
    identity = identity_of(child)
    deadline = time.monotonic() + 10
    while not (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
    assert stop_groups([identity], grace_s=0.3, reap=lambda: [child.poll(), None][1]) == []
    assert child.wait() == -signal.SIGKILL


def test_a_record_survives_its_file_and_half_a_file_is_no_record(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    record = Record("redis", 12, "mark", "ready", starts=2, started_at=1.5)
    save_record(layout, record)
    assert load_record(layout, "redis") == record
    layout.pid_file("redis").write_text('{"name": "red')
    assert load_record(layout, "redis") is None


def test_a_taken_port_is_reported_with_its_holder_and_the_setting_that_changes_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            require_free("kafka", port, "FRAUDGUARD_KAFKA_PORT")
    text = str(caught.value)
    assert f"port {port} is taken by" in text
    assert f"pid {os.getpid()}" in text
    assert "FRAUDGUARD_KAFKA_PORT=<port>" in text


def test_free_ports_are_free_different_and_never_the_ones_already_given_away() -> None:
    first = find_free_ports(5, chance=random.Random(1))
    again = find_free_ports(5, chance=random.Random(1), taken=first)
    assert len({*first, *again}) == 10
    assert all(is_free(port) for port in (*first, *again))
