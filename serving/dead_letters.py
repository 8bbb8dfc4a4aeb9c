"""What of a refused record may be kept in its dead letter.

A transaction that decodes but says something wrong still carries a raw address, which must not reach anything durable of ours.
The record itself stays in the source topic, where the dead letter's origin points, until that topic's retention ends.
"""

from __future__ import annotations

from fraud.errors import InvalidEvent, Unavailable
from serving.codec import Codec
from serving.enrich import Enricher

__all__ = ["storable_transaction"]


def storable_transaction(value: bytes | None, codec: Codec, enricher: Enricher) -> bytes | None:
    """Value of the topic ``transactions`` with its raw address replaced by the hash; None where that cannot be done.

    Bytes that do not decode may hold an address anywhere, so nothing of them is kept.
    """
    try:
        tx = codec.decode_transaction(value)
    except (InvalidEvent, Unavailable):
        return None
    enricher.redact(tx)
    return codec.encode_transaction(tx)
