"""The command line itself: exit statuses, where output goes, and help that needs no package."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.__main__ import build_parser, main
from cli.output import print_json, progress_bar
from cli.testing import order_of, split_arguments

REPO = Path(__file__).resolve().parents[2]


def test_help_is_good_and_needs_nothing_but_the_standard_library() -> None:
    done = subprocess.run([sys.executable, "-S", "-m", "cli", "--help"], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "up" in done.stdout


def test_an_unknown_command_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_status_of_a_stack_that_is_down_is_a_finding_and_json_ends_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDGUARD_HOME", str(tmp_path))
    assert main(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "down"


def test_down_where_nothing_runs_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FRAUDGUARD_HOME", str(tmp_path))
    assert main(["down"]) == 0
    assert "nothing was running" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rates", "fast"], "a list of numbers"),
        (["--backlog", "10"], "at least 1000"),
        (["--peers", "--mode-events", "0"], "--mode-events above 0"),
    ],
)
def test_a_bench_that_makes_no_sense_is_misuse_and_starts_nothing(
    options: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDGUARD_HOME", str(tmp_path))
    assert main(["bench", "stream", *options]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_json_does_not_know_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"values": [math.nan, math.inf, 1.5], "path": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"values": [None, None, 1.5], "path": "x"}


def test_progress_never_reaches_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("working", 10) as advance:
        advance(10)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "own", "passed_on"),
    [
        (["test"], ["test"], []),
        (["test", "unit", "--json", "-k", "geo", "-x"], ["test", "unit", "--json"], ["-k", "geo", "-x"]),
        (["test", "faults", "--quick", "--kills", "3"], ["test", "faults", "--quick"], ["--kills", "3"]),
        (["test", "-k", "unit"], ["test"], ["-k", "unit"]),
        (["test", "unti"], ["test", "unti"], []),
        (["status", "-k"], ["status", "-k"], []),
    ],
)
def test_what_follows_the_suite_goes_to_pytest(given: list[str], own: list[str], passed_on: list[str]) -> None:
    assert split_arguments(given) == (own, passed_on)


def test_every_command_explains_itself() -> None:
    for action in build_parser()._subparsers._group_actions:  # type: ignore[union-attr]
        for name, parser in action.choices.items():  # type: ignore[union-attr]
            assert parser.description, name


def test_the_bootstrap_parses_on_pythons_that_it_must_explain_itself_to() -> None:
    ast.parse((REPO / "fraudguard").read_text(encoding="utf-8"), feature_version=(3, 7))


def test_the_bootstrap_imports_the_standard_library_only() -> None:
    tree = ast.parse((REPO / "fraudguard").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_no_lock_names_an_index_and_every_requirement_has_a_hash() -> None:
    lines = (REPO / "infra" / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-")]
    pinned = [number for number, line in enumerate(lines) if "==" in line]
    assert pinned
    assert all("--hash=sha256:" in lines[number + 1] for number in pinned)


def test_the_lock_satisfies_every_requirement_of_the_project() -> None:
    """Whoever changes pyproject.toml runs python -m infra.lock."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (REPO / "infra" / "requirements.lock").read_text(encoding="utf-8")
    pinned: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
        pinned.setdefault(canonicalize_name(name), []).append(version)
    for line in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        wanted = Requirement(line)
        versions = pinned.get(canonicalize_name(wanted.name), [])
        assert versions, f"{wanted.name} is not in the lock"
        assert all(wanted.specifier.contains(version) for version in versions), f"{wanted}: the lock has {versions}"


@pytest.mark.skipif(not (REPO / ".git").exists(), reason="sources without a history")
def test_the_same_sources_are_tested_in_the_same_order() -> None:
    (option,) = order_of(["-k", "geo"])
    assert order_of([]) == [option]
    seed = option.removeprefix("--randomly-seed=")
    assert 0 <= int(seed) < 1 << 32
    assert order_of(["-p", "no:randomly"]) == order_of(["--randomly-seed=3"]) == []
