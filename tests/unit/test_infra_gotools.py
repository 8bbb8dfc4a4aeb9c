"""Where promtool and amtool come from, and what is said where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraud.errors import Unavailable
from infra.gotools import PACKAGES, ensure_tools, find_tool


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_go_nothing_is_built_and_it_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    assert not ensure_tools(said.append, tmp_path, find=lambda: None)
    assert "no Go" in said[0]
    assert "skipped" in said[0]


def test_tools_of_the_machine_are_used(tmp_path: Path) -> None:
    for name in PACKAGES:
        program(tmp_path / "bin" / name, "")
    said: list[str] = []
    assert ensure_tools(said.append, tmp_path, find=lambda: None)
    assert said == []
    assert find_tool("promtool", tmp_path) == tmp_path / "bin" / "promtool"


def test_what_is_missing_is_built_once(tmp_path: Path) -> None:
    go = program(tmp_path / "go", 'while [ "$1" != -o ]; do shift; done; echo built > "$2"')
    assert ensure_tools(lambda _text: None, tmp_path, find=lambda: go)
    assert all(find_tool(name, tmp_path) for name in PACKAGES)
    go.unlink()
    assert ensure_tools(lambda _text: None, tmp_path, find=lambda: go)


def test_a_failed_build_leaves_nothing_behind_and_says_why(tmp_path: Path) -> None:
    go = program(tmp_path / "go", "echo no network >&2; exit 1")
    with pytest.raises(Unavailable, match="no network"):
        ensure_tools(lambda _text: None, tmp_path, find=lambda: go)
    assert find_tool("promtool", tmp_path) is None
