"""The registry's promises, held by the server that runs in the stack."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.layout import Layout
from infra.plan import make_plan
from infra.processes import identify, start, stop_groups
from infra.servers import build_servers
from infra.settings import PORT_FIELDS, StackSettings
from serving.registry import HttpRegistry
from tests.schema_registry_contract import SchemaRegistryContract

_SUBJECTS = (f"probe-{number}-value" for number in itertools.count())


@pytest.fixture(scope="module")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry of our own on a free port."""
    free_ports = StackSettings.model_validate(dict.fromkeys(PORT_FIELDS, 0))
    plan = make_plan(Layout(tmp_path_factory.mktemp("stack")), free_ports)
    server = next(server for server in build_servers(plan) if server.name == "registry")
    server.folder.mkdir(parents=True, exist_ok=True)
    server.prepare()
    process = start(server.argv, environment=server.environment, folder=server.folder, log_file=Path(server.folder) / "registry.log")
    started_at, deadline = time.time(), time.monotonic() + 90
    identity = identify(process.pid)
    assert identity is not None

    def reap() -> None:
        process.poll()

    try:
        while (why := server.probe(started_at)) is not None:
            assert process.poll() is None, (server.folder / "registry.log").read_text()[-2000:]
            assert time.monotonic() < deadline, why
            time.sleep(0.2)
        yield server.url
    finally:
        stop_groups([identity], grace_s=10, reap=reap)


class TestServer(SchemaRegistryContract):
    @pytest.fixture
    def registry(self, registry_url: str) -> HttpRegistry:
        return HttpRegistry(registry_url, timeout_s=20.0)

    @pytest.fixture
    def subject(self) -> str:
        return next(_SUBJECTS)
