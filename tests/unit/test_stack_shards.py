"""How many shards a stack has, and that a job's state never comes back under another number."""

from __future__ import annotations

from pathlib import Path

import pytest

from flink_jobs.settings import JOB_NAME, JobSettings
from fraud.errors import Denied, Unavailable
from infra.jobs import JobTicket
from infra.layout import Layout
from infra.plan import Plan, make_plan
from infra.records import load_records
from infra.scoring_job import check_shards, resume, submitted_settings
from infra.settings import StackSettings
from infra.stack import Stack
from tests.core_settings import core_settings

CHECKPOINT = "file:///checkpoints/abc/chk-7"
TICKET = JobTicket(JOB_NAME, "infra.scoring_job:resume", job_ids=("abc",))


def submitted_plan(home: Path, *, begun_with: int | None, shards: int) -> Plan:
    """A stack with ``shards`` whose job was last submitted with ``begun_with``, if ever."""
    plan = make_plan(Layout(home), StackSettings.on_free_ports(shards=shards))
    plan.layout.create()
    if begun_with is not None:
        settings = JobSettings(bootstrap_servers="", flink_port=1, core=core_settings(begun_with))
        (plan.layout.jobs / f"{JOB_NAME}.settings").write_text(settings.model_dump_json())
    return plan


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRAUDGUARD_SHARDS", "FRAUDGUARD_TASKMANAGERS"):
        monkeypatch.delenv(name, raising=False)


def test_there_is_a_shard_for_two_taskmanagers_or_for_each_of_an_odd_number() -> None:
    assert StackSettings().shards == 1
    assert StackSettings(taskmanagers=1).shards == 1
    assert StackSettings(taskmanagers=4).shards == 2
    assert StackSettings(taskmanagers=5).shards == 5
    assert StackSettings(taskmanagers=2, shards=8).shards == 8


def test_taskmanagers_without_work_are_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDGUARD_TASKMANAGERS", "3")
    assert Stack(tmp_path).settings.shards == 3
    monkeypatch.setenv("FRAUDGUARD_SHARDS", "2")
    stack = Stack(tmp_path)
    with pytest.raises(
        Denied, match=r"^FRAUDGUARD_TASKMANAGERS=3 and FRAUDGUARD_SHARDS=2: the job works on 1 to 2 or 4 TaskManagers, not 3"
    ):
        stack.up()
    assert load_records(stack.layout) == {}


def test_every_variable_that_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDGUARD_SHARDS", "many")
    monkeypatch.setenv("FRAUDGUARD_KAFKA_PORT", "-1")
    with pytest.raises(Denied, match=r"FRAUDGUARD_KAFKA_PORT: .*; FRAUDGUARD_SHARDS: "):
        _ = Stack(tmp_path).settings


@pytest.mark.parametrize(("begun_with", "shards"), [(2, 4), (4, 2)])
def test_state_of_another_number_of_shards_is_not_restored(tmp_path: Path, begun_with: int, shards: int) -> None:
    plan = submitted_plan(tmp_path, begun_with=begun_with, shards=shards)
    with pytest.raises(Denied, match=f"divided into {begun_with} shards and this stack has {shards}.*FRAUDGUARD_SHARDS={begun_with}"):
        resume(plan, TICKET, CHECKPOINT)


def test_a_job_that_begins_anew_may_have_any_number(tmp_path: Path) -> None:
    """It gets as far as the registry, which does not run here."""
    plan = submitted_plan(tmp_path, begun_with=2, shards=4)
    with pytest.raises(Unavailable, match="registry"):
        resume(plan, TICKET, None)


@pytest.mark.parametrize("begun_with", [2, None])
def test_state_of_the_same_number_of_shards_is_no_reason_to_refuse(tmp_path: Path, begun_with: int | None) -> None:
    check_shards(submitted_settings(submitted_plan(tmp_path, begun_with=begun_with, shards=2)), 2)
