"""Settings of the operators' cores for tests in which no core reads them."""

from __future__ import annotations

from flink_jobs.assembly import CoreSettings


def core_settings(shards: int) -> CoreSettings:
    return CoreSettings(
        shards=shards,
        schema_ids={},
        registry_url="",
        redis_url="",
        models_dir="",
        ip_hash_key_file="",
        default_rules=None,
        default_model=None,
        code_version="",
    )
