"""The scoring job as a bytewax dataflow: one keyed stateful step an entity, then decisions in batches.

``python -m bytewax.run "infra.peers.bytewax_flow:build_flow()" -r RECOVERY -s 1 -i N -a ADDRESSES``.  A log is kept decoded in
memory; what a snapshot writes to the recovery store is its encoded bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulLogic

from fraud.events import KINDS, Kind
from fraud.state import encode_state
from infra.peers.work import Event, Work, work_of_environment

__all__ = ["build_flow"]


class _EntityLog(StatefulLogic):
    """The log of one entity; an event without such an entity passes and leaves nothing."""

    def __init__(self, work: Work, kind: Kind, kept: bytes | None) -> None:
        self._work = work
        self._kind = kind
        self._log = work.log(kind, kept)

    def on_item(self, value: Event) -> tuple[Iterable[Event], bool]:
        if not value.has(self._kind):
            return (value,), StatefulLogic.DISCARD
        self._log = self._work.observe(self._kind, self._log, value)
        return (value,), StatefulLogic.RETAIN

    def snapshot(self) -> bytes:
        return encode_state(self._log, self._kind)


def build_flow() -> Dataflow:
    """The dataflow of one process."""
    settings, work = work_of_environment()
    brokers = [settings.bootstrap_servers]

    def read(message: KafkaSourceMessage) -> Event:
        return work.read(message.key, message.value)

    def decide(events: list[Event]) -> list[KafkaSinkMessage]:
        return [KafkaSinkMessage(key, value) for key, value in work.decide(events)] if events else []

    flow = Dataflow("fraudguard")
    records = kop.input("transactions", flow, brokers=brokers, topics=[settings.input_topic])
    events = op.map("read", records.oks, read)
    for kind in Kind:
        events = _observed(events, work, kind)
    decisions = op.flat_map_batch("decide", events, decide)
    kop.output("decisions", decisions, brokers=brokers, topic=settings.output_topic)
    return flow


def _observed(events: op.Stream[Event], work: Work, kind: Kind) -> op.Stream[Event]:
    name = KINDS[kind]
    keyed = op.key_on(f"by_{name}", events, lambda event: event.key(kind))
    logged = op.stateful(f"{name}_log", keyed, lambda kept: _EntityLog(work, kind, kept))
    return op.key_rm(f"{name}_done", logged)
