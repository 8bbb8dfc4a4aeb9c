"""The scoring job as a Spark structured streaming query: one stateful operator over (kind, entity), then decisions by micro-batch.

Each transaction becomes a row for each of its entities; ``transformWithStateInPandas`` keeps their logs in RocksDB; ``foreachBatch``
brings the rows of a transaction together again, which is possible because a micro-batch holds them all, scores and writes to Kafka.
Run ``main`` of the imported module: what stands in ``__main__`` does not reach Spark's Python workers whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StatefulProcessor, StatefulProcessorHandle

from fraud import kernel as k
from fraud.catalogue import CATALOGUE
from fraud.events import Kind
from fraud.state import encode_state, state_seq
from infra.peers.settings import PeerSettings
from infra.peers.work import Event, Work, work_of_environment

__all__ = ["main"]

CORES = 2
MEMORY = "1g"  # of the one JVM; the Python workers and RocksDB come on top
BATCH_RECORDS = 10_000  # a micro-batch of everything would be a batch job

_ROW = "event long, card long, kind int, entity string, row binary, body binary, own binary"
_OBSERVED = "event long, card long, kind int, seq long, features binary, row binary, body binary, own binary"
_DECISION = "key binary, value binary"
_PARTITION_BITS = 48  # of a number that orders the records of all partitions: the partition above, the offset below


@cache
def _work() -> Work:
    """The collaborators of this Python worker."""
    return work_of_environment()[1]


def scatter(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Kafka records to a row an entity; the card's row carries the transaction."""
    work = _work()
    for frame in frames:
        rows: list[tuple[Any, ...]] = []
        for key, value, partition, offset in frame.itertuples(index=False):
            event = work.read(bytes(key), bytes(value))
            number = (partition << _PARTITION_BITS) | offset
            row, card = event.row.tobytes(), int(event.row[k.E_CARD])
            rows.append((number, card, 0, event.key(Kind.CARD), row, work.codec.encode_transaction(event.tx), event.features.tobytes()))
            rows += [(number, card, int(kind), event.key(kind), row, None, None) for kind in Kind if kind != Kind.CARD and event.has(kind)]
        yield pd.DataFrame(rows, columns=["event", "card", "kind", "entity", "row", "body", "own"])


class EntityLog(StatefulProcessor):
    """The log of one entity of any kind."""

    def init(self, handle: StatefulProcessorHandle) -> None:
        self._log = handle.getValueState("log", "data binary")

    def handleInputRows(self, key: Any, rows: Iterator[pd.DataFrame], timerValues: Any) -> Iterator[pd.DataFrame]:  # noqa: ARG002, N802, N803
        work, kind = _work(), Kind(int(key[0]))
        frame = pd.concat(list(rows)).sort_values("event")
        kept = self._log.get()
        log = work.log(kind, None if kept is None else bytes(kept[0]))
        seqs, features = [], []
        for row in frame["row"]:
            log, out = work.observe_row(kind, log, np.frombuffer(row, dtype=np.int64).copy())
            seqs.append(state_seq(log))
            features.append(out.tobytes())
        self._log.update((encode_state(log, kind),))
        columns = ["event", "card", "kind"]
        yield frame[columns].assign(seq=seqs, features=features, row=frame["row"], body=frame["body"], own=frame["own"])

    def close(self) -> None:
        """Nothing to release."""


def gather(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Rows sorted by transaction and kind to decisions; a transaction may go on in the next frame."""
    work = _work()
    open_event: Event | None = None
    for frame in frames:
        whole: list[Event] = []
        for _, _, kind, seq, features, row, body, own in frame.itertuples(index=False):
            if kind == Kind.CARD:
                if open_event is not None:
                    whole.append(open_event)
                open_event = _event(work, row, body, own)
            assert open_event is not None  # the card's row sorts first
            open_event.seqs[kind] = seq
            open_event.features[CATALOGUE.slices[kind]] = np.frombuffer(features)
        if whole:
            yield _decisions(work, whole)
    if open_event is not None:
        yield _decisions(work, [open_event])


def _event(work: Work, row: bytes, body: bytes, own: bytes) -> Event:
    numbers = np.full(len(Kind), -1, dtype=np.int64)
    return Event(work.codec.decode_transaction(bytes(body)), np.frombuffer(row, dtype=np.int64), numbers, np.frombuffer(own).copy())


def _decisions(work: Work, events: list[Event]) -> pd.DataFrame:
    return pd.DataFrame(work.decide(events), columns=["key", "value"])


def main() -> None:
    """Run until the process is ended."""
    settings = PeerSettings.from_environment()
    spark = _session(settings)
    records = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.bootstrap_servers)
        .option("subscribe", settings.input_topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", BATCH_RECORDS)
        .load()
        .select("key", "value", "partition", "offset")
    )
    observed = (
        records.mapInPandas(scatter, _ROW)
        .groupBy("kind", "entity")
        .transformWithStateInPandas(EntityLog(), outputStructType=_OBSERVED, outputMode="Append", timeMode="None")
    )

    def write(batch: DataFrame, _number: int) -> None:
        # by card, so that a card's decisions keep the order of its transactions
        ordered = batch.repartition(CORES, "card").sortWithinPartitions("event", "kind")
        decisions = ordered.mapInPandas(gather, _DECISION)
        kafka = decisions.write.format("kafka").option("kafka.bootstrap.servers", settings.bootstrap_servers)
        kafka.option("topic", settings.output_topic).save()

    checkpoints = str(Path(settings.state_dir) / "checkpoint")
    observed.writeStream.foreachBatch(write).option("checkpointLocation", checkpoints).start().awaitTermination()


def _session(settings: PeerSettings) -> SparkSession:
    provider = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
    return (
        SparkSession.builder.master(f"local[{CORES}]")
        .appName(settings.group)
        .config("spark.driver.memory", MEMORY)
        .config("spark.ui.enabled", "false")
        .config("spark.jars", ",".join(settings.jars))
        .config("spark.sql.shuffle.partitions", CORES)
        .config("spark.sql.streaming.stateStore.providerClass", provider)
        .config("spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled", "true")
        .config("spark.local.dir", settings.state_dir)
        .getOrCreate()
    )
