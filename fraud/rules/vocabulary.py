"""The words of a condition: the features of the catalogue and the fields of the event that a rule may look at.

What is known only afterwards (``is_fraud``, ``scenario``), what would tell where an event comes from (``batch_id``) and what is
dropped at the door (``ip_address``) is not among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import UnknownFeature, check_feature, looks_like_feature
from fraud.events import Transaction
from fraud.rules.errors import InvalidRules, did_you_mean

__all__ = ["CONTEXT_FIELDS", "FIELDS", "EventFields", "Type", "Vocabulary", "Word", "column", "columns_of"]

# Columns of a batch by name; ``None`` is missing.
EventFields = Mapping[str, Sequence[Any] | NDArray[Any]]


class Type(StrEnum):
    """What a value is; the words are those of the error messages."""

    NUMBER = "a number"
    TEXT = "a string"
    TRUTH = "a truth value"


_TEXT_FIELDS = (
    "transaction_id", "tenant_id", "card_id", "user_id", "merchant_id", "device_id", "ip_hash", "currency",
    "ip_country", "ip_region", "transaction_type", "channel", "merchant_name", "merchant_country", "city", "country",
    "card_type", "card_country", "billing_country",
)  # fmt: skip
_NUMBER_FIELDS = (
    "amount_minor", "event_time_ms", "ip_asn", "ip_lat", "ip_lon", "merchant_mcc", "lat", "lon", "card_age_days",
    "billing_lat", "billing_lon",
)  # fmt: skip
_TRUTH_FIELDS = ("declined",)

# Not of the transaction: looked up or computed by the caller and handed over beside it.
CONTEXT_FIELDS: dict[str, Type] = {
    "card_blacklisted": Type.TRUTH,
    "user_blacklisted": Type.TRUTH,
    "merchant_blacklisted": Type.TRUTH,
    "device_blacklisted": Type.TRUTH,
    "ip_blacklisted": Type.TRUTH,
    "anomaly_flag": Type.TRUTH,
    "anomaly_score": Type.NUMBER,
    "late_event": Type.TRUTH,
}

FIELDS: dict[str, Type] = {
    **dict.fromkeys(_TEXT_FIELDS, Type.TEXT),
    **dict.fromkeys(_NUMBER_FIELDS, Type.NUMBER),
    **dict.fromkeys(_TRUTH_FIELDS, Type.TRUTH),
    **CONTEXT_FIELDS,
}


@dataclass(frozen=True, slots=True)
class Word:
    """A known name: a feature has its ``index`` in the vector, a field of the event has ``None``."""

    name: str
    type: Type
    index: int | None


class Vocabulary:
    """Resolves names: a feature of the catalogue first, then a field of the event, then a feature by the catalogue's grammar.

    Args:
        features: name to index in the feature vector, aliases included.
        extra: features beyond the catalogue, which stand behind it in this order; one that is met later stands behind those.
    """

    def __init__(self, features: Mapping[str, int], extra: Iterable[str] = ()) -> None:
        self._words = {name: Word(name, kind, None) for name, kind in FIELDS.items()}
        self._words |= {name: Word(name, Type.NUMBER, index) for name, index in features.items()}
        self._next_index = 1 + max(features.values(), default=-1)
        self._first_extra = self._next_index
        for name in extra:
            self._add(name)

    def find(self, name: str, position: int | None = None) -> Word:
        """Return the word of a name.

        Raises:
            InvalidRules: the name is unknown.
        """
        word = self._words.get(name)
        if word is None and looks_like_feature(name):
            try:
                check_feature(name)
            except UnknownFeature as unknown:
                raise InvalidRules(f"unknown name {name!r}: {str(unknown).removeprefix(f'{name}: ')}", position=position) from None
            word = self._add(name)
        if word is None:
            raise InvalidRules(f"unknown name {name!r}{did_you_mean(name, self._words)}", position=position)
        return word

    def is_extra(self, word: Word) -> bool:
        """Whether a word is a feature beyond the catalogue."""
        return word.index is not None and word.index >= self._first_extra

    def _add(self, name: str) -> Word:
        word = self._words[name] = Word(name, Type.NUMBER, self._next_index)
        self._next_index += 1
        return word


def columns_of(events: Sequence[Transaction], names: Iterable[str]) -> dict[str, Sequence[Any]]:
    """Gather the named event fields of a batch as columns; context fields are left to the caller."""
    return {name: list(map(attrgetter(name), events)) for name in names if name not in CONTEXT_FIELDS}


def column(kind: Type, values: Sequence[Any] | NDArray[Any] | None, size: int) -> Any:
    """Bring the values of a field into the shape in which conditions read them; ``None`` is missing throughout.

    Returns:
        Numbers as ``float64[size]`` with NaN for missing, strings as a list, truth values as two masks (true, false).
    """
    if values is None:
        values = [None] * size
    if kind is Type.NUMBER:
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
            return np.asarray(values, dtype=np.float64)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if kind is Type.TRUTH:
        if isinstance(values, np.ndarray) and values.dtype.kind == "b":
            return values, ~values
        return (
            np.array([value is not None and bool(value) for value in values], dtype=np.bool_),
            np.array([value is not None and not value for value in values], dtype=np.bool_),
        )
    return values.tolist() if isinstance(values, np.ndarray) else values
