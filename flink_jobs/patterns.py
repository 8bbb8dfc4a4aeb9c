"""The pattern job: the committed ledger in, alerts on patterns over many events out.  The cold path.

::

    fraud-events ─► batch ─► windows (all tenants, one subtask) ─► fraud_alerts      (exactly-once)
    read_committed  (SQL)    (Python, keyed state)

It shares nothing with the scoring job but the broker: see docs/adr/0006.  This module composes; the work is in
``pattern_windows`` and ``fraud.patterns``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import DataStream, KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor
from pyflink.table import StreamTableEnvironment

from flink_jobs.operators import FlinkMap
from flink_jobs.pattern_settings import PATTERN_JOB_NAME, PatternSettings
from flink_jobs.pattern_windows import MAPS, PatternWindows
from flink_jobs.submission import lay_out
from flink_jobs.topology import BLOBS, BYTES, INTS, exactly_once, keyed, sink_table
from fraud.patterns import Limits
from serving import ledger
from serving.clock import now_ms
from serving.codec import Codec
from serving.records import Alert
from serving.registry import HttpRegistry

__all__ = ["build", "submit"]

_BATCH = Types.ROW([Types.INT(), Types.ROW([INTS, BLOBS])])
_OUT = Types.ROW_NAMED(["k", "v"], [BYTES, BYTES])
_TIMER_STEP_MS = 1_000  # one timer a second at most


class PatternOperator(KeyedProcessFunction):
    """Hands Flink's rows, state and processing-time timers to the core."""

    def __init__(self, settings: PatternSettings) -> None:
        self._settings = settings

    def open(self, runtime_context: RuntimeContext) -> None:
        settings = self._settings
        self._maps = {name: FlinkMap(runtime_context.get_map_state(_descriptor(name))) for name in MAPS}
        group = runtime_context.get_metrics_group()
        counters: dict[str, Any] = {}

        def count(name: str, amount: int) -> None:
            if name not in counters:
                counters[name] = group.counter(f"patterns_{name}")
            counters[name].inc(amount)

        self._codec = Codec(settings.schema_ids, HttpRegistry(settings.registry_url).schema_by_id)
        self._core = PatternWindows(
            self._codec,
            Limits(false_alarms_per_day=settings.false_alarms_per_day),
            window_ms=settings.window_s * 1_000,
            partitions=settings.partitions,
            out_of_orderness_ms=settings.out_of_orderness_ms,
            idle_ms=settings.idle_ms,
            count=count,
        )

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        partitions, payloads = value
        read_ms = now_ms()
        self._look_again(ctx, read_ms)
        yield from self._rows(self._core.process(partitions, [bytes(payload) for payload in payloads], read_ms, self._maps))

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:  # noqa: ARG002
        look_ms = now_ms()
        alerts = self._core.look_if_idle(look_ms, self._maps)
        if alerts is None:
            self._look_again(ctx, look_ms)
        else:
            yield from self._rows(alerts)

    def _look_again(self, ctx: KeyedProcessFunction.Context, now_ms: int) -> None:
        due_ms = now_ms + self._settings.idle_ms
        ctx.timer_service().register_processing_time_timer(due_ms + _TIMER_STEP_MS - due_ms % _TIMER_STEP_MS)

    def _rows(self, alerts: Sequence[Alert]) -> Iterator[Row]:
        for alert in alerts:
            yield Row(alert.card_id.encode(), self._codec.encode_alert(alert))


def _descriptor(name: str) -> MapStateDescriptor:
    return MapStateDescriptor(name, Types.STRING(), Types.PICKLED_BYTE_ARRAY())


def build(table_env: StreamTableEnvironment, settings: PatternSettings) -> None:
    """Lay out the job on an environment of parallelism 1; nothing runs before its ``execute``."""
    batches = keyed(_batches(table_env, settings))
    found = batches.process(PatternOperator(settings), _OUT).name("patterns").uid("patterns")
    _write(table_env, found, settings)


def _batches(table_env: StreamTableEnvironment, settings: PatternSettings) -> DataStream:
    """Committed decisions, gathered for ``batch_ms``, under one key: one Python call a batch.

    One array a column, of numbers and bytes only: the windowed ARRAY_AGG of Flink 2.2 copies nothing else (docs/adr/0002).
    """
    table_env.execute_sql(
        f"""CREATE TEMPORARY TABLE ledger_in (
            v BYTES, `partition` INT METADATA VIRTUAL, arrival AS PROCTIME()
        ) WITH (
            'connector' = 'kafka', 'topic' = '{ledger.DECISIONS}',
            'properties.bootstrap.servers' = '{settings.bootstrap_servers}',
            'properties.group.id' = '{settings.group_id}',
            'properties.isolation.level' = 'read_committed',
            'scan.startup.mode' = 'earliest-offset', 'value.format' = 'raw'
        )"""
    )
    batches = table_env.sql_query(
        f"""SELECT 0, ROW(ARRAY_AGG(`partition`), ARRAY_AGG(v))
            FROM TABLE(TUMBLE(TABLE ledger_in, DESCRIPTOR(arrival), INTERVAL '{settings.batch_ms / 1000:.3f}' SECOND))
            WHERE v IS NOT NULL
            GROUP BY window_start, window_end"""
    )
    return table_env.to_append_stream(batches, _BATCH)


def _write(table_env: StreamTableEnvironment, found: DataStream, settings: PatternSettings) -> None:
    table_env.create_temporary_view("found", table_env.from_data_stream(found))
    sink_table(table_env, "alerts_out", ledger.ALERTS, settings, exactly_once(settings))
    statements = table_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO alerts_out SELECT k, v FROM found")
    statements.attach_as_datastream()


def submit(settings: PatternSettings) -> str:
    """Submit the job to the session cluster and return its id; this process keeps nothing of it."""
    env = lay_out(settings, lambda table_env: build(table_env, settings), parallelism=1, options={})
    return str(env.execute_async(PATTERN_JOB_NAME).get_job_id())


def main() -> None:
    """``python -m flink_jobs.patterns SETTINGS.json``: prints the job's id as the last line."""
    print(submit(PatternSettings.model_validate_json(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
