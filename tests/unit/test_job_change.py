"""What a rescale and an upgrade decide before they touch anything, and what the supervisor decides about jobs that are gone."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from flink_jobs.settings import STATE_FORMAT
from fraud.errors import Denied
from infra.failures import root_of
from infra.job_change import check_state_format, require_work_for
from infra.jobs import JobStatus, JobTicket, count_taskmanagers, find_lost, find_newest_checkpoint, save_ticket
from infra.layout import Layout
from infra.plan import make_plan
from infra.settings import StackSettings

TICKET = JobTicket("scoring", "module:function", ("one", "two"))


@pytest.mark.parametrize(("taskmanagers", "shards"), [(1, 4), (2, 4), (4, 4), (8, 4), (1, 1), (2, 1)])
def test_a_taskmanager_for_each_shard_or_fewer_or_two_for_each_are_accepted(taskmanagers: int, shards: int) -> None:
    require_work_for(taskmanagers, shards)


@pytest.mark.parametrize("taskmanagers", [-1, 0, 5, 7, 9])
def test_no_taskmanager_and_one_without_work_are_refused(taskmanagers: int) -> None:
    with pytest.raises(Denied, match=rf"on 1 to 4 or 8 TaskManagers, not {taskmanagers}: .* 4 shards"):
        require_work_for(taskmanagers, 4)


def test_a_state_of_another_format_or_of_other_shards_is_refused_and_one_from_before_formats_is_not() -> None:
    check_state_format({"state_format": STATE_FORMAT, "core": {"shards": 2}}, 2)
    check_state_format({}, 2)
    with pytest.raises(Denied, match="state 0"):
        check_state_format({"state_format": "state 0, kernel 1", "core": {"shards": 2}}, 2)
    with pytest.raises(Denied, match="4 shards"):
        check_state_format({"state_format": STATE_FORMAT, "core": {"shards": 4}}, 2)


def test_the_chosen_number_counts_more_than_the_settings_and_other_jobs_add_their_slots(tmp_path: Path) -> None:
    plan = make_plan(Layout(tmp_path), StackSettings.on_free_ports(taskmanagers=2))
    assert count_taskmanagers(plan) == 2
    save_ticket(plan.layout, TICKET)
    save_ticket(plan.layout, JobTicket("patterns", "module:function", slots=1))
    assert count_taskmanagers(plan) == 3
    save_ticket(plan.layout, replace(TICKET, taskmanagers=1))
    assert count_taskmanagers(plan) == 2


def complete(folder: Path, metadata: bytes = b"") -> Path:
    folder.mkdir(parents=True)
    (folder / "_metadata").write_bytes(metadata)
    return folder


def header(number: int) -> bytes:
    return struct.pack(">iiq", 0x4960672D, 6, number)


def test_a_savepoint_newer_than_every_checkpoint_of_its_chain_is_the_newest_snapshot(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    complete(layout.checkpoints / "two" / "chk-10")
    older = complete(layout.savepoints / "one" / "savepoint-one-bb", header(9))
    assert find_newest_checkpoint(layout, TICKET) != older.as_uri()
    newest = complete(layout.savepoints / "two" / "savepoint-two-aa", header(11))
    assert find_newest_checkpoint(layout, TICKET) == newest.as_uri()


def test_a_savepoint_that_is_not_whole_or_is_of_another_job_does_not_count(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    checkpoint = complete(layout.checkpoints / "two" / "chk-10")
    complete(layout.savepoints / "two" / "savepoint-two-aa", header(11)[:10])
    complete(layout.savepoints / "two" / "savepoint-two-bb", b"\0" * 16)
    complete(layout.savepoints / "three" / "savepoint-three-aa", header(12))
    assert find_newest_checkpoint(layout, TICKET) == checkpoint.as_uri()


@pytest.mark.parametrize(
    ("known", "lost"),
    [
        ([], True),
        ([JobStatus("scoring", "two", "FINISHED")], True),
        ([JobStatus("scoring", "two", "CANCELED")], True),
        ([JobStatus("scoring", "one", "FAILED")], True),
        ([JobStatus("scoring", "two", "RESTARTING")], False),
        ([JobStatus("scoring", "two", "FAILED")], False),
    ],
    ids=["unknown", "finished", "cancelled", "its predecessor failed", "running", "given up"],
)
def test_a_job_is_brought_back_unless_it_runs_or_flink_has_given_it_up(known: list[JobStatus], lost: bool) -> None:
    assert find_lost([TICKET], known) == ([TICKET] if lost else [])


def test_a_job_that_was_stopped_on_purpose_is_not_brought_back() -> None:
    assert find_lost([replace(TICKET, stopped=True)], []) == []


CARRIED = """\
java.lang.Exception: outer
\tat A.b(A.java:1)
Caused by: org.apache.flink.util.SerializedThrowable: java.io.IOException: disk
\t... 3 more
"""
FROM_PYTHON = """\
java.lang.RuntimeException: open
Caused by: pemja.core.PythonException: <class 'fraud.errors.Unavailable'>: redis: gone
\tat x
"""


@pytest.mark.parametrize(
    ("stacktrace", "root"),
    [
        ("java.lang.IllegalStateException: alone\n\tat A.b(A.java:1)\n", "java.lang.IllegalStateException: alone"),
        (CARRIED, "java.io.IOException: disk"),
        (FROM_PYTHON, "Unavailable: redis: gone"),
        ("", ""),
    ],
    ids=["no cause", "carried between processes", "from Python", "nothing"],
)
def test_the_root_of_a_failure_is_the_innermost_cause_without_its_carriers(stacktrace: str, root: str) -> None:
    assert root_of(stacktrace) == root
