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
from flink_jobs.takeover import name_stateful_operators

__all__ = ["lay_out"]

# What a restart applies again, at most: the changes of so many seconds.
_MATERIALISATION_S = 30


def lay_out(
    settings: SubmissionSettings, build: Callable[[StreamTableEnvironment], None], *, parallelism: int, options: Mapping[str, object]
) -> StreamExecutionEnvironment:
    """Return an environment with a job, whose ``execute_async`` submits it to the session cluster.

    Args:
        settings: where the cluster is, how often to checkpoint, and what to restore.
        build: lays out the topology on an environment.
        parallelism: of every operator that sets none of its own.
        options: Flink's configuration of this job, beside what all jobs share.
    """
    gateway = get_gateway()
    remote: Any = gateway.jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment.createRemoteEnvironment(
        settings.flink_host, settings.flink_port, gateway.new_array(gateway.jvm.String, 0)
    )
    env = StreamExecutionEnvironment(remote)
    env.configure(_configuration(settings, options))  # not at its making, where its own defaults go over what says how to restore
    env.set_parallelism(parallelism)
    build(StreamTableEnvironment.create(env))
    name_stateful_operators(env)
    return env


def _configuration(settings: SubmissionSettings, options: Mapping[str, object]) -> Configuration:
    shared = {
        "python.execution-mode": "thread",  # Python inside the TaskManager: no process and no socket between it and the state
        "python.executable": sys.executable,
        "execution.checkpointing.interval": f"{settings.checkpoint_interval_ms} ms",
        # after a stall Flink would make up for the checkpoints that it missed, several a second, and so stall again
        "execution.checkpointing.min-pause": f"{settings.checkpoint_interval_ms // 2} ms",
        "execution.checkpointing.timeout": f"{settings.checkpoint_timeout_ms} ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "state.backend.type": "rocksdb",
        # Between two checkpoints a change of state is also a line of a log, and a checkpoint is the end of that log: RocksDB's own
        # snapshot, for which an operator stood still for up to 200 ms every second, is taken now and then beside it.
        "state.changelog.enabled": "true",
        "state.changelog.periodic-materialize.interval": f"{_MATERIALISATION_S} s",
        # A checkpoint a second makes a small file a second: levelled compaction rewrote the whole state every few of them, in a fifth of
        # a core at 1,000 events/s.  Most reads are of entities that are new, which a filter answers without looking.
        "state.backend.rocksdb.compaction.style": "UNIVERSAL",
        "state.backend.rocksdb.compression.per.level": "NO_COMPRESSION",
        "state.backend.rocksdb.use-bloom-filter": "true",
        "table.exec.uid.generation": "ALWAYS",
        # SQL operators never change a row that they passed on, and without this each of them copies the whole batch for each record
        "pipeline.object-reuse": "true",
    }
    if settings.restore_from is not None:
        shared["execution.state-recovery.path"] = settings.restore_from
        # Flink's default, which copies everything once, cannot be had with a changelog: the first checkpoint would fail
        shared["execution.state-recovery.claim-mode"] = "CLAIM"
    configuration = Configuration()
    for name, value in {**shared, **options}.items():
        configuration.set_string(name, str(value))
    return configuration
