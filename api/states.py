"""Entity states for the request path: read beside other commands in one round trip, in Feast's layout.

The writer and the layout are ``serving.online_store`` and ``serving.feast_layout``; this is their reader for an event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fraud.errors import Unavailable
from serving.feast_layout import FEATURE_FIELDS, EntityKeys, RowCodec
from serving.online_store import StoredState
from serving.redis_link import DEPENDENCY, Command

__all__ = ["Entity", "StateReads"]

Entity = tuple[int, str]  # kind and "tenant|id"


class StateReads:
    """Commands that read states, and what their replies say; one a thread."""

    def __init__(self, project: str = "fraudguard") -> None:
        self._encode = EntityKeys(project).encode
        self._codec = RowCodec()

    def commands(self, entities: Sequence[Entity]) -> list[Command]:
        """One command an entity."""
        return [("HMGET", self._encode(kind, key), *FEATURE_FIELDS[kind]) for kind, key in entities]

    def states(self, entities: Sequence[Entity], replies: Sequence[Any]) -> dict[Entity, StoredState | None]:
        """The states by entity; ``None`` for one that is not there.

        Raises:
            Unavailable: something that is not a row lies there.
        """
        try:
            return {entity: self._row(reply) for entity, reply in zip(entities, replies, strict=True)}
        except ValueError as error:
            raise Unavailable(DEPENDENCY, str(error)) from error

    def _row(self, values: Sequence[bytes | None]) -> StoredState | None:
        state, seq, event_time_ms = values
        if state is None or seq is None or event_time_ms is None:
            return None
        return StoredState(*self._codec.decode(state, seq, event_time_ms))
