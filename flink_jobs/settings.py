"""What the scoring job needs to know; travels as JSON from the one who submits to the one who runs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from flink_jobs.assembly import CoreSettings
from flink_jobs.submission_settings import SubmissionSettings
from fraud.kernel import KERNEL_VERSION
from fraud.state import STATE_VERSION

__all__ = ["JOB_NAME", "STATE_FORMAT", "JobSettings"]

JOB_NAME = "fraudguard-score"
STATE_FORMAT = f"state {STATE_VERSION}, kernel {KERNEL_VERSION}"


class JobSettings(SubmissionSettings):
    """Settings of the scoring job.

    ``shards`` (in ``core``) and ``max_parallelism`` belong to the state: a restore needs those that it was written with.
    """

    core: CoreSettings
    parallelism: int = Field(default=2, ge=1)
    max_parallelism: int = 128
    # how long records wait for company: a Python call costs milliseconds whatever its size, on cores that other threads share; with
    # 20 ms a stream of 500/s kept two cores busy and waited for them
    batch_ms: int = Field(default=50, ge=1, le=1_000)
    checkpoint_interval_ms: int = Field(default=1_000, ge=10)
    transactional_id_prefix: str = "fraudguard-score"
    group_id: str = "fraudguard-score"
    allow_unclaimed_state: bool = False
    # what the snapshots of this job are written in; one of another version is refused, not guessed at (what travels between the
    # operators has a version too, but with aligned barriers it is in no snapshot)
    state_format: str = STATE_FORMAT

    @model_validator(mode="after")
    def _every_subtask_has_a_shard(self) -> Self:
        if self.core.shards < self.parallelism:
            raise ValueError(f"{self.parallelism} subtasks cannot share {self.core.shards} shards")
        return self
