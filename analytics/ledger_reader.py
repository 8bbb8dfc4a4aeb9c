"""The ledger's topics as the sink reads them: batches of committed records, and the offsets behind each batch.

Belongs to no consumer group and commits nothing to Kafka: where to go on stands beside the rows, with whoever has written them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from analytics.lag import Place, behind
from analytics.ledger_rows import Value
from fraud.errors import Unavailable
from serving import ledger

__all__ = ["Batch", "LedgerReader"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Records by topic, and where each partition goes on behind them: without a record, too, behind the marker of a transaction."""

    values: dict[str, list[Value]] = field(default_factory=dict)
    moved: dict[Place, int] = field(default_factory=dict)

    @property
    def oldest_ms(self) -> int | None:
        """When the broker took the oldest of its records; None where it has none."""
        return min((one.recorded_ms for values in self.values.values() for one in values), default=None)


@dataclass(slots=True)
class _Partition:
    place: Place
    next: int  # the offset to read
    delivered: int  # the offset up to which everything is where it belongs


class LedgerReader:
    """The topics' committed records from given offsets on, where one is given, else from the first."""

    def __init__(self, bootstrap_servers: str, ids: dict[str, str], offsets: Mapping[Place, int]) -> None:
        self.ids = ids
        self._admin = ledger.admin(bootstrap_servers)
        self._consumer: Consumer = ledger.consumer(bootstrap_servers, eof=True)
        try:
            found = ledger.partitions_of(self._consumer, list(ids))
        except Unavailable:
            self._consumer.close()
            raise
        places = [Place(one.topic, ids[one.topic], one.partition) for one in found]
        starts = {place: offsets.get(place, 0) for place in places}
        self._partitions = {(place.topic, place.partition): _Partition(place, start, start) for place, start in starts.items()}
        self._consumer.assign([TopicPartition(place.topic, place.partition, start) for place, start in starts.items()])

    def read(self, records: int, linger_s: float) -> Batch:
        """The next records by topic: as many as asked for, or what has come after ``linger_s``.  Raises Unavailable."""
        batch = Batch()
        deadline_s, wanted = time.monotonic() + linger_s, records
        while wanted > 0 and (left_s := deadline_s - time.monotonic()) > 0:
            wanted -= self._take(self._consumer.consume(wanted, timeout=left_s), batch)
        return batch

    def delivered(self, batch: Batch) -> None:
        """Take note that a batch need not be read again."""
        for place, offset in batch.moved.items():
            self._partitions[place.topic, place.partition].delivered = offset

    def behind(self, *, asked: bool = False) -> dict[str, int]:
        """Records of each topic between what was delivered and the ends of the partitions.

        Those ends are what the consumer has last heard, which is new as long as it reads; who does not read has the broker ``asked``,
        and so has a consumer that has not heard of a partition yet: not known is not zero.

        Raises:
            Unavailable: the broker does not answer.
        """
        ends = None if asked else self._heard()
        if ends is None:
            ends = ledger.ends_of(self._admin, [TopicPartition(topic, partition) for topic, partition in self._partitions])
        return behind(self.ids, ends, {one.place: one.delivered for one in self._partitions.values()})

    def _heard(self) -> list[TopicPartition] | None:
        """The ends that came with what was read; None where a partition's is missing."""
        ends = []
        try:
            for topic, partition in self._partitions:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
                ends.append(TopicPartition(topic, partition, end))
        except KafkaException as error:
            raise Unavailable("kafka", f"offsets: {error}") from error
        return None if any(end.offset == OFFSET_INVALID for end in ends) else ends

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()

    def _take(self, messages: Sequence[Message], batch: Batch) -> int:
        """Put records into the batch; returns how many there were."""
        taken = 0
        for message in messages:
            error, topic, partition, offset = message.error(), message.topic(), message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own constant
                raise Unavailable("kafka", error.str())
            if topic is None or partition is None or offset is None:
                continue
            if error is None:
                values = batch.values.get(topic)
                if values is None:
                    values = batch.values[topic] = []
                values.append(Value(partition, offset, message.timestamp()[1], message.value()))
                taken += 1
                offset += 1
            # the end of a partition lies behind the markers of its transactions, which are no records
            one = self._partitions[topic, partition]
            if offset > one.next:
                one.next = batch.moved[one.place] = offset
        return taken
