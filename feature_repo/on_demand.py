"""The rows of the ``velocity`` view: entity states and a request in, every named feature as of the request out.

A thin shape change around ``fraud.vector.evaluate_vector``; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, Kind, Transaction, entity_ids, entity_key
from fraud.vector import Evaluator, evaluate_vector

__all__ = ["REQUEST_FIELDS", "VIEW", "entity_row", "evaluate_rows"]

VIEW = "velocity"

# What the kernel reads of a transaction besides its ids; all are given with every request, None where unknown.
REQUEST_FIELDS: Mapping[str, type] = {
    "event_time_ms": int,
    "amount_minor": int,
    "currency": str,
    "channel": str,
    "declined": bool,
    "merchant_mcc": int,
    "merchant_country": str,
    "lat": float,
    "lon": float,
    "country": str,
    "card_country": str,
    "card_age_days": int,
    "billing_lat": float,
    "billing_lon": float,
    "ip_lat": float,
    "ip_lon": float,
    "ip_country": str,
}


def entity_row(tx: Transaction) -> dict[str, Any]:
    """Return the transaction as one entity row of ``FeatureStore.get_online_features``: five join keys and the request.

    An entity that the transaction does not name has the empty key, since Feast refuses a null one.
    """
    ids = entity_ids(tx)
    keys = {f"{KINDS[kind]}_key": "" if ids[kind] is None else entity_key(tx.tenant_id, str(ids[kind])) for kind in Kind}
    return {**keys, **{field: getattr(tx, field) for field in REQUEST_FIELDS}}


def evaluate_rows(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[float]]:
    """Evaluate the catalogue for each row of Feast's columns; NaN is missing, exactly as in the vector.

    Each feature comes under its name and under ``velocity__name``: asked for full names, Feast picks those out of a Python
    view's result and drops what it cannot find.

    Raises:
        InvalidEvent: a row is not a transaction that can be scored, e.g. for its currency.
        ValueError: a state is damaged or of another version.
    """
    if "card_key" not in columns:
        # Feast infers the schema from made-up values without keys when it applies: there is nothing to evaluate.
        return _named([[float("nan")] * CATALOGUE.size])
    evaluator = Evaluator()
    rows = range(len(columns["card_key"]))
    vectors = [evaluate_vector(_transaction(columns, row), _states(columns, row), evaluator).tolist() for row in rows]
    return _named(vectors)


def _named(vectors: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    columns = dict(zip(CATALOGUE.names, map(list, zip(*vectors, strict=True)), strict=True))
    return columns | {f"{VIEW}__{name}": values for name, values in columns.items()}


def _transaction(columns: Mapping[str, Sequence[Any]], row: int) -> Transaction:
    keys = [columns[f"{kind}_key"][row].partition("|") for kind in KINDS]
    card, user, merchant, device, ip = (key[2] or None for key in keys)
    return Transaction(
        transaction_id="",  # no feature depends on it
        tenant_id=keys[Kind.CARD][0],
        card_id=card or "",
        user_id=user,
        merchant_id=merchant or "",
        device_id=device,
        ip_hash=ip,
        **{field: columns[field][row] for field in REQUEST_FIELDS},
    )


def _states(columns: Mapping[str, Sequence[Any]], row: int) -> list[bytes | None]:
    return [columns[f"{kind}_state"][row] or None for kind in KINDS]
