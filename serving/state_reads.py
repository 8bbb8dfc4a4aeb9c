"""Reading entity states: what to send to Redis, in Feast's layout, and what its replies say.

The stream's client and the request path's event loop read by the same commands; the latter sends them beside others of its own.
The writer is ``serving.online_store``.  This module must not talk to Redis, and must not look into a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fraud.errors import Unavailable
from fraud.events import Entity
from serving.feast_layout import FEATURE_FIELDS, EntityKeys, RowCodec
from serving.online_health import HealthKeys, StoreHealth, parse_health
from serving.redis_link import DEPENDENCY, Command

__all__ = ["Reading", "StateReads", "StoredState"]


class StoredState(NamedTuple):
    """What the store holds of an entity."""

    state: bytes
    seq: int
    event_time_ms: int


class Reading(NamedTuple):
    """States as asked for, and whether ``None`` among them means "never seen" (the store is whole) or "may have been lost"."""

    states: list[StoredState | None]
    health: StoreHealth


class StateReads:
    """The commands of one Feast project, and what their replies say; safe to share between threads.

    Attributes:
        keys: the Redis keys of the entities.
    """

    def __init__(self, project: str = "fraudguard") -> None:
        self.keys = EntityKeys(project)
        self._health = HealthKeys(project).read()

    def commands(self, entities: Sequence[Entity | None]) -> list[Command]:
        """Read states and the store's health; :meth:`reading` takes as many replies."""
        return [*self._health, *self.state_commands(entities)]

    def reading(self, entities: Sequence[Entity | None], replies: Sequence[Any]) -> Reading:
        """What the replies to :meth:`commands` say.

        Raises:
            Unavailable: something that is not a row, or not a mark, lies there.
        """
        mark, info, *rows = replies
        try:
            health = parse_health(mark, info)
        except ValueError as error:
            raise Unavailable(DEPENDENCY, str(error)) from error
        return Reading(self.states(entities, rows), health)

    def state_commands(self, entities: Sequence[Entity | None]) -> list[Command]:
        """Read states alone, nothing for ``None``; :meth:`states` takes as many replies."""
        return [("HMGET", self.keys.encode(*entity), *FEATURE_FIELDS[entity[0]]) for entity in entities if entity]

    @staticmethod
    def states(entities: Sequence[Entity | None], replies: Sequence[Any]) -> list[StoredState | None]:
        """What the replies to :meth:`state_commands` say; ``None`` for ``None`` and for what is not there.

        Raises:
            Unavailable: something that is not a row lies there.
        """
        rows = iter(replies)
        try:
            return [_stored(next(rows)) if entity else None for entity in entities]
        except ValueError as error:
            raise Unavailable(DEPENDENCY, str(error)) from error


def _stored(values: Sequence[bytes | None]) -> StoredState | None:
    state, seq, event_time_ms = values
    if state is None or seq is None or event_time_ms is None:
        return None
    return StoredState(*RowCodec.decode(state, seq, event_time_ms))
