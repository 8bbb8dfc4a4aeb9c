"""How a job gets onto the session cluster: the configuration that all jobs share, and the client's call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment

from flink_jobs.submission_settings import SubmissionSettings

__all__ = ["submit_job"]


def submit_job(
    settings: SubmissionSettings,
    build: Callable[[StreamTableEnvironment], None],
    *,
    name: str,
    parallelism: int,
    options: Mapping[str, object],
) -> str:
    """Submit a job to the session cluster and return its id; this process keeps nothing of it.

    Args:
        settings: where the cluster is, how often to checkpoint, and what to restore.
        build: lays out the topology on an environment.
        name: of the job, as Flink shows it.
        parallelism: of every operator that sets none of its own.
        options: Flink's configuration of this job, beside what all jobs share.
    """
    gateway = get_gateway()
    remote: Any = gateway.jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment.createRemoteEnvironment(
        settings.flink_host,
        settings.flink_port,
        _configuration(settings, options)._j_configuration,  # noqa: SLF001
        gateway.new_array(gateway.jvm.String, 0),
    )
    env = StreamExecutionEnvironment(remote)
    env.set_parallelism(parallelism)
    build(StreamTableEnvironment.create(env))
    return str(env.execute_async(name).get_job_id())


def _configuration(settings: SubmissionSettings, options: Mapping[str, object]) -> Configuration:
    shared = {
        "python.execution-mode": "thread",  # Python inside the TaskManager: no process and no socket between it and the state
        "python.executable": sys.executable,
        "execution.checkpointing.interval": f"{settings.checkpoint_interval_ms} ms",
        "execution.checkpointing.timeout": f"{settings.checkpoint_timeout_ms} ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "state.backend.type": "rocksdb",
        "table.exec.uid.generation": "ALWAYS",
        # SQL operators never change a row that they passed on, and without this each of them copies the whole batch for each record
        "pipeline.object-reuse": "true",
    }
    if settings.restore_from is not None:
        shared["execution.state-recovery.path"] = settings.restore_from
    configuration = Configuration()
    for name, value in {**shared, **options}.items():
        configuration.set_string(name, str(value))
    return configuration
