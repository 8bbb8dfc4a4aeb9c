"""What the pattern job needs to know; travels as JSON from the one who submits to the one who runs."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from flink_jobs.submission_settings import SubmissionSettings

__all__ = ["PATTERN_JOB_NAME", "PatternSettings"]

PATTERN_JOB_NAME = "fraudguard-patterns"


class PatternSettings(SubmissionSettings):
    """Settings of the pattern job.

    ``partitions`` is the number of the ledger's partitions: one that was not read yet holds the watermark back.
    """

    registry_url: str
    schema_ids: Mapping[str, int]
    partitions: int = Field(ge=1)
    window_s: int = Field(default=300, ge=1)
    # how far the ledger's events may be out of order: what the scoring job itself calls late
    out_of_orderness_ms: int = Field(default=60_000, ge=0)
    # a partition without records for this long does not hold the watermark back, and a ledger without any has its open windows
    # looked at as they are; a restart of the scoring job takes longer, and costs a second look and no event
    idle_ms: int = Field(default=30_000, ge=100)
    batch_ms: int = Field(default=200, ge=1, le=5_000)  # nobody waits for the cold path; longer would be a long array when catching up
    false_alarms_per_day: float = Field(default=0.1, gt=0.0)
    checkpoint_interval_ms: int = Field(default=10_000, ge=10)  # also how long an alert waits to be visible
    transactional_id_prefix: str = "fraudguard-patterns"
    group_id: str = "fraudguard-patterns"
