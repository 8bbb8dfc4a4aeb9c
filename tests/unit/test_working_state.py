"""Where TaskManagers keep their working files: in memory where there is room, and given back by ``down``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from infra import working_state as module
from infra.layout import Layout
from infra.plan import Plan, make_plan
from infra.settings import StackSettings
from infra.working_state import give_back, memory_folder


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def tmpfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the machine's tmpfs, with 5 GiB free."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(module, "_TMPFS", folder)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 5 * 1024**3))
    return folder


def plan_of(home: Path, **chosen: object) -> Plan:
    return make_plan(Layout(home), StackSettings.on_free_ports(**chosen))


def test_each_home_has_a_folder_of_its_own(tmp_path: Path, tmpfs: Path) -> None:
    one, other = memory_folder(tmp_path / "one"), memory_folder(tmp_path / "other")
    assert one is not None
    assert one.parent == tmpfs
    assert one != other
    assert one == memory_folder(tmp_path / "one"), "the next start finds what the last one left"


def test_without_room_or_tmpfs_the_disk_is_used(tmp_path: Path, tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_of(tmp_path).working_state.parent == tmpfs
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 3 * 1024**3))
    assert memory_folder(tmp_path) is None
    assert plan_of(tmp_path).working_state == Layout(tmp_path).flink_tmp
    monkeypatch.setattr(Path, "is_mount", lambda _: False)
    assert memory_folder(tmp_path) is None


def test_a_chosen_folder_is_taken(tmp_path: Path, tmpfs: Path) -> None:
    assert plan_of(tmp_path, working_state_dir=tmp_path / "fast").working_state == tmp_path / "fast"
    assert list(tmpfs.iterdir()) == []


@pytest.mark.parametrize("somebody_elses", [False, True])
def test_down_gives_the_space_back_and_touches_nothing_else(tmp_path: Path, tmpfs: Path, *, somebody_elses: bool) -> None:  # noqa: ARG001
    plan = plan_of(tmp_path)
    (plan.working_state / "taskmanager-1" / "state").mkdir(parents=True)
    other = plan.working_state / "other"
    if somebody_elses:
        other.mkdir()
    give_back(plan.working_state)
    assert not (plan.working_state / "taskmanager-1").exists()
    assert plan.working_state.exists() == other.exists() == somebody_elses
    give_back(plan.working_state)
