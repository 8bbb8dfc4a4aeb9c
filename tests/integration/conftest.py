"""One private stack, and one ClickHouse, for all integration tests of a run: real servers on free ports in folders of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.stack import Stack
from tests.clickhouse_engine import ClickHouseEngine
from tests.private_stack import private_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack; a test that kills something must leave it healthy again (``stack.up()`` waits for that)."""
    with private_stack(tmp_path_factory.mktemp("stack")) as private:
        yield private


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseEngine]:
    """The embedded ClickHouse with its schema; a test that stops it must start it again."""
    engine = ClickHouseEngine(tmp_path_factory.mktemp("clickhouse"))
    try:
        engine.start()
        engine.migrate()
        yield engine
    finally:
        engine.kill()
