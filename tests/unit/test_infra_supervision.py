"""What the supervisor decides: when to try again, which job is missing, which checkpoint is newest, which ports a plan takes."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fraud.errors import Unavailable
from infra.archives import archive_flags, archive_path, kind_of
from infra.failures import root_of
from infra.java import find_java_home, read_major
from infra.jobs import (
    JobStatus,
    JobTicket,
    count_taskmanagers,
    find_missing,
    find_newest_checkpoint,
    load_tickets,
    remove_ticket,
    save_ticket,
)
from infra.layout import Layout
from infra.plan import load_plan, make_plan, save_plan
from infra.settings import PORT_FIELDS, StackSettings
from infra.stack import Stack
from infra.supervisor import Backoff, Orders

TICKET = JobTicket("scoring", "module:function", ("one", "two"))


def test_pauses_double_up_to_the_longest_and_start_anew_after_a_steady_run() -> None:
    backoff, pauses = Backoff(first_s=1, longest_s=5, steady_s=30), []
    for ran_s in (0, 0, 0, 0, 29, 31, 0):
        pause, backoff = backoff.next(ran_s)
        pauses.append(pause)
    assert pauses == [1, 2, 4, 5, 5, 1, 2]


def test_an_order_to_hurry_ends_a_pause() -> None:
    orders = Orders()
    threading.Timer(0.1, orders.hurry).start()
    began = time.monotonic()
    orders.pause(30)
    assert time.monotonic() - began < 10


def complete(layout: Layout, job_id: str, number: int) -> Path:
    folder = layout.checkpoints / job_id / f"chk-{number}"
    folder.mkdir(parents=True)
    (folder / "_metadata").touch()
    return folder


def test_the_newest_checkpoint_is_the_highest_number_of_the_whole_chain_and_must_be_complete(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    complete(layout, "one", 9)
    newest = complete(layout, "two", 10)
    (layout.checkpoints / "two" / "chk-11").mkdir()
    complete(layout, "a job of somebody else", 99)
    assert find_newest_checkpoint(layout, TICKET) == newest.as_uri()


def test_without_any_checkpoint_a_job_starts_from_what_its_chain_started_from(tmp_path: Path) -> None:
    assert find_newest_checkpoint(Layout(tmp_path), TICKET) is None
    assert find_newest_checkpoint(Layout(tmp_path), replace(TICKET, restore_from="file:///savepoint")) == "file:///savepoint"


@pytest.mark.parametrize(
    ("running", "missing"),
    [
        ([], [TICKET]),
        ([JobStatus("another", "three", "RUNNING")], [TICKET]),
        ([JobStatus("renamed", "two", "RESTARTING")], []),
        ([JobStatus("scoring", "an id that was never written down", "RUNNING")], []),
    ],
)
def test_a_job_is_missing_when_neither_its_ids_nor_its_name_run(running: list[JobStatus], missing: list[JobTicket]) -> None:
    assert find_missing([TICKET], running) == missing


def test_a_ticket_survives_its_file(tmp_path: Path) -> None:
    save_ticket(Layout(tmp_path), TICKET)
    assert load_tickets(Layout(tmp_path)) == [TICKET]


def test_a_ticket_from_before_taskmanagers_were_counted_says_as_much(tmp_path: Path) -> None:
    save_ticket(Layout(tmp_path), replace(TICKET, taskmanagers=4))
    file = next(Layout(tmp_path).jobs.glob("*.json"))
    file.write_text(file.read_text().replace('"taskmanagers"', '"parallelism"'))
    assert load_tickets(Layout(tmp_path)) == [replace(TICKET, taskmanagers=4)]


def test_a_job_may_bring_slots_of_its_own_as_long_as_it_has_a_ticket(tmp_path: Path) -> None:
    plan = make_plan(Layout(tmp_path), StackSettings.on_free_ports(taskmanagers=2))
    save_ticket(plan.layout, TICKET)
    assert count_taskmanagers(plan) == 2
    save_ticket(plan.layout, replace(TICKET, name="second", slots=1))
    assert count_taskmanagers(plan) == 3
    remove_ticket(plan.layout, "second")
    assert count_taskmanagers(plan) == 2


def test_a_plan_has_no_port_twice_and_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    plan = make_plan(Layout(tmp_path), StackSettings.on_free_ports(taskmanagers=3))
    ports = [getattr(plan.settings, name) for name in PORT_FIELDS]
    metrics = plan.settings.flink_metrics_port
    assert 0 not in ports
    assert len({*ports, metrics + 1, metrics + 2, metrics + 3}) == len(ports) + 3
    save_plan(plan)
    assert load_plan(Layout(tmp_path)) == plan
    assert Stack(tmp_path).addresses == plan.addresses


def test_a_home_without_a_stack_has_no_addresses(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="up"):
        _ = Stack(tmp_path).addresses


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDGUARD_KAFKA_PORT", "19092")
    monkeypatch.setenv("FRAUDGUARD_TASKMANAGERS", "3")
    assert (StackSettings().kafka_port, StackSettings().taskmanagers) == (19092, 3)


def fake_java(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").touch(mode=0o755)
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\n')
    return folder


def test_a_java_of_another_version_is_passed_over_for_the_one_in_the_wheel(tmp_path: Path) -> None:
    newer = fake_java(tmp_path / "newer", "21.0.2")
    found = find_java_home({"JAVA_HOME": str(newer), "PATH": str(newer / "bin")})
    assert found != newer
    assert read_major(found) == 17


def test_the_java_of_the_machine_is_used_when_it_is_the_right_one(tmp_path: Path) -> None:
    own = fake_java(tmp_path / "own", "17.0.1")
    assert find_java_home({"JAVA_HOME": str(own), "PATH": ""}) == own


def test_a_server_uses_the_class_archive_of_its_kind_when_there_is_one(tmp_path: Path) -> None:
    assert archive_flags(tmp_path, kind_of("taskmanager-2")) == ()
    path = archive_path(tmp_path, "taskmanager")
    path.parent.mkdir()
    path.touch()
    assert f"-XX:SharedArchiveFile={path}" in archive_flags(tmp_path, kind_of("taskmanager-2"))


@pytest.mark.parametrize(
    ("stacktrace", "cause"),
    [
        ("", ""),
        ("java.lang.Exception: one line", "java.lang.Exception: one line"),
        ("a.B: outer\n\tat x(Y.java:1)\nCaused by: c.D: middle\n\t... 3 more\nCaused by: e.F: inner\n\tat z\n", "e.F: inner"),
    ],
)
def test_the_innermost_cause_is_what_status_shows(stacktrace: str, cause: str) -> None:
    assert root_of(stacktrace) == cause
