"""Signed requests: an API key's owner proves method, path, time and body with a secret that never travels.

The signature is HMAC-SHA-256, in hexadecimal, over five lines: ``v1``, the method, the path with its query as sent, the time in
seconds since 1970, and the SHA-256 of the body.  It goes into ``X-Signature``, the time into ``X-Signature-Time``.  A request is
good for five minutes; what a repeat within them can do, idempotency settles.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256

from api.identity import Unauthenticated

__all__ = ["SIGNATURE_HEADER", "TIME_HEADER", "check", "secret_of", "sign"]

SIGNATURE_HEADER, TIME_HEADER = "x-signature", "x-signature-time"
MAX_AGE_S = 300
MAX_AHEAD_S = 30


def secret_of(master: str, key_id: str) -> str:
    """The signing secret of an API key: derived, so that no list of secrets lies anywhere."""
    return hmac.digest(master.encode(), f"request-signing\0{key_id}".encode(), "sha256").hex()


def sign(secret: str, method: str, target: str, time_s: int, body: bytes) -> str:
    """The signature of a request; ``target`` is the path with its query, as it stands in the request line."""
    lines = f"v1\n{method.upper()}\n{target}\n{time_s}\n{sha256(body).hexdigest()}"
    return hmac.digest(secret.encode(), lines.encode(), "sha256").hex()


def check(secret: str, method: str, target: str, headers: Mapping[str, str], body: bytes, now_s: float) -> None:
    """Refuse a request that is not signed, signed otherwise, or older than five minutes; raises Unauthenticated."""
    time_text, signature = headers.get(TIME_HEADER, ""), headers.get(SIGNATURE_HEADER, "")
    if not (time_text.isascii() and time_text.isdigit() and len(time_text) <= 11 and signature.isascii()):
        raise Unauthenticated
    if not -MAX_AHEAD_S <= now_s - int(time_text) <= MAX_AGE_S:
        raise Unauthenticated
    if not hmac.compare_digest(sign(secret, method, target, int(time_text), body), signature):
        raise Unauthenticated
