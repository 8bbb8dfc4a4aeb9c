"""One private stack for all integration tests of a run: real servers on free ports in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.stack import Stack
from tests.private_stack import private_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack; a test that kills something must leave it healthy again (``stack.up()`` waits for that)."""
    with private_stack(tmp_path_factory.mktemp("stack")) as private:
        yield private
