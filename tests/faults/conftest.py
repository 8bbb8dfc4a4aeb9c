"""One private stack with the scoring job for all fault tests of a run, and how hard they hit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import Load, World, private_world

_MEASURED = pytest.StashKey[list[dict[str, object]]]()
LADDER = pytest.StashKey[list[tuple[str, ...]]]()  # what the API answered with each component stopped


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=1, help="faults of a kind in each kill test (default 1; nightly 10, release 30 or more)")
    group.addoption("--fault-rate", type=float, default=300.0, help="events a second (default 300)")
    group.addoption("--fault-events", type=int, default=2_000, help="events of each scenario at least (default 2,000; nightly 60,000)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "job(variant, settings, core): the job in the place of the ordinary one (see World.start_job)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one job stand together, in the order of their files, whatever order chance gave them: each change costs a submission."""
    ours = [place for place, item in enumerate(items) if item.path.is_relative_to(Path(__file__).parent)]
    ordered = sorted((items[place] for place in ours), key=_place)
    for place, item in zip(ours, ordered, strict=True):
        items[place] = item


def _place(item: pytest.Item) -> tuple[str, str, int]:
    job = _job_of(item)
    path, line, _ = item.location
    return repr(job) if job else "", path, line or 0


@pytest.fixture(scope="session")
def load(pytestconfig: pytest.Config) -> Load:
    option = pytestconfig.getoption
    return Load(kills=option("--kills"), rate=option("--fault-rate"), events=option("--fault-events"))


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> list[dict[str, object]]:
    """The lines of the table that the session prints at its end."""
    return pytestconfig.stash.setdefault(_MEASURED, [])


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, load: Load, measured: list[dict[str, object]]) -> Iterator[World]:
    with private_world(tmp_path_factory.mktemp("faults"), load, measured) as world:
        yield world


@pytest.fixture
def world(shared: World, request: pytest.FixtureRequest) -> World:
    """Whole before each test, whatever the one before it left, and with the job that the test is marked with."""
    shared.provide(**_job_of(request.node))
    return shared


def _job_of(item: pytest.Item) -> dict[str, Any]:
    marker = item.get_closest_marker("job")
    return {} if marker is None else dict(marker.kwargs)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_MEASURED, [])
    if rows:
        terminalreporter.section("measured")
        for row in rows:
            terminalreporter.write_line(json.dumps(row, default=str))
    rungs = config.stash.get(LADDER, [])
    if rungs:
        terminalreporter.section("degraded ladder")
        widths = [max(map(len, column)) for column in zip(*rungs, strict=True)]
        for rung in rungs:
            terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(rung, widths, strict=True)))
