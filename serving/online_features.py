"""Features of a request from what the online store answered: an entity that may have been lost is missing, never new.

While the store is whole, an entity that it does not hold has never been seen, and its features are those of its first event.  While
the store heals, nobody can say that: such an entity's features are NaN, and the decision says why.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.events import Kind, Transaction, entity_ids, entity_key
from fraud.vector import Evaluator, evaluate_vector
from serving.online_health import StoreHealth
from serving.state_reads import Reading

__all__ = ["FEATURES_MISSING", "NOTHING_READ", "ServedFeatures", "entities_of", "serve_features"]

FEATURES_MISSING = "features_missing"  # reason of a decision that had to do without some entity's features

# In the place of the answer of a store that is away.
NOTHING_READ = Reading([None] * len(Kind), StoreHealth(is_whole=False))


class ServedFeatures(NamedTuple):
    """``values`` is float64[F] in catalogue order; ``missing`` are the kinds whose entity may have been lost."""

    values: NDArray[np.float64]
    missing: tuple[Kind, ...]

    @property
    def reason(self) -> str | None:
        """What the decision must say about its features."""
        return FEATURES_MISSING if self.missing else None


def entities_of(tx: Transaction) -> list[tuple[int, str] | None]:
    """What to ask the online store for, in the order of ``Kind``; None where the transaction names nobody."""
    return [None if entity is None else (kind, entity_key(tx.tenant_id, entity)) for kind, entity in enumerate(entity_ids(tx))]


def serve_features(tx: Transaction, reading: Reading, evaluator: Evaluator | None = None) -> ServedFeatures:
    """Evaluate a transaction over the states that were read for :func:`entities_of`; changes nothing."""
    states = [None if stored is None else stored.state for stored in reading.states]
    values = evaluate_vector(tx, states, evaluator)
    if reading.health.is_whole:
        return ServedFeatures(values, ())
    named = enumerate(entity_ids(tx))
    missing = tuple(Kind(kind) for kind, entity in named if entity is not None and states[kind] is None)
    for kind in missing:
        values[CATALOGUE.slices[kind]] = np.nan
    return ServedFeatures(values, missing)
