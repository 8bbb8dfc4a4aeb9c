"""Extra features: windows beyond the catalogue that a rule set asks for by name, such as ``card_distinct_merchant_37m``.

The log of an entity holds every transaction that any window of the grammar can reach, so a window that nobody ever computed is
computed from it like the others, by the same kernel: in the stream, in the request and over history.  They stand behind the
catalogue's columns in the vector that rules read; the model, the online store and the recorded ``features`` do not have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import EVENT_FEATURES, Catalogue, Entry
from fraud.vector import Evaluator

__all__ = ["ExtraFeatures", "extra_catalogue", "extra_columns", "in_order"]


@lru_cache(maxsize=64)
def extra_catalogue(names: tuple[str, ...]) -> Catalogue:
    """The catalogue of these entity features behind the event's own; raises UnknownFeature."""
    return Catalogue.of(names)


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names as they stand in an event's extra columns: by kind of entity, then by name; raises UnknownFeature."""
    return extra_catalogue(tuple(sorted(names))).names[len(EVENT_FEATURES) :]


@lru_cache(maxsize=64)
def extra_columns(names: tuple[str, ...]) -> tuple[slice, ...]:
    """Where those of each kind stand among extra columns in the order of :func:`in_order`, by ``Kind``."""
    first = len(EVENT_FEATURES)
    return tuple(slice(columns.start - first, columns.stop - first) for columns in extra_catalogue(names).slices)


class ExtraFeatures:
    """Evaluates extra features over entity states; owns its working memory, so one a thread.

    Args:
        names: in the order of :func:`in_order`.

    Attributes:
        slices: columns of each kind among the extra ones, by ``Kind``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        catalogue = extra_catalogue(tuple(names))
        first = len(EVENT_FEATURES)
        self.names: tuple[str, ...] = catalogue.names[first:]
        self.slices = extra_columns(self.names)
        self._widths = [len(range(*columns.indices(len(self.names)))) for columns in self.slices]
        self._evaluator = Evaluator(catalogue)
        self._entries = catalogue.entries[first:]

    @property
    def entries(self) -> Sequence[Entry]:
        """What each is, its unit, what missing means, and what is not exact about it."""
        return self._entries

    def width(self, kind: int) -> int:
        """How many of them are of a kind."""
        return self._widths[kind]

    def peek(self, kind: int, state: NDArray[np.int64], row: NDArray[np.int64], out: NDArray[np.float64]) -> None:
        """Write those of a kind as of an event, over the entity's state before the event is applied; changes nothing."""
        if out.size:
            self._evaluator.peek(kind, state, row, out)
