"""The scoring job as a Quix Streams application: one topic and one stateful step an entity, exactly-once.

``group_by`` cannot be nested, so each further entity has a topic of its own between two dataframes of the one application, which is
what a ``group_by`` makes behind the scenes.  Run as ``python -m infra.peers.quix_app NUMBER``, once for each process of the group.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quixstreams import Application, State
from quixstreams.models import Deserializer, SerializationContext, Serializer, TopicConfig

from fraud.events import KINDS, Kind
from infra.peers.settings import PeerSettings
from infra.peers.work import Event, Work, pack_event, unpack_event, work_of_environment
from serving.codec import Codec

__all__ = ["build_app"]

_LOG = "log"


class _EventSerializer(Serializer):
    """Events onto a hop's topic."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self._codec = codec

    def __call__(self, value: Event, ctx: SerializationContext) -> bytes:  # noqa: ARG002 - the base class's signature
        return pack_event(value, self._codec)


class _EventDeserializer(Deserializer):
    """Events from a hop's topic."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self._codec = codec

    def __call__(self, value: bytes, ctx: SerializationContext) -> Event:  # noqa: ARG002 - the base class's signature
        return unpack_event(value, self._codec)


class _DecisionSerializer(Serializer):
    """The value of a decision that is at hand as key and value."""

    def __call__(self, value: tuple[bytes, bytes], ctx: SerializationContext) -> bytes:  # noqa: ARG002 - the base class's signature
        return value[1]


def build_app(settings: PeerSettings, work: Work, state_dir: Path) -> Application:
    """The application of one process."""
    app = Application(
        broker_address=settings.bootstrap_servers,
        consumer_group=settings.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=settings.commit_interval_ms / 1000,
        state_dir=state_dir,
        loglevel="WARNING",
    )

    def read(value: bytes, key: bytes, _timestamp: int, _headers: Any) -> Event:
        return work.read(key, value)

    source = app.topic(settings.input_topic, key_deserializer="bytes", value_deserializer="bytes")
    events = app.dataframe(source).apply(read, metadata=True).apply(_observe(work, Kind.CARD), stateful=True)
    for kind in (Kind.USER, Kind.MERCHANT, Kind.DEVICE, Kind.IP):
        hop = app.topic(
            f"{settings.group}-by-{KINDS[kind]}",
            key_serializer="str",
            key_deserializer="str",
            value_serializer=_EventSerializer(work.codec),
            value_deserializer=_EventDeserializer(work.codec),
            config=TopicConfig(num_partitions=settings.partitions, replication_factor=1),
        )
        events.to_topic(hop, key=_key_of(kind))
        events = app.dataframe(hop).apply(_observe(work, kind), stateful=True)
    output = app.topic(settings.output_topic, key_serializer="bytes", value_serializer=_DecisionSerializer())
    events.apply(lambda event: work.decide([event])[0]).to_topic(output, key=lambda decision: decision[0])
    return app


def _key_of(kind: Kind) -> Callable[[Event], str]:
    return lambda event: event.key(kind)


def _observe(work: Work, kind: Kind) -> Callable[[Event, State], Event]:
    def observe(event: Event, state: State) -> Event:
        if event.has(kind):
            state.set_bytes(_LOG, work.pass_through(kind, state.get_bytes(_LOG), event))
        return event

    return observe


def main(number: str) -> None:
    """Run until SIGTERM."""
    settings, work = work_of_environment()
    build_app(settings, work, Path(settings.state_dir) / number).run()


if __name__ == "__main__":
    main(sys.argv[1])
