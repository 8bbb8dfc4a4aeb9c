"""Where a decision is found by its id: a day of the API's own in Redis, everything that is committed in the ledger.

Until the warehouse keeps them by id, the ledger is searched from its newest record backwards: a decision that somebody asks for is
most often young.  Records are looked through as bytes; only the one found is decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fraud.errors import Unavailable
from serving import ledger
from serving.codec import HEADER_BYTES, Codec
from serving.records import Decision
from serving.redis_link import Command, RedisLink

__all__ = ["DECISION_TTL_S", "find_in_ledger", "find_kept", "index_key", "keep_command"]

DECISION_TTL_S = 86_400
_STEP = 10_000  # records of each partition that are read at a time
_BATCH = 2_000
_TIMEOUT_S = 10.0
_POLL_S = 0.1
_LENGTH_BYTES = 2  # Avro's length of a text of 64 to 8,191 bytes; shorter ones take 1


def index_key(tenant_id: str, decision_id: str) -> str:
    """Redis key of a decision; the tenant is part of it, so nobody finds another's."""
    return f"decision:{tenant_id}:{decision_id}"


def keep_command(decision: Decision, value: bytes) -> Command:
    """The command that keeps an encoded decision for a day; the first one of an id stays."""
    return ("SET", index_key(decision.tenant_id, decision.decision_id), value, "EX", DECISION_TTL_S, "NX")


def find_kept(link: RedisLink, codec: Codec, tenant_id: str, decision_id: str) -> Decision | None:
    """A tenant's decision of the last day; None also while Redis is away: the ledger has it too, once committed."""
    try:
        (value,) = link.call([("GET", index_key(tenant_id, decision_id))])
    except Unavailable:
        return None
    return None if value is None else codec.decode_decision(value)


def find_in_ledger(
    bootstrap: str, codec: Codec, decision_id: str, *, tenant_id: str | None = None, limit_s: float | None = None
) -> Decision | None:
    """The committed decision of an id, of one tenant where it is named; None when the whole ledger has none.

    Raises:
        Unavailable: the broker does not answer, or ``limit_s`` seconds were not enough for the whole ledger.
    """
    wanted = decision_id.encode()
    deadline_s = None if limit_s is None else time.monotonic() + limit_s
    for message in _backwards(bootstrap, deadline_s):
        value: bytes | None = message.value()
        # the id is the record's first field
        if value is not None and wanted in value[HEADER_BYTES : HEADER_BYTES + _LENGTH_BYTES + len(wanted)]:
            decision = codec.decode_decision(value)
            if decision.decision_id == decision_id and tenant_id in (None, decision.tenant_id):
                return decision
    return None


def _backwards(bootstrap: str, deadline_s: float | None) -> Iterator[Message]:
    """Committed records, step by step from the end of every partition to its beginning; inside a step in their order."""
    reader = ledger.consumer(bootstrap, eof=True, wait_ms=ledger.END_WAIT_MS)
    try:
        ends: dict[int, int] = {}
        lows: dict[int, int] = {}
        for place in ledger.partitions_of(reader, (ledger.DECISIONS,)):
            lows[place.partition], ends[place.partition] = reader.get_watermark_offsets(place, timeout=_TIMEOUT_S)
        while ends := {partition: end for partition, end in ends.items() if end > lows[partition]}:
            starts = {partition: max(lows[partition], end - _STEP) for partition, end in ends.items()}
            yield from _step(reader, starts, ends, deadline_s)
            ends = starts
    except KafkaException as error:
        raise Unavailable("kafka", str(error)) from error
    finally:
        reader.close()


def _step(reader: Consumer, starts: dict[int, int], ends: dict[int, int], deadline_s: float | None) -> Iterator[Message]:
    """The records from ``starts`` to before ``ends``, by partition."""
    reader.assign([TopicPartition(ledger.DECISIONS, partition, offset) for partition, offset in starts.items()])
    unread = set(starts)
    heard_s = time.monotonic()
    while unread:
        now_s = time.monotonic()
        if deadline_s is not None and now_s > deadline_s:
            raise Unavailable("ledger", "the search took too long")
        batch = reader.consume(_BATCH, timeout=_POLL_S)
        if batch:
            heard_s = now_s
        elif now_s - heard_s > _TIMEOUT_S:
            raise Unavailable("kafka", f"no answer within {_TIMEOUT_S:g} s")
        for message in batch:
            partition, error = message.partition(), message.error()
            if error is None and message.offset() < ends[partition]:
                yield message
            elif error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own constant
                raise Unavailable("kafka", error.str())
            # the end of what is committed, or of this step; the last record before it may be a marker that nobody sees
            if error is not None or message.offset() + 1 >= ends[partition]:
                unread.discard(partition)
