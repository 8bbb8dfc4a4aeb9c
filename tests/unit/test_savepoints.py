"""Which savepoints stay on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

from infra.jobs import JobTicket, save_ticket
from infra.layout import Layout
from infra.savepoints import KEPT, claimable, retain

NAME = "scoring"


def taken(layout: Layout, name: str) -> Path:
    """A savepoint as Flink leaves it."""
    folder = layout.savepoints / "job-1" / name
    folder.mkdir(parents=True)
    (folder / "_metadata").touch()
    (folder / "state").touch()
    return folder


def test_the_newest_few_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.jobs.mkdir(parents=True)
    folders = [taken(layout, f"savepoint-{i}") for i in range(KEPT + 2)]
    removed = [retain(layout, NAME, folder.as_uri()) for folder in folders]
    assert removed == [[]] * KEPT + [[folders[0].as_uri()], [folders[1].as_uri()]]
    assert [folder.exists() for folder in folders] == [False, False] + [True] * KEPT


def test_one_that_a_job_starts_from_stays_until_it_no_longer_does(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.jobs.mkdir(parents=True)
    first, *others = (taken(layout, f"savepoint-{i}") for i in range(KEPT + 2))
    save_ticket(layout, JobTicket(NAME, "module:function", restore_from=first.as_uri()))
    for folder in (first, *others[:-1]):
        retain(layout, NAME, folder.as_uri())
    assert first.exists()
    save_ticket(layout, JobTicket(NAME, "module:function", restore_from=others[0].as_uri()))
    retain(layout, NAME, others[-1].as_uri())
    assert not first.exists()
    assert others[0].exists()


def test_jobs_are_counted_apart_and_what_nobody_wrote_down_stays(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.jobs.mkdir(parents=True)
    foreign = taken(layout, "savepoint-of-somebody")
    other = taken(layout, "savepoint-of-another-job")
    retain(layout, "patterns", other.as_uri())
    for i in range(KEPT + 1):
        retain(layout, NAME, taken(layout, f"savepoint-{i}").as_uri())
    assert foreign.exists()
    assert other.exists()


def test_nothing_outside_of_the_savepoints_folder_is_removed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    layout.jobs.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    retain(layout, NAME, elsewhere.as_uri())
    for i in range(KEPT):
        retain(layout, NAME, taken(layout, f"savepoint-{i}").as_uri())
    assert elsewhere.exists()


def test_a_job_claims_a_copy_of_a_savepoint_and_leaves_the_savepoint(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    folder = taken(layout, "savepoint-1")
    copy = Path(urlsplit(claimable(layout, folder.as_uri())).path)
    assert copy.is_relative_to(layout.checkpoints)
    assert sorted(file.name for file in copy.iterdir()) == ["_metadata", "state"]
    shutil.rmtree(copy)  # as Flink does, file by file, when it is subsumed
    assert sorted(file.name for file in folder.iterdir()) == ["_metadata", "state"]
    again = Path(urlsplit(claimable(layout, folder.as_uri())).path)
    (again / "_metadata").unlink()
    assert claimable(layout, folder.as_uri()) == again.as_uri()
    assert (again / "_metadata").exists()


def test_a_job_takes_over_its_own_checkpoint_as_it_is(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    taken(layout, "savepoint-1")
    checkpoint = checkpoint_that_names(layout, b"file:/elsewhere/state")
    assert claimable(layout, checkpoint.as_uri()) == checkpoint.as_uri()
    assert [file.name for file in checkpoint.iterdir()] == ["_metadata"]


def test_a_checkpoint_gets_the_files_of_a_savepoint_that_it_takes_for_its_own(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    savepoint = taken(layout, "savepoint-1")
    (savepoint / "state").write_bytes(b"everything")
    checkpoint = checkpoint_that_names(layout, b"\x06\x00\x05state")
    assert claimable(layout, checkpoint.as_uri()) == checkpoint.as_uri()
    assert claimable(layout, checkpoint.as_uri()) == checkpoint.as_uri()
    assert sorted(file.name for file in checkpoint.iterdir()) == ["_metadata", "state"]
    assert (checkpoint / "state").read_bytes() == b"everything"


def checkpoint_that_names(layout: Layout, name: bytes) -> Path:
    folder = layout.checkpoints / "job-1" / "chk-7"
    folder.mkdir(parents=True)
    (folder / "_metadata").write_bytes(b"metadata with " + name + b" in it")
    return folder
