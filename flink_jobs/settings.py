"""What the scoring job needs to know; travels as JSON from the one who submits to the one who runs."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flink_jobs.assembly import CoreSettings
from fraud.kernel import KERNEL_VERSION
from fraud.state import STATE_VERSION

__all__ = ["JOB_NAME", "STATE_FORMAT", "JobSettings"]

JOB_NAME = "fraudguard-score"
STATE_FORMAT = f"state {STATE_VERSION}, kernel {KERNEL_VERSION}"


class JobSettings(BaseModel):
    """Settings of the scoring job.

    ``shards`` (in ``core``) and ``max_parallelism`` belong to the state: a restore needs those that it was written with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str
    flink_host: str = "127.0.0.1"
    flink_port: int
    core: CoreSettings
    parallelism: int = Field(default=2, ge=1)
    max_parallelism: int = 128
    # how long records wait for company: a Python call costs milliseconds whatever its size, on cores that other threads share; with
    # 20 ms a stream of 500/s kept two cores busy and waited for them
    batch_ms: int = Field(default=50, ge=1, le=1_000)
    checkpoint_interval_ms: int = Field(default=1_000, ge=10)
    checkpoint_timeout_ms: int = Field(default=60_000, ge=1_000)
    # detecting a dead worker, starting a process and loading state: 30 to 45 s measured for a whole JVM
    restart_budget_ms: int = Field(default=120_000, ge=0)
    transaction_timeout_ms: int = Field(default=900_000, ge=1_000)  # the broker's maximum by default
    # part of every transactional id: another prefix would leave the old transactions open until they time out
    transactional_id_prefix: str = "fraudguard-score"
    group_id: str = "fraudguard-score"
    restore_from: str | None = None
    allow_unclaimed_state: bool = False
    # what the snapshots of this job are written in; one of another version is refused, not guessed at (what travels between the
    # operators has a version too, but with aligned barriers it is in no snapshot)
    state_format: str = STATE_FORMAT

    @model_validator(mode="after")
    def _transactions_outlive_a_restart(self) -> Self:
        needed = 3 * (self.checkpoint_timeout_ms + self.restart_budget_ms)
        if self.transaction_timeout_ms < needed:
            raise ValueError(
                f"transaction_timeout_ms is {self.transaction_timeout_ms}; with this checkpoint timeout and restart budget it must be "
                f"at least {needed}, or a slow restart loses what a checkpoint had promised"
            )
        if self.core.shards < self.parallelism:
            raise ValueError(f"{self.parallelism} subtasks cannot share {self.core.shards} shards")
        return self
