"""What the scoring job needs to know; travels as JSON from the one who submits to the one who runs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from flink_jobs.assembly import CoreSettings
from flink_jobs.shards import check_taskmanagers
from flink_jobs.submission_settings import SubmissionSettings
from fraud.kernel import KERNEL_VERSION
from fraud.state import STATE_VERSION

__all__ = ["JOB_NAME", "STATE_FORMAT", "JobSettings"]

JOB_NAME = "fraudguard-score"
STATE_FORMAT = f"state {STATE_VERSION}, kernel {KERNEL_VERSION}"


class JobSettings(SubmissionSettings):
    """Settings of the scoring job.

    ``shards`` (in ``core``) and ``max_parallelism`` belong to the state: a restore needs those that it was written with.
    ``taskmanagers`` is how many the job works on, with a slot and a Python interpreter lock each: as many subtasks as there are shards,
    one on each; and with twice as many TaskManagers as shards, the second and the third operator of each subtask have one of their own.
    """

    core: CoreSettings
    taskmanagers: int = Field(default=2, ge=1)
    max_parallelism: int = 128
    # how long records wait for company: a Python call costs milliseconds whatever its size, on cores that other threads share
    batch_ms: int = Field(default=25, ge=1, le=1_000)
    checkpoint_interval_ms: int = Field(default=1_000, ge=10)
    transactional_id_prefix: str = "fraudguard-score"
    group_id: str = "fraudguard-score"
    allow_unclaimed_state: bool = False
    # thread: the operators' Python lives in the TaskManager; process: PyFlink's default, beside it, for comparison
    execution_mode: Literal["thread", "process"] = "thread"
    # what the snapshots of this job are written in; one of another version is refused, not guessed at (what travels between the
    # operators has a version too, but with aligned barriers it is in no snapshot)
    state_format: str = STATE_FORMAT

    @property
    def parallelism(self) -> int:
        """Of every operator."""
        return min(self.taskmanagers, self.core.shards)

    @property
    def is_split(self) -> bool:
        """Whether each subtask takes two TaskManagers, which work on one batch after the other."""
        return self.taskmanagers == 2 * self.parallelism

    @model_validator(mode="after")
    def _every_taskmanager_has_work(self) -> Self:
        check_taskmanagers(self.taskmanagers, self.core.shards)
        return self
