"""Entity states for the request path: read beside other commands in one round trip, in Feast's layout.

The writer and the layout are ``serving.online_store`` and ``serving.feast_layout``; this is their reader for an event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fraud.errors import Unavailable
from fraud.events import Entity
from serving.feast_layout import FEATURE_FIELDS, EntityKeys, RowCodec
from serving.online_health import HealthKeys, parse_health
from serving.online_store import StoredState
from serving.redis_link import DEPENDENCY, Command

__all__ = ["StateReads", "Stored"]


@dataclass(frozen=True, slots=True)
class Stored:
    """The rows by entity; one that is ``None`` was never there if the store ``is_whole``, and may have been lost if it is not."""

    rows: Mapping[Entity, StoredState | None]
    is_whole: bool


class StateReads:
    """Commands that read states and the store's health, and what their replies say; one a thread."""

    def __init__(self, project: str = "fraudguard") -> None:
        self._encode = EntityKeys(project).encode
        self._health = HealthKeys(project).read()
        self._codec = RowCodec()

    def commands(self, entities: Sequence[Entity]) -> list[Command]:
        """What to send; :meth:`stored` takes as many replies."""
        return [*self._health, *(("HMGET", self._encode(kind, key), *FEATURE_FIELDS[kind]) for kind, key in entities)]

    def stored(self, entities: Sequence[Entity], replies: Sequence[Any]) -> Stored:
        """What the replies say.

        Raises:
            Unavailable: something that is not a row lies there.
        """
        mark, info, *rows = replies
        try:
            return Stored({entity: self._row(row) for entity, row in zip(entities, rows, strict=True)}, parse_health(mark, info).is_whole)
        except ValueError as error:
            raise Unavailable(DEPENDENCY, str(error)) from error

    def _row(self, values: Sequence[bytes | None]) -> StoredState | None:
        state, seq, event_time_ms = values
        if state is None or seq is None or event_time_ms is None:
            return None
        return StoredState(*self._codec.decode(state, seq, event_time_ms))
