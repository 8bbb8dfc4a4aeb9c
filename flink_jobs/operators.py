"""The Python operators of the scoring job: shells that hand Flink's rows and state to the cores.

A row is ``(key, (shard, kind, payload))``; ``key`` is the integer that stands for the shard (see ``shards``).  Each operator
instance builds its own core when it opens, so a restarted task starts with empty caches.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pyflink.common import Row, Time, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor, StateTtlConfig

from flink_jobs import assembly, infer, ingest, observe
from flink_jobs.assembly import CoreSettings
from flink_jobs.cores import ByteMap, Part, Record
from flink_jobs.refusals import TooManyRefused
from flink_jobs.shards import owned_shards
from flink_jobs.stopping import fail_for_good
from serving import ledger, logs
from serving.clock import now_ms
from serving.stream_metrics import StreamMetrics, process_exporter

__all__ = ["GATHERED", "SOURCES", "TOPICS", "FlinkMap", "InferOperator", "IngestOperator", "ObserveOperator", "name_of"]

LIFETIME_DAYS = 91  # a day more than the kernel's memory of an entity: what is dropped here no feature would see
SWITCH_INTERVAL_S = 0.0005
GATHERED = (ledger.TRANSACTIONS, ledger.LABELS, ledger.ERASURES)
SOURCES = (*GATHERED, *ingest.CONTROL)
TOPICS = (ledger.DECISIONS, ledger.ALERTS, ledger.DEAD_LETTERS, ledger.LABELS_APPLIED, ledger.ERASURES_APPLIED, ledger.SHADOWS)


class FlinkMap:
    """A ByteMap over Flink's map state; what it addresses follows the key of the current row.

    ``in_thread``: whether Python runs inside of the TaskManager.
    """

    def __init__(self, state: MapState, *, in_thread: bool = True) -> None:
        self._state = state
        self._in_thread = in_thread

    def get(self, key: str) -> bytes | None:
        value = self._state.get(key)
        return None if value is None else bytes(value)

    def put(self, key: str, value: bytes) -> None:
        self._state.put(key, value)

    def put_all(self, entries: Mapping[str, bytes]) -> None:
        # one crossing into the JVM for a whole batch: each of them gives up the interpreter lock and asks for it again
        self._state.put_all(entries if self._in_thread else entries.items())  # the state of process mode iterates over pairs

    def remove(self, key: str) -> None:
        self._state.remove(key)

    def items(self) -> Iterable[tuple[str, bytes]]:
        return list(self._pairs())

    def scan(self) -> Iterator[tuple[str, bytes]]:
        return self._pairs() if self._in_thread else iter(self.items())  # process mode forbids writing while somebody iterates

    def _pairs(self) -> Iterator[tuple[str, bytes]]:
        return ((key, bytes(value)) for key, value in self._state.items())


class _Shell(KeyedProcessFunction):
    """What the operators share: state maps by name, a core of their own, metrics of their own."""

    maps: tuple[str, ...] = ()
    build: Callable[[CoreSettings, StreamMetrics], Any]

    def __init__(self, settings: CoreSettings, keys: list[int]) -> None:
        self._settings = settings
        self._keys = keys

    def open(self, runtime_context: RuntimeContext) -> None:
        # The operators of a TaskManager share one interpreter lock.  Passing it on often empties the caches of two cores, passing it on
        # rarely lets an operator wait that long for each state that it reads, while its neighbour computes (see docs/adr/0002).
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # what is loaded now stays, and a batch makes objects by the thousand without cycles: looking for some took longer than most
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        self._maps: Mapping[str, ByteMap] = {
            name: FlinkMap(runtime_context.get_map_state(_descriptor(name)), in_thread=_embedded(runtime_context) is not None)
            for name in self.maps
        }
        if _embedded(runtime_context) is not None:  # else what goes to standard error is logged by PyFlink's worker, and again, and again
            logs.configure("stream")
        self._metrics_of_core = process_exporter().new_metrics()
        self._core = type(self).build(self._settings, self._metrics_of_core)

    def close(self) -> None:
        # Flink closes an operator also when it failed to open
        core = getattr(self, "_core", None)
        if core is not None:
            core.close()
            self._metrics_of_core.close()

    def _rows(self, parts: Iterable[Part]) -> Iterator[Row]:
        for part in parts:
            yield Row(self._keys[part.shard], Row(part.shard, "part", part.payload))


def _descriptor(name: str) -> MapStateDescriptor:
    descriptor = MapStateDescriptor(name, Types.STRING(), Types.PICKLED_BYTE_ARRAY())
    if name in ("cards", "entities"):
        # RocksDB's compaction drops what has expired, by default; to ask for it calls the JVM, which a worker in process mode has not
        descriptor.enable_time_to_live(StateTtlConfig.new_builder(Time.days(LIFETIME_DAYS)).build())
    return descriptor


def _embedded(runtime_context: RuntimeContext) -> Any:
    """Flink's own context where Python runs inside of the TaskManager (thread mode), else None."""
    return getattr(runtime_context, "_runtime_context", None)


