"""What a person may choose about the local stack, read from the environment (prefix ``FRAUDGUARD_``).

Only choices live here: where things are on disk is ``infra.layout``, how a server is configured is ``infra.servers``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flink_jobs.shards import check_taskmanagers
from fraud.errors import Denied

__all__ = ["PORT_FIELDS", "REPO_ROOT", "StackSettings", "default_home"]

REPO_ROOT = Path(__file__).resolve().parent.parent

PORT_FIELDS = (
    "kafka_port",
    "kafka_controller_port",
    "redis_port",
    "registry_port",
    "flink_port",
    "flink_rpc_port",
    "flink_metrics_port",
    "api_port",
    "clickhouse_port",
    "sink_metrics_port",
)


def default_home() -> Path:
    """The state folder: ``FRAUDGUARD_HOME``, or ``.fraudguard`` in the checkout."""
    configured = os.environ.get("FRAUDGUARD_HOME")
    return Path(configured).expanduser().resolve() if configured else REPO_ROOT / ".fraudguard"


class StackSettings(BaseSettings):
    """Settings of the local stack; a port of 0 means any free one, chosen at ``up`` and kept until ``down``."""

    model_config = SettingsConfigDict(env_prefix="FRAUDGUARD_", frozen=True, extra="ignore")

    kafka_port: int = Field(default=9092, ge=0, le=65535)
    kafka_controller_port: int = Field(default=0, ge=0, le=65535)
    redis_port: int = Field(default=6379, ge=0, le=65535)
    registry_port: int = Field(default=8085, ge=0, le=65535)
    flink_port: int = Field(default=8081, ge=0, le=65535)  # REST and web UI
    flink_rpc_port: int = Field(default=0, ge=0, le=65535)
    flink_metrics_port: int = Field(default=0, ge=0, le=65000)  # JobManager's Prometheus port; TaskManager i takes this + i

    api_port: int = Field(default=8000, ge=0, le=65535)

    analytics: bool = True  # ClickHouse and the sink that feeds it
    clickhouse_url: str | None = None  # a server of your own; None: the embedded engine, where this machine can run it
    clickhouse_port: int = Field(default=8123, ge=0, le=65535)
    clickhouse_max_memory_mb: int = Field(default=2048, ge=512)
    sink_metrics_port: int = Field(default=0, ge=0, le=65535)
    backtest_reports: int = Field(default=200, ge=1)  # the newest are kept, some 20 KB each

    taskmanagers: int = Field(default=2, ge=1, le=64)  # one slot each: the slots of one process share a Python interpreter lock
    # The parts that the scoring job's state is divided into, for good: the fewer, the larger the batches, and so the less each event costs.
    # One for two TaskManagers, which then work on a batch one behind the other.
    shards: int = Field(default_factory=lambda chosen: _shards_for(chosen["taskmanagers"]), ge=1, le=128)
    partitions: int = Field(default=4, ge=1, le=1024)
    retention_ms: int = Field(default=604_800_000, ge=1)  # 7 days
    checkpoint_interval_ms: int = Field(default=1000, ge=10)  # read_committed readers wait for a checkpoint, so it is short
    # how long the stream gathers records: every batch costs the same whatever its size, and half of this is what a record waits
    batch_ms: int = Field(default=25, ge=1, le=1_000)

    kafka_heap_mb: int = Field(default=512, ge=128)
    registry_heap_mb: int = Field(default=192, ge=96)
    redis_max_memory_mb: int = Field(default=512, ge=16)
    jobmanager_heap_mb: int = Field(default=512, ge=256)
    taskmanager_heap_mb: int = Field(default=512, ge=256)
    taskmanager_managed_mb: int = Field(default=256, ge=64)  # RocksDB's block cache and write buffers

    # what the machines of this stack cost, for the cost of a decision: the list price of two small cloud cores; set your own
    machine_cost_usd_per_hour: float = Field(default=0.10, ge=0)

    start_timeout_s: float = Field(default=180.0, gt=0)  # a cold start takes about 15 s on two cores; slow disks get room
    # where TaskManagers keep RocksDB's files, which a checkpoint copies and nobody reads after a restart; None: in memory (tmpfs) where
    # the machine has room, since every checkpoint waits for its files to be synchronised, and on a disk that is most of its time
    working_state_dir: Path | None = None
    jars_dir: Path | None = None  # None: ``jars`` of the default home, so that private stacks share one download
    python: Path | None = None  # interpreter of the Python operators; None: the one that runs this

    @model_validator(mode="after")
    def _every_taskmanager_has_work(self) -> Self:
        try:
            check_taskmanagers(self.taskmanagers, self.shards)
        except ValueError as error:
            raise ValueError(
                f"FRAUDGUARD_TASKMANAGERS={self.taskmanagers} and FRAUDGUARD_SHARDS={self.shards}: {error}. "
                "A job that has state keeps the number of shards that it began with"
            ) from None
        return self

    @classmethod
    def from_environment(cls) -> Self:
        """The settings of now; raises Denied with every variable that is wrong."""
        try:
            return cls()
        except ValidationError as error:
            raise Denied("; ".join(_describe(one["loc"], one["msg"]) for one in error.errors())) from None

    @classmethod
    def on_free_ports(cls, **overrides: Any) -> Self:
        """Settings for a private stack beside any other: every port is free, and nobody analyses, unless ``overrides`` says so."""
        return cls(**{**dict.fromkeys(PORT_FIELDS, 0), "analytics": False, **overrides})


def _shards_for(taskmanagers: int) -> int:
    """One for each pair of TaskManagers, or for each of an odd number."""
    return taskmanagers if taskmanagers % 2 else taskmanagers // 2


def _describe(place: tuple[str | int, ...], message: str) -> str:
    """A finding of pydantic's in the words of who set the variable."""
    variables = "".join(f"FRAUDGUARD_{str(name).upper()}: " for name in place)
    return variables + message.removeprefix("Value error, ")
