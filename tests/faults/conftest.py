"""One private stack with the scoring job for all fault tests of a run, and how hard they hit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.faults.toxics import Proxy
from tests.faults.world import Load, World
from tests.private_stack import private_stack, put_small_model_into_production

_MEASURED = pytest.StashKey[list[dict[str, object]]]()
LADDER = pytest.StashKey[list[tuple[str, ...]]]()  # what the API answered with each component stopped


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=1, help="faults of a kind in each kill test (default 1; nightly 10, release 30 or more)")
    group.addoption("--fault-rate", type=float, default=300.0, help="events a second (default 300)")
    group.addoption("--fault-events", type=int, default=2_000, help="events of each scenario at least (default 2,000; nightly 60,000)")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[World]:
    option = pytestconfig.getoption
    load = Load(kills=option("--kills"), rate=option("--fault-rate"), events=option("--fault-events"))
    # the proxy closes last: nobody is connected any more
    with ExitStack() as afterwards, private_stack(tmp_path_factory.mktemp("faults")) as stack:
        proxy = afterwards.enter_context(closing(Proxy(stack.plan.settings.redis_port)))
        put_small_model_into_production(stack)
        world = World(stack, proxy, load, tmp_path_factory.mktemp("acks"))
        pytestconfig.stash[_MEASURED] = world.measured
        world.start_job()
        yield world


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """Whole before each test, whatever the one before it left."""
    shared.make_whole()
    return shared


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
