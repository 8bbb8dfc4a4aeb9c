"""What of a refused record may be kept in its dead letter.

A transaction that decodes but says something wrong still carries a raw address, which must not reach anything durable of ours; and
whoever sends what is wrong may send a card number, which must not either.
The record itself stays in the source topic, where the dead letter's origin points, until that topic's retention ends.
"""

from __future__ import annotations

from fraud.errors import InvalidEvent, Unavailable
from fraud.events import Transaction
from serving.card_numbers import has_card_number
from serving.codec import MAX_VALUE_BYTES, Codec
from serving.enrich import Enricher

__all__ = ["storable_key", "storable_other", "storable_transaction"]


def storable_transaction(value: bytes | None, codec: Codec, enricher: Enricher) -> bytes | None:
    """Value of the topic ``transactions`` with its raw address replaced by the hash; None where that cannot be done.

    Bytes that do not decode may hold an address anywhere, so nothing of them is kept.
    """
    try:
        tx = codec.decode_transaction(value)
    except (InvalidEvent, Unavailable):
        return None
    texts = (text for name in Transaction.__slots__ if isinstance(text := getattr(tx, name), str))
    if any(map(has_card_number, texts)):
        return None
    enricher.redact(tx)
    return codec.encode_transaction(tx)


def storable_other(value: bytes | None) -> bytes | None:
    """Value of a label or an erasure; None where it is too large, or where something in it reads like a card number."""
    if value is None or len(value) > MAX_VALUE_BYTES // 2:
        return None
    return storable_key(value)


def storable_key(key: bytes | None) -> bytes | None:
    """Key of a record; None where something in it reads like a card number."""
    return None if key is None or has_card_number(key.decode("latin-1")) else key
