"""The resolved plan of one stack: real ports, addresses and folders, written to ``run/stack.json`` for any process to read."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra.layout import Layout, read_json, write_json
from infra.ports import HOST, find_free_ports, is_free
from infra.settings import PORT_FIELDS, StackSettings, default_home
from infra.working_state import memory_folder

__all__ = ["Addresses", "Plan", "load_plan", "make_plan", "save_plan"]

_VERSION = 1
_SPARE_TASKMANAGERS = 2  # for jobs that are started later and bring slots of their own


@dataclass(frozen=True)
class Addresses:
    """Where the servers of a stack answer; all of them on the loopback interface."""

    bootstrap_servers: str
    flink_rest_url: str
    redis_url: str
    registry_url: str  # Confluent-compatible root
    registry_ui_url: str
    api_url: str
    pages_url: str  # what people look at, served by the API
    clickhouse_url: str | None  # None: this stack has no analytics
    checkpoints_uri: str
    savepoints_uri: str
    metrics_targets: tuple[str, ...]  # Prometheus endpoints of the JobManager and the TaskManagers


@dataclass(frozen=True)
class Plan:
    """A stack whose every port is decided; ``settings`` holds no 0."""

    layout: Layout
    settings: StackSettings

    @property
    def python(self) -> Path:
        """The interpreter that runs the Python operators."""
        return self.settings.python or Path(sys.executable)

    @property
    def working_state(self) -> Path:
        """Where TaskManagers keep what does not outlive them, a folder each."""
        return self.settings.working_state_dir or self.layout.flink_tmp

    @property
    def embeds_clickhouse(self) -> bool:
        """Whether this stack runs the embedded engine itself."""
        return self.settings.analytics and self.settings.clickhouse_url is None and find_spec("chdb") is not None

    @property
    def _clickhouse_url(self) -> str | None:
        if self.embeds_clickhouse:
            return f"http://{HOST}:{self.settings.clickhouse_port}"
        return self.settings.clickhouse_url if self.settings.analytics else None

    @property
    def jars(self) -> Path:
        """The folder that the bootstrap filled from ``jars.lock``."""
        return self.settings.jars_dir or default_home() / "jars"

    @property
    def addresses(self) -> Addresses:
        """The addresses that follow from the ports."""
        choice = self.settings
        registry = f"http://{HOST}:{choice.registry_port}"
        return Addresses(
            bootstrap_servers=f"{HOST}:{choice.kafka_port}",
            flink_rest_url=f"http://{HOST}:{choice.flink_port}",
            redis_url=f"redis://{HOST}:{choice.redis_port}/0",
            registry_url=f"{registry}/apis/ccompat/v7",
            registry_ui_url=registry,
            api_url=f"http://{HOST}:{choice.api_port}",
            pages_url=f"http://{HOST}:{choice.api_port}/desk",
            clickhouse_url=self._clickhouse_url,
            checkpoints_uri=self.layout.checkpoints.as_uri(),
            savepoints_uri=self.layout.savepoints.as_uri(),
            metrics_targets=tuple(f"{HOST}:{choice.flink_metrics_port + i}" for i in range(choice.taskmanagers + 1)),
        )


def make_plan(layout: Layout, settings: StackSettings) -> Plan:
    """Decide every port of ``settings`` that is 0, and pin the interpreter and the jars of this process."""
    taken = {int(getattr(settings, name)) for name in PORT_FIELDS}
    decided: dict[str, Any] = {}
    most_taskmanagers = max(settings.taskmanagers, 2 * settings.shards)  # what a rescale may ask for
    for name in PORT_FIELDS:
        if getattr(settings, name) == 0:
            count = most_taskmanagers + 1 + _SPARE_TASKMANAGERS if name == "flink_metrics_port" else 1
            decided[name] = _find_free_block(count, taken)
            taken.update(range(decided[name], decided[name] + count))
    return Plan(
        layout,
        settings.model_copy(
            update={
                **decided,
                "python": settings.python or Path(sys.executable),
                "working_state_dir": settings.working_state_dir or memory_folder(layout.home) or layout.flink_tmp,
                "jars_dir": (settings.jars_dir or default_home() / "jars").resolve(),
            },
        ),
    )


def _find_free_block(count: int, taken: set[int]) -> int:
    """The first of ``count`` consecutive free ports."""
    while True:
        first = find_free_ports(1, taken=taken)[0]
        rest = range(first + 1, first + count)
        if not taken.intersection(rest) and all(is_free(port) for port in rest):
            return first


def save_plan(plan: Plan) -> None:
    """Write ``stack.json``."""
    write_json(
        plan.layout.plan_file,
        {"version": _VERSION, "settings": plan.settings.model_dump(mode="json"), "addresses": asdict(plan.addresses)},
    )


def load_plan(layout: Layout) -> Plan | None:
    """The plan that an ``up`` saved, or None when no stack was started in this home since the last ``down``."""
    saved = read_json(layout.plan_file)
    if saved is None or saved.get("version") != _VERSION:
        return None
    return Plan(layout, StackSettings(**saved["settings"]))
