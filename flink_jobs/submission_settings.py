"""What every job needs to know to be submitted, to restart and to commit; travels as JSON from who submits to who runs."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["SubmissionSettings"]


class SubmissionSettings(BaseModel):
    """Settings that the jobs share; each job adds its own and names its consumer group and its transactions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str
    flink_host: str = "127.0.0.1"
    flink_port: int
    checkpoint_interval_ms: int = Field(ge=10)
    checkpoint_timeout_ms: int = Field(default=60_000, ge=1_000)
    # detecting a dead worker, starting a process and loading state: 30 to 45 s measured for a whole JVM
    restart_budget_ms: int = Field(default=120_000, ge=0)
    transaction_timeout_ms: int = Field(default=900_000, ge=1_000)  # the broker's maximum by default
    # part of every transactional id: another prefix would leave the old transactions open until they time out
    transactional_id_prefix: str
    group_id: str
    restore_from: str | None = None  # becomes the job's own: it deletes it when newer checkpoints have taken its place

    @model_validator(mode="after")
    def _transactions_outlive_a_restart(self) -> Self:
        needed = 3 * (self.checkpoint_timeout_ms + self.restart_budget_ms)
        if self.transaction_timeout_ms < needed:
            raise ValueError(
                f"transaction_timeout_ms is {self.transaction_timeout_ms}; with this checkpoint timeout and restart budget it must be "
                f"at least {needed}, or a slow restart loses what a checkpoint had promised"
            )
        return self
