"""Features as of a request: the same kernel over the same states as in the stream, on copies of our own.

The stream applies an event to its entities and evaluates; here each event of a request is applied to the copies that were read, so
that the second payment of a batch sees the first, and nothing is written back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud.errors import Unavailable
from fraud.events import KINDS, Entity, Kind, Transaction, entities_of, entity_key, hash64
from fraud.extra import ExtraFeatures
from fraud.kernel import empty_state, has_transaction
from fraud.state import decode_state, state_seq, state_time_ms
from fraud.vector import Evaluator, event_row
from serving.records import EntityPosition
from serving.state_reads import Reading

__all__ = ["Evaluated", "FeatureReader", "View"]

States = dict[Entity, NDArray[np.int64] | None]  # None: the entity may be known, and its state is lost


@dataclass(frozen=True, slots=True)
class View:
    """Where the log of one entity stood when it was evaluated; ``time_ms`` is its newest event time, 0 for none."""

    kind: str
    key: str
    seq: int
    time_ms: int

    def position(self, applied: int = 0) -> EntityPosition:
        """As the wire writes it, ``applied`` entries later."""
        return EntityPosition(self.kind, self.key, self.seq + applied)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """``features`` is float64[B, F]; ``views`` has what was known of each event's entities, or is None when nothing could be read.

    ``extra`` is float64[B, E], the features beyond the catalogue that were asked for; None when none were.
    """

    features: NDArray[np.float64]
    views: list[list[View]] | None
    extra: NDArray[np.float64] | None = None


class FeatureReader:
    """Evaluates events over states; belongs to one thread, as the kernel's working memory does."""

    def __init__(self) -> None:
        self._evaluator = Evaluator()
        self._columns = self._evaluator.catalogue.slices
        self._extra = ExtraFeatures(())

    @staticmethod
    def decoded(entities: Sequence[Entity], reading: Reading) -> States:
        """The kernel's form of what was read of ``entities``; an entity that was never there has an empty log.

        Raises:
            Unavailable: the store holds something that is no state.
        """
        try:
            return {
                entity: decode_state(row.state, entity[0]) if row is not None else empty_state() if reading.health.is_whole else None
                for entity, row in zip(entities, reading.states, strict=True)
            }
        except ValueError as error:
            raise Unavailable("redis", str(error)) from error

    @staticmethod
    def has_applied(tx: Transaction, states: States) -> bool:
        """Whether the stream has this very transaction in its card's log already."""
        state = states[Kind.CARD, entity_key(tx.tenant_id, tx.card_id)]
        return state is not None and bool(has_transaction(state, hash64(f"{tx.tenant_id}|{tx.transaction_id}")))

    def evaluate(self, transactions: Sequence[Transaction], states: States | None, extra: Sequence[str] = ()) -> Evaluated:
        """Evaluate events one after the other; ``states`` is used up.  Without states every windowed feature is missing.

        ``extra`` names the features beyond the catalogue that the rule set asks for.
        """
        if extra != self._extra.names:
            self._extra = ExtraFeatures(extra)
        matrix = np.full((len(transactions), self._evaluator.catalogue.size), np.nan)
        extra_matrix = np.full((len(transactions), len(extra)), np.nan)
        views: list[list[View]] = []
        for vector, extra_vector, tx in zip(matrix, extra_matrix, transactions, strict=True):
            row = event_row(tx)
            self._evaluator.event(row, vector)
            if states is None:
                continue
            known = [self._observe(entity, row, vector, extra_vector, states) for entity in entities_of(tx)]
            views.append([view for view in known if view is not None])
        return Evaluated(matrix, None if states is None else views, extra_matrix if extra else None)

    def _observe(
        self, entity: Entity, row: NDArray[np.int64], vector: NDArray[np.float64], extra_vector: NDArray[np.float64], states: States
    ) -> View | None:
        kind, key = entity
        state = states[entity]
        if state is None:
            return None
        view = View(KINDS[kind], key, state_seq(state), state_time_ms(state))
        if extra_vector.size:
            self._extra.peek(kind, state, row, extra_vector[self._extra.slices[kind]])
        states[entity] = self._evaluator.observe(kind, state, row, vector[self._columns[kind]])
        return view
