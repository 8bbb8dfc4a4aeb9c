"""The events of one tenant and window as columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fraud.geo import MISSING

__all__ = ["NO_ENTITY", "Bools", "Entities", "Floats", "Groups", "Ints", "WindowEvents"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NO_ENTITY = -1


@dataclass(frozen=True, slots=True)
class Entities:
    """A column of names: ``names[codes[i]]`` is event ``i``'s, ``NO_ENTITY`` where it has none."""

    codes: Ints
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Entities:
        """Give each name a code."""
        known: dict[str, int] = {}
        codes = [NO_ENTITY if value is None else known.setdefault(value, len(known)) for value in values]
        return cls(np.array(codes, dtype=np.int64), tuple(known))

    def counts(self, among: Bools | None = None) -> Ints:
        """Events of each name, ``int64[len(names)]``; with ``among`` only those."""
        codes = self.codes if among is None else self.codes[among]
        return np.bincount(codes[codes != NO_ENTITY], minlength=len(self.names)).astype(np.int64)

    def distinct(self, others: Entities) -> Ints:
        """How many different ``others`` each name occurs with, ``int64[len(names)]``."""
        both = (self.codes != NO_ENTITY) & (others.codes != NO_ENTITY)
        width = max(len(others.names), 1)
        pairs = np.unique(self.codes[both] * width + others.codes[both])
        return np.bincount(pairs // width, minlength=len(self.names)).astype(np.int64)


class Groups:
    """The events of each name, found without a search through all of them."""

    def __init__(self, entities: Entities) -> None:
        self.order: Ints = np.argsort(entities.codes, kind="stable")
        self.codes: Ints = entities.codes[self.order]
        self._starts: Ints = np.searchsorted(self.codes, np.arange(len(entities.names) + 1))

    def members(self, code: int) -> Ints:
        """Indices of a name's events, ascending."""
        return self.order[self._starts[code] : self._starts[code + 1]]


@dataclass(frozen=True, slots=True)
class WindowEvents:
    """One tenant's events of ``[start_ms, end_ms)``; every column has an element an event.

    ``score`` is the decision's, 0 to 1.  Positions are millionths of a degree, ``fraud.geo.MISSING`` where unknown.
    ``merchant_prior`` is how many payments the merchant had in the ``merchant_prior_s`` seconds before the event; both are NaN
    where its log is too young to say.
    """

    tenant_id: str
    start_ms: int
    end_ms: int
    transaction_id: NDArray[np.object_]
    time_ms: Ints
    amount_minor: Ints
    currency: Entities
    card: Entities
    user: Entities
    merchant: Entities
    device: Entities
    ip: Entities
    lat_e6: Ints
    lon_e6: Ints
    score: Floats
    declined: Bools
    merchant_prior: Floats
    merchant_prior_s: Floats

    def __len__(self) -> int:
        return len(self.time_ms)

    @property
    def seconds(self) -> float:
        """Length of the window, s."""
        return (self.end_ms - self.start_ms) / 1000.0

    @property
    def located(self) -> Bools:
        """Which events have a position."""
        located: Bools = (self.lat_e6 != MISSING) & (self.lon_e6 != MISSING)
        return located

    def in_order(self) -> WindowEvents:
        """The same events by time, then by identity: nothing found may depend on the order of arrival."""
        order = np.lexsort((self.transaction_id.astype(str), self.time_ms))
        changed: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Entities):
                value = Entities(value.codes[order], value.names)
            elif isinstance(value, np.ndarray):
                value = value[order]
            changed[field.name] = value
        return WindowEvents(**changed)  # type: ignore[arg-type]
