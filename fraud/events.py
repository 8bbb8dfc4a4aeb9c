"""The transaction and the label as the core sees them, and the identities derived from them.

Flat records with ``None`` for missing.  Decoding and validation of untrusted input happen in ``serving``; what arrives here is
well-formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b, sha256

__all__ = ["KINDS", "Entity", "Kind", "Label", "Transaction", "decision_id", "entities_of", "entity_ids", "entity_key", "hash64"]


class Kind(IntEnum):
    """The entities that own a log, in the order of the feature vector and of every per-entity array."""

    CARD = 0
    USER = 1
    MERCHANT = 2
    DEVICE = 3
    IP = 4


KINDS = tuple(kind.name.lower() for kind in Kind)
Entity = tuple[int, str]  # number of the kind, and "tenant|id" as :func:`entity_key` makes it


@dataclass(slots=True)
class Transaction:
    """One authorisation request: amounts in minor units of ``currency``, times in milliseconds UTC, positions in degrees."""

    transaction_id: str
    tenant_id: str
    card_id: str
    merchant_id: str
    amount_minor: int
    currency: str
    event_time_ms: int
    user_id: str | None = None
    device_id: str | None = None
    # Raw on the way in only: enrichment replaces it by ip_hash before anything durable of ours.
    ip_address: str | None = None
    ip_hash: str | None = None
    ip_country: str | None = None
    ip_region: str | None = None
    ip_asn: int | None = None
    ip_lat: float | None = None
    ip_lon: float | None = None
    transaction_type: str = "purchase"
    channel: str | None = None
    declined: bool = False
    merchant_name: str | None = None
    merchant_mcc: int | None = None
    merchant_country: str | None = None
    lat: float | None = None
    lon: float | None = None
    city: str | None = None
    country: str | None = None
    card_type: str | None = None
    card_country: str | None = None
    card_age_days: int | None = None
    billing_lat: float | None = None
    billing_lon: float | None = None
    billing_country: str | None = None
    batch_id: str | None = None
    # Known only of synthetic or historical data; never an input of a feature, a rule or a model.
    is_fraud: bool | None = None
    scenario: str | None = None
    # The API's decision as it travels with the transaction, framed; the core does not look into it.
    decided: bytes | None = None


@dataclass(slots=True)
class Label:
    """What became known later about a transaction: a chargeback, an analyst's verdict, a customer's report.

    ``label_time_ms`` is when it became known; ``transaction_time_ms``, ``card_id``, ``user_id`` and ``merchant_id`` repeat the
    transaction's, as a chargeback message does, so that a label finds its entities without a lookup.
    """

    transaction_id: str
    tenant_id: str
    card_id: str
    merchant_id: str
    transaction_time_ms: int
    label_time_ms: int
    is_fraud: bool
    user_id: str | None = None
    source: str = "chargeback"


def decision_id(tenant_id: str, transaction_id: str) -> str:
    """Name the one decision of a transaction: the same by both doors, twice, and after a restart."""
    digest = sha256(f"{tenant_id}\0{transaction_id}".encode()).hexdigest()
    return f"dec-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def entity_key(tenant_id: str, entity_id: str) -> str:
    """Key of an entity's state, in Flink as in the online store: the tenant comes first."""
    return f"{tenant_id}|{entity_id}"


def entity_ids(tx: Transaction) -> tuple[str, str | None, str, str | None, str | None]:
    """Return the transaction's entity ids in the order of :class:`Kind`; ``None`` where it has none."""
    return (tx.card_id, tx.user_id, tx.merchant_id, tx.device_id, tx.ip_hash)


def entities_of(tx: Transaction) -> list[Entity]:
    """The entities that a transaction names, in the order of :class:`Kind`."""
    return [(kind, entity_key(tx.tenant_id, entity)) for kind, entity in enumerate(entity_ids(tx)) if entity is not None]


def hash64(text: str) -> int:
    """64-bit BLAKE2b of a string as a signed integer, never 0, so that 0 can stand for "none" inside the kernel."""
    value = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
    return value or 1
