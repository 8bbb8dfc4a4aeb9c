"""Settings that would lose data are refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flink_jobs.pattern_settings import PatternSettings
from flink_jobs.refusals import DEFAULT_LIMITS
from flink_jobs.settings import JobSettings
from infra.jobs import JobTicket
from infra.scoring_job import as_asked, with_refusals
from tests.core_settings import core_settings


def _settings(shards: int = 4, **changes: Any) -> JobSettings:
    return JobSettings(bootstrap_servers="", flink_port=1, core=core_settings(shards), **changes)


def test_refused_records_are_accepted_until_the_next_start_that_does_not_say_so() -> None:
    ticket = JobTicket("score", "infra.scoring_job:resume", ("one",), arguments=('{"taskmanagers": 1}',))
    accepting = with_refusals(ticket, accepted=True)
    settings = as_asked(_settings(), accepting)
    assert (settings.parallelism, settings.core.refusals) == (1, None)
    assert settings == JobSettings.model_validate_json(settings.model_dump_json())
    assert with_refusals(accepting, accepted=False) == ticket
    assert as_asked(_settings(), ticket).core.refusals == DEFAULT_LIMITS
    bare = JobTicket("score", "infra.scoring_job:resume")
    assert with_refusals(with_refusals(bare, accepted=True), accepted=False) == bare


def test_transactions_must_outlive_three_restarts() -> None:
    with pytest.raises(ValidationError, match="must be at least 540000"):
        _settings(transaction_timeout_ms=539_999)
    assert _settings(transaction_timeout_ms=540_000).transaction_timeout_ms == 540_000


def test_transactions_of_the_pattern_job_must_outlive_three_restarts() -> None:
    where = {"bootstrap_servers": "", "flink_port": 1, "registry_url": "", "schema_ids": {}, "partitions": 1}
    with pytest.raises(ValidationError, match="at least 540000"):
        PatternSettings(**where, transaction_timeout_ms=539_999)
    settings = PatternSettings(**where, transaction_timeout_ms=540_000)
    assert PatternSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("shards", "taskmanagers", "parallelism", "is_split"),
    [(4, 1, 1, False), (4, 3, 3, False), (4, 4, 4, False), (4, 8, 4, True), (1, 1, 1, False), (1, 2, 1, True)],
)
def test_the_job_has_a_subtask_on_each_taskmanager_or_half_of_one(shards: int, taskmanagers: int, parallelism: int, is_split: bool) -> None:
    settings = _settings(shards, taskmanagers=taskmanagers)
    assert (settings.parallelism, settings.is_split) == (parallelism, is_split)


def test_every_taskmanager_needs_work() -> None:
    with pytest.raises(ValidationError, match=r"on 1 or 2 TaskManagers, not 3: .* 1 shard,"):
        _settings(shards=1, taskmanagers=3)


def test_settings_travel_as_json() -> None:
    settings = _settings()
    assert JobSettings.model_validate_json(settings.model_dump_json()) == settings
