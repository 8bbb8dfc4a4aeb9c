"""Where everything of one stack lives on disk; names only, nothing is started or parsed here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.atomic_write import write_atomically

__all__ = ["Layout", "read_json", "write_json"]


@dataclass(frozen=True)
class Layout:
    """The folders and files under one ``home``; ``run`` is all that ``down --wipe`` removes."""

    home: Path

    @property
    def run(self) -> Path:
        """Everything of the running stack."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """What the processes print and log."""
        return self.run / "logs"

    @property
    def pids(self) -> Path:
        """One record per process."""
        return self.run / "pids"

    @property
    def jobs(self) -> Path:
        """One ticket per Flink job that must run."""
        return self.run / "jobs"

    @property
    def checkpoints(self) -> Path:
        """Flink's checkpoints, one folder per job id."""
        return self.run / "checkpoints"

    @property
    def savepoints(self) -> Path:
        """Flink's savepoints."""
        return self.run / "savepoints"

    @property
    def flink_conf(self) -> Path:
        """Flink's generated configuration."""
        return self.run / "flink" / "conf"

    @property
    def flink_lib(self) -> Path:
        """Links to the jars on Flink's class path."""
        return self.run / "flink" / "lib"

    @property
    def flink_tmp(self) -> Path:
        """Working files of the Flink processes."""
        return self.run / "flink" / "tmp"

    @property
    def kafka(self) -> Path:
        """Kafka's configuration and log segments."""
        return self.run / "kafka"

    @property
    def redis(self) -> Path:
        """Redis' configuration and append-only file."""
        return self.run / "redis"

    @property
    def registry(self) -> Path:
        """The schema registry's database."""
        return self.run / "registry"

    @property
    def clickhouse(self) -> Path:
        """The embedded ClickHouse's tables."""
        return self.run / "clickhouse"

    @property
    def lake(self) -> Path:
        """The event log as Delta tables."""
        return self.run / "lake"

    @property
    def reports(self) -> Path:
        """Reports of backtests, for the pages of the front."""
        return self.run / "reports"

    @property
    def metrics(self) -> Path:
        """Where each process announces its metrics, in the format of Prometheus' file-based discovery."""
        return self.run / "metrics"

    @property
    def plan_file(self) -> Path:
        """``stack.json``: ports, addresses and resolved settings of the stack that is up (or was, until ``down``)."""
        return self.run / "stack.json"

    @property
    def events_file(self) -> Path:
        """What the supervisor saw and did, one JSON object per line."""
        return self.run / "events.jsonl"

    @property
    def lock_file(self) -> Path:
        """Held by ``up`` and ``down``; beside ``run`` so that a wipe cannot remove it under a waiting process."""
        return self.home / "stack.lock"

    def pid_file(self, name: str) -> Path:
        """The record of one process."""
        return self.pids / f"{name}.json"

    def log_file(self, name: str) -> Path:
        """What a process printed; Flink's own log stands beside it as ``<name>.log``."""
        return self.logs / f"{name}.out"

    def create(self) -> None:
        """Make the folders that every start needs."""
        for folder in (
            self.logs,
            self.pids,
            self.jobs,
            self.checkpoints,
            self.savepoints,
            self.flink_tmp,
            self.kafka,
            self.redis,
            self.registry,
            self.metrics,
        ):
            folder.mkdir(parents=True, exist_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None when there is no such file or a crash left it unreadable."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace ``path`` in one step, so that a reader never sees half an object."""
    write_atomically(path, json.dumps(value, indent=1, default=str) + "\n")
