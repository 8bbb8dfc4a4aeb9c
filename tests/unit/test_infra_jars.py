"""The lock of the Java archives: parsing, coordinates, and downloads that are verified and continued."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fraud.errors import Unavailable
from infra.jars import Jar, fetch_jars, jar_paths, parse_lock, read_lock

CONTENT = b"a small archive" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
JAR = Jar("kafka", "org.example:thing:1.0", len(CONTENT), SHA256)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in a folder."""
    root = tmp_path / "mirror"
    path = root / JAR.repository_path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("FRAUDGUARD_MAVEN_URL", root.as_uri())
    return path


@pytest.mark.parametrize(
    ("coordinates", "path"),
    [
        ("org.apache.kafka:kafka_2.13:4.2.1", "org/apache/kafka/kafka_2.13/4.2.1/kafka_2.13-4.2.1.jar"),
        ("io.apicurio:app:3.0.9:tar.gz:all", "io/apicurio/app/3.0.9/app-3.0.9-all.tar.gz"),
    ],
)
def test_coordinates_name_a_path_in_any_maven_repository(coordinates: str, path: str) -> None:
    assert Jar("x", coordinates, 1, "").repository_path == path


def test_the_checked_in_lock_pins_every_part_of_the_stack() -> None:
    jars = read_lock()
    assert {jar.part for jar in jars} == {"kafka", "flink", "registry"}
    assert len({jar.file_name for jar in jars}) == len(jars)


def test_comments_and_blank_lines_are_skipped() -> None:
    assert parse_lock(f"# a comment\n\nkafka g:a:1 5 {SHA256}  # why\n") == [Jar("kafka", "g:a:1", 5, SHA256)]


@pytest.mark.parametrize("line", ["kafka g:a:1 5", f"kafka g:a 5 {SHA256}", f"kafka g:a:1 many {SHA256}", "kafka g:a:1 5 abc"])
def test_a_line_that_pins_nothing_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_lock(f"\n{line}\n")


@pytest.mark.usefixtures("mirror")
def test_a_missing_archive_is_fetched_once(tmp_path: Path) -> None:
    assert fetch_jars([JAR], tmp_path / "jars") == 1
    assert fetch_jars([JAR], tmp_path / "jars") == 0
    assert (tmp_path / "jars" / "kafka" / "thing-1.0.jar").read_bytes() == CONTENT


@pytest.mark.usefixtures("mirror")
def test_an_interrupted_download_does_not_look_finished_and_is_done_again(tmp_path: Path) -> None:
    partial = tmp_path / "jars" / "kafka" / "thing-1.0.jar.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:100])
    assert fetch_jars([JAR], tmp_path / "jars") == 1
    assert not partial.exists()
    assert (partial.parent / "thing-1.0.jar").read_bytes() == CONTENT


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(mirror: Path, tmp_path: Path) -> None:
    mirror.write_bytes(b"x" * len(CONTENT))
    with pytest.raises(Unavailable, match="is not the pinned file"):
        fetch_jars([JAR], tmp_path / "jars")
    assert list((tmp_path / "jars" / "kafka").iterdir()) == []


def test_an_archive_that_was_never_fetched_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"\.jar is missing"):
        jar_paths(tmp_path, "kafka")
