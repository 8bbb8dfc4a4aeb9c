"""``query``: what is misuse, and what needs no stack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analytics.queries import load_queries
from analytics.schema import SchemaChanged, load_migrations
from analytics.statements import format_of, needs_session, split_insert
from cli.__main__ import main


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDGUARD_HOME", str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["SELECT 1", "--saved", "latency"],
        ["--saved", "nothing"],
        ["--saved", "card-history"],
        ["--saved", "latency", "--param", "colour=red"],
    ],
)
def test_misuse_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", *arguments]) == 2
    assert capsys.readouterr().err.startswith("fraudguard: ")


@pytest.mark.parametrize("arguments", [["SELECT 1", "--limit", "0"], ["SELECT 1", "--format", "xml"], ["SELECT 1", "--param", "x"]])
def test_bad_arguments_are_misuse(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["query", *arguments])
    assert caught.value.code == 2


def test_without_a_stack_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "SELECT 1"]) == 1
    assert "not up" in capsys.readouterr().err


def test_the_saved_queries_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["queries"]
    assert [query["name"] for query in listed] == [query.name for query in load_queries()]
    assert "fraud-by-merchant" in {query["name"] for query in listed}


def test_migrations_are_numbered_without_a_gap(tmp_path: Path) -> None:
    for name in ("0001_a.sql", "0003_b.sql"):
        (tmp_path / name).write_text("SELECT 1;\n")
    with pytest.raises(SchemaChanged, match=r"\[1, 3\]"):
        load_migrations(tmp_path)


def test_every_statement_of_a_migration_may_run_twice() -> None:
    for migration in load_migrations():
        assert migration.statements
        assert all("IF NOT EXISTS" in statement for statement in migration.statements)


@pytest.mark.parametrize(
    ("text", "head", "settings", "data"),
    [
        ("INSERT INTO t (`a`, `b`) FORMAT Native\nxyz", "INSERT INTO t (`a`, `b`)", "", "xyz"),
        ("insert into `d`.`t` format CSV 1,2", "insert into `d`.`t`", "", "1,2"),
        ("/* c */ INSERT INTO t SETTINGS a = 'x' FORMAT TSV\n\n1", "/* c */ INSERT INTO t", "SETTINGS a = 'x'", "\n1"),
    ],
)
def test_an_inserts_data_begins_where_its_head_ends(text: str, head: str, settings: str, data: str) -> None:
    insert = split_insert(text)
    assert insert is not None
    assert (insert.head, insert.settings, text[insert.data_at :]) == (head, settings, data)


@pytest.mark.parametrize("text", ["INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 1", "SELECT 'INSERT INTO t FORMAT CSV 1'"])
def test_other_statements_have_no_data(text: str) -> None:
    assert split_insert(text) is None


def test_what_a_statement_says_of_itself() -> None:
    assert format_of("SELECT 1\n FORMAT JSON ;") == "JSON"
    assert format_of("SELECT 'FORMAT JSON'") is None
    assert needs_session(" -- a word\n SET x = 1")
    assert not needs_session("SELECT 1 -- SET x = 1")
