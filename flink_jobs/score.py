"""The scoring job: transactions and labels in, exact features, decisions out.

::

    transactions, labels, ─► batch by shard ──► ingest ─► observe ─► infer ─► decisions            (fast lane, at-least-once)
    erasures                 (SQL, JVM)       ▲                         └─► fraud-events, fraud_alerts, transactions.dlq,
    rules, models ─► one copy a shard ────────┘                             labels-applied, erasures-applied, shadow-decisions
                     (SQL, JVM)                                                                    (ledger, one transaction)

Everything between the Python operators runs in the JVM; the operators are keyed in the JVM, and are called once a batch.  See
docs/adr/0002 for why.  This module composes; the work is in the cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyflink.common import Types
from pyflink.datastream import DataStream, KeyedProcessFunction, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment

from flink_jobs.ingest import CONTROL
from flink_jobs.operators import GATHERED, SOURCES, TOPICS, InferOperator, IngestOperator, ObserveOperator
from flink_jobs.settings import JOB_NAME, JobSettings
from flink_jobs.shards import shard_keys
from flink_jobs.submission import lay_out
from flink_jobs.takeover import find_orphans
from flink_jobs.topology import BLOBS, BYTES, INTS, exactly_once, keyed, sink_table
from serving import ledger

__all__ = ["Operators", "build", "prepare", "submit"]

_LONGS = Types.OBJECT_ARRAY(Types.LONG())
_BATCH = Types.ROW([Types.INT(), Types.ROW([Types.INT(), INTS, INTS, _LONGS, _LONGS, BLOBS, BLOBS])])
_PART = Types.ROW([Types.INT(), Types.ROW([Types.INT(), Types.STRING(), BYTES])])
_OUT = Types.ROW_NAMED(["names", "vs"], [Types.OBJECT_ARRAY(Types.STRING()), BLOBS])

_TIMESTAMP_MS = "EXTRACT(EPOCH FROM ts) * 1000 + EXTRACT(MILLISECOND FROM ts)"

# what arrives is gathered for ``batch_ms`` anyway; a fetch for each record kept broker and source busy with themselves
_FETCHES = {"properties.fetch.min.bytes": "65536", "properties.fetch.max.wait.ms": "10"}


def _options(settings: JobSettings) -> dict[str, object]:
    options: dict[str, object] = {
        "python.execution-mode": settings.execution_mode,
        "pipeline.max-parallelism": settings.max_parallelism,
        # the default of 100 ms would be most of the latency; what the operators put out is sent at once, see ``build``
        "execution.buffer-timeout.interval": "5 ms",
        # aligned: with unaligned barriers a checkpoint could split a batch, which ``infer`` relies on never to happen
        "execution.checkpointing.unaligned.enabled": "false",
    }
    if settings.restore_from is not None:
        options["execution.state-recovery.ignore-unclaimed-state"] = str(settings.allow_unclaimed_state).lower()
    return options


class Operators(NamedTuple):
    """The Python operators of the topology; another set of them shows what the topology itself does to records."""

    ingest: Callable[..., KeyedProcessFunction]
    observe: Callable[..., KeyedProcessFunction]
    infer: Callable[..., KeyedProcessFunction]


SCORING = Operators(IngestOperator, ObserveOperator, InferOperator)


def build(table_env: StreamTableEnvironment, settings: JobSettings, operators: Operators = SCORING) -> None:
    """Lay out the job on an environment; nothing runs before its ``execute``."""
    shards = settings.core.shards
    keys = shard_keys(shards, settings.max_parallelism, lambda key: _key_group(_row_of(key), settings.max_parallelism))
    window_keys = shard_keys(shards, settings.max_parallelism, lambda key: _key_group(_binary_row_of(key), settings.max_parallelism))
    core = settings.core
    gathered = _batches(table_env, settings, keys, window_keys)
    # a batch goes out as soon as it is whole; who flushes every few milliseconds also wakes up as often when there is nothing
    gathered._j_data_stream.getTransformation().setBufferTimeout(0)  # noqa: SLF001 - a stream out of a table has no setter of its own
    batches = gathered.union(_control(table_env, settings, keys))
    ingested = keyed(batches).process(operators.ingest(core, keys), _PART).name("ingest").uid("ingest").set_buffer_timeout(0)
    observed = keyed(ingested).process(operators.observe(core, keys), _PART).name("observe").uid("observe").set_buffer_timeout(0)
    if settings.is_split:
        # what follows goes with it: the two halves of the Python have a TaskManager, and so an interpreter lock, each
        observed.slot_sharing_group("entities")
    scored = keyed(observed).process(operators.infer(core, keys), _OUT).name("infer").uid("infer").set_buffer_timeout(0)
    _write(table_env, scored, settings)


def _key_group(row: Any, max_parallelism: int) -> int:
    """Key group of a key, asked of Flink itself."""
    return int(get_gateway().jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup(row, max_parallelism))


def _row_of(key: int) -> Any:
    """An integer as a key of the operators."""
    gateway = get_gateway()
    fields = gateway.new_array(gateway.jvm.Object, 1)
    fields[0] = key
    return gateway.jvm.org.apache.flink.types.Row.of(fields)


def _binary_row_of(key: int) -> Any:
    """An integer as a key of SQL, which hashes another way."""
    data = get_gateway().jvm.org.apache.flink.table.data
    row = data.binary.BinaryRowData(1)
    writer = data.writer.BinaryRowWriter(row)
    writer.writeInt(0, key)
    writer.complete()
    return row


def _source_table(
    table_env: StreamTableEnvironment, name: str, topics: str, settings: JobSettings, options: Mapping[str, str] = MappingProxyType({})
) -> None:
    extra = "".join(f", '{option}' = '{value}'" for option, value in options.items())
    table_env.execute_sql(
        f"""CREATE TEMPORARY TABLE {name} (
            k BYTES, v BYTES,
            topic STRING METADATA VIRTUAL, `partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL,
            ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
            arrival AS PROCTIME()
        ) WITH (
            'connector' = 'kafka', 'topic' = '{topics}',
            'properties.bootstrap.servers' = '{settings.bootstrap_servers}',
            'properties.group.id' = '{settings.group_id}',
            'properties.isolation.level' = 'read_committed',
            'scan.startup.mode' = 'earliest-offset',
            'key.format' = 'raw', 'key.fields' = 'k', 'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY'{extra}
        )"""
    )


def _batches(table_env: StreamTableEnvironment, settings: JobSettings, keys: list[int], window_keys: list[int]) -> DataStream:
    """Records of transactions, labels and erasures, gathered for ``batch_ms`` per shard of their Kafka key, in order of arrival.

    ``keys`` and ``window_keys`` stand for the shards in the operators and in the window: the two hash differently, and a shard
    should be gathered where it is processed.

    One array a column, of numbers and bytes only: the windowed ARRAY_AGG of Flink 2.2 does not copy what it gathers, so rows,
    strings and maps all come out as the last one of the batch, while numbers and byte arrays are copied on access.
    """
    _source_table(table_env, "records_in", ";".join(GATHERED), settings, _FETCHES)
    numbered = " ".join(f"WHEN '{topic}' THEN {number}" for number, topic in enumerate(GATHERED) if number)
    shard = f"COALESCE(ABS(MOD(HASH_CODE(CAST(k AS STRING)), {len(keys)})), 0)"
    table_env.execute_sql(
        f"""CREATE TEMPORARY VIEW records_by_shard AS SELECT {shard} AS shard, {_key_of(shard, window_keys)} AS window_key, arrival,
            CASE topic {numbered} ELSE 0 END AS source, `partition`, `offset`,
            {_TIMESTAMP_MS} AS ts, k, v FROM records_in"""
    )
    batches = table_env.sql_query(
        f"""SELECT {_key_of("MIN(shard)", keys)}, ROW(MIN(shard), ARRAY_AGG(source), ARRAY_AGG(`partition`), ARRAY_AGG(`offset`),
                ARRAY_AGG(ts), ARRAY_AGG(k), ARRAY_AGG(v))
            FROM TABLE(TUMBLE(TABLE records_by_shard, DESCRIPTOR(arrival), INTERVAL '{settings.batch_ms / 1000:.3f}' SECOND))
            GROUP BY window_start, window_end, window_key"""
    )
    return table_env.to_append_stream(batches, _BATCH)


def _control(table_env: StreamTableEnvironment, settings: JobSettings, keys: list[int]) -> DataStream:
    """Rule sets and models, one copy for each shard: what a broadcast would do, with thread mode and with keyed state.

    Each is a batch of one record: the number in the place of ``source`` says of which topic it is.
    """
    _source_table(table_env, "control_in", ";".join(CONTROL), settings)
    first = SOURCES.index(CONTROL[0])
    # arrays of what may be null, as ARRAY_AGG makes them: of anything else Flink makes arrays of primitives
    source = f"CASE topic WHEN '{CONTROL[0]}' THEN {first} WHEN '{CONTROL[1]}' THEN {first + 1} END"
    numbers = ", ".join(map(str, range(len(keys))))
    # unnesting a column repeats each record and keeps nothing; unnesting a literal would plan a join that keeps every record for ever
    copies = table_env.sql_query(
        f"""SELECT {_key_of("shard", keys)},
                ROW(shard, ARRAY[source], ARRAY[`partition`], ARRAY[`offset`], ARRAY[ts], ARRAY[k], ARRAY[v])
            FROM (SELECT {source} AS source, `partition`, `offset`, {_TIMESTAMP_MS} AS ts, k, v, ARRAY[{numbers}] AS shards FROM control_in)
            CROSS JOIN UNNEST(shards) AS copies(shard)"""
    )
    return table_env.to_append_stream(copies, _BATCH)


def _key_of(column: str, keys: list[int]) -> str:
    return f"ARRAY[{', '.join(map(str, keys))}][{column} + 1]"


def _write(table_env: StreamTableEnvironment, scored: DataStream, settings: JobSettings) -> None:
    # A checkpoint waits in the ledger's sink for its transaction; in a task of its own it does not hold up the fast lane.  With as many
    # subtasks on both sides, rescaling hands each its own records.
    table_env.create_temporary_view("scored", table_env.from_data_stream(scored))
    table_env.create_temporary_view("settled", table_env.from_data_stream(scored.rescale()))
    at_least_once = {"sink.delivery-guarantee": "at-least-once", "properties.linger.ms": "2"}
    sink_table(table_env, "fast_lane", ledger.FAST_LANE, settings, at_least_once)
    # nobody sees a record before its checkpoint: full requests cost the broker half as much as a hundred small ones a second
    sink_table(table_env, "ledger", ";".join(TOPICS), settings, {**exactly_once(settings), "properties.linger.ms": "50"})
    statements = table_env.create_statement_set()
    # see ``operators.name_of``
    is_decision = f"SUBSTRING(name, 1, 1) = '{TOPICS.index(ledger.DECISIONS)}'"
    topic = f"ARRAY[{', '.join(repr(topic) for topic in TOPICS)}][CAST(SUBSTRING(name, 1, 1) AS INT) + 1]"
    key = "CASE SUBSTRING(name, 2, 1) WHEN '+' THEN CAST(SUBSTRING(name, 9) AS BYTES) END"
    statements.add_insert_sql(f"INSERT INTO fast_lane SELECT {key}, v FROM {_records('scored')} WHERE {is_decision}")
    statements.add_insert_sql(f"INSERT INTO ledger SELECT {key}, v, {topic} FROM {_records('settled')}")
    statements.attach_as_datastream()


def _records(batches: str) -> str:
    """A row a record.  Of a map nothing is copied; a column by the index of another would copy its whole array for each record."""
    return f"(SELECT MAP_FROM_ARRAYS(names, vs) AS records FROM {batches}) CROSS JOIN UNNEST(records) AS record(name, v)"


def prepare(settings: JobSettings, operators: Operators = SCORING) -> StreamExecutionEnvironment:
    """The job on an environment that would run it on the session cluster."""
    return lay_out(
        settings,
        lambda table_env: build(table_env, settings, operators),
        parallelism=settings.parallelism,
        options=_options(settings),
    )


def submit(settings: JobSettings, operators: Operators = SCORING) -> str:
    """Submit the job to the session cluster and return its id; this process keeps nothing of it."""
    return str(prepare(settings, operators).execute_async(JOB_NAME).get_job_id())


def main() -> None:
    """``python -m flink_jobs.score SETTINGS.json [SNAPSHOT]``: submits the job and prints its id as the last line.

    With the folder of a snapshot it submits nothing and prints, as a JSON list, what of its state the job would not take over.
    """
    settings = JobSettings.model_validate_json(Path(sys.argv[1]).read_text())
    if sys.argv[2:]:
        print(json.dumps(find_orphans(prepare(settings), Path(sys.argv[2]))))
    else:
        print(submit(settings))


if __name__ == "__main__":
    main()