def _place_of(runtime_context: RuntimeContext) -> tuple[int, int, int]:
    """Number of the subtask, how many there are, and how many there can be."""
    embedded = _embedded(runtime_context)
    if embedded is None:
        context = runtime_context
        return context.get_index_of_this_subtask(), context.get_number_of_parallel_subtasks(), context.get_max_number_of_parallel_subtasks()
    # in thread mode PyFlink's own getters call methods that Flink 2 has moved here
    task = embedded.getTaskInfo()
    return task.getIndexOfThisSubtask(), task.getNumberOfParallelSubtasks(), task.getMaxNumberOfParallelSubtasks()


class _CopiedShell(_Shell):
    """A shell whose states the online store copies: each of its shards has a timer, at which the core may heal the copy.

    Timers are part of the state, so a restored shard heals without waiting for traffic.
    """

    def open(self, runtime_context: RuntimeContext) -> None:
        super().open(runtime_context)
        self._runtime_context = runtime_context
        self._shard_of = {key: shard for shard, key in enumerate(self._keys)}
        self._due_ms: dict[int, int] = {}
        subtask, parallelism, max_parallelism = _place_of(runtime_context)
        self._core.own(owned_shards(subtask, parallelism, len(self._keys), max_parallelism))

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Puts nothing out; process mode iterates over what comes of it all the same."""
        shard = self._shard_of[ctx.get_current_key()]
        # one chain of timers a shard: a restored one goes on, unless a record has come before it and begun another
        if self._due_ms.get(shard, timestamp) == timestamp:
            self._wake(shard, ctx, self._core.heal(shard, self._maps))
        yield from ()

    def _attend(self, shard: int, ctx: KeyedProcessFunction.Context) -> None:
        """Called with every batch: gives a shard its first timer."""
        if shard not in self._due_ms:
            self._wake(shard, ctx, 0)

    def _wake(self, shard: int, ctx: KeyedProcessFunction.Context, pause_ms: int) -> None:
        due_ms = self._due_ms[shard] = now_ms() + pause_ms
        ctx.timer_service().register_processing_time_timer(due_ms)


class IngestOperator(_CopiedShell):
    """Batches of Kafka records in, parts out; a control record is a batch of its own."""

    maps = ingest.MAPS
    build = staticmethod(assembly.build_ingest)

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        shard, source, partition, offset, timestamp_ms, key, payload = value
        self._attend(shard, ctx)
        sources = (SOURCES[number] for number in source)
        records = list(map(Record, sources, partition, offset, timestamp_ms, map(_bytes, key), map(_bytes, payload)))
        try:
            parts = self._core.process(shard, records, self._maps)
        except TooManyRefused as error:
            fail_for_good(self._runtime_context, str(error))
            raise
        yield from self._rows(parts)


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


class ObserveOperator(_CopiedShell):
    """Parts in, parts out."""

    maps = observe.MAPS
    build = staticmethod(assembly.build_observe)

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        shard, _, payload = value
        self._attend(shard, ctx)
        yield from self._rows(self._core.process(shard, bytes(payload), self._maps))


class InferOperator(_Shell):
    """Parts in; the records of a batch out, in one row: coming back for each of them we would wait for the interpreter each time.

    ``names`` and ``vs`` are the columns of that row, see :func:`name_of`.  Strings and bytes only: of an array of rows, PyFlink's
    converter of thread mode makes as many times the last one.
    """

    maps = infer.MAPS
    build = staticmethod(assembly.build_infer)

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:  # noqa: ARG002
        shard, _, payload = value
        records = self._core.process(shard, bytes(payload), self._maps)
        if records:
            yield Row([name_of(n, record.topic, record.key) for n, record in enumerate(records)], [record.value for record in records])


def name_of(position: int, topic: str, key: bytes | None) -> str:
    """What SQL makes topic and key of a record of: a digit for the topic, "+" with a key or "-" without, six digits, the key.

    The position tells two records of one key apart, since names are the keys of a map there.
    """
    return f"{_NUMBER_OF[topic]}{'-' if key is None else '+'}{position:06d}{'' if key is None else key.decode()}"


_NUMBER_OF = {topic: number for number, topic in enumerate(TOPICS)}
