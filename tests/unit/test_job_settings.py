"""Settings that would lose data are refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flink_jobs.pattern_settings import PatternSettings
from flink_jobs.settings import JobSettings
from tests.core_settings import core_settings


def _settings(shards: int = 4, **changes: Any) -> JobSettings:
    return JobSettings(bootstrap_servers="", flink_port=1, core=core_settings(shards), **changes)


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


def test_every_subtask_needs_a_shard() -> None:
    with pytest.raises(ValidationError, match="cannot share"):
        _settings(shards=1, parallelism=2)


def test_settings_travel_as_json() -> None:
    settings = _settings()
    assert JobSettings.model_validate_json(settings.model_dump_json()) == settings
