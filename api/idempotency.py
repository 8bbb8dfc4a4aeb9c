"""One answer a transaction: the first one, byte for byte, for a day, whoever asks again and how often.

An answer lies in Redis under tenant and transaction; while it is being made, a claim stands in its place.  A record is

* ``P``, fingerprint, token: claimed by the request that the token names, for at most ``LEASE_MS``;
* ``A``, fingerprint, answer: answered.

The fingerprint is a keyed hash of what was asked, 16 bytes.  A caller's own ``Idempotency-Key`` is a second record, which holds the
fingerprint alone: one key stands for one question.  This module builds commands and reads replies, so that a request can send them
together with others; it does not talk to Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b, sha1
from secrets import token_bytes
from typing import Any

from fraud.events import entity_key
from serving.redis_link import Command

__all__ = ["ANSWER_TTL_MS", "FINISH_SCRIPT", "LEASE_MS", "Claim", "Claimed", "Claims", "Standing"]

ANSWER_TTL_MS = 86_400_000
LEASE_MS = 2_000  # forty times what an answer may take; what a killed process had claimed is free after it
_FINGERPRINT_BYTES, _TOKEN_BYTES, _MAX_KEY_BYTES = 16, 8, 64
_PENDING, _ANSWERED = b"P", b"A"
_HEADER = 1 + _FINGERPRINT_BYTES

# KEYS: the record. ARGV: the claim, the answered record or "" to give the claim back, milliseconds to keep it. Returns the answer that
# stands already: a claim whose lease ran out may have been answered by somebody else, and the first answer counts.
FINISH_SCRIPT = """
local found = redis.call("GET", KEYS[1])
if found and string.sub(found, 1, 1) == "A" then return found end
if ARGV[2] ~= "" then redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[3])
elseif found == ARGV[1] then redis.call("DEL", KEYS[1]) end
return false
"""
FINISH_SHA = sha1(FINISH_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Standing(Enum):
    """What a claim has met."""

    OURS = auto()  # to be answered now, by us
    ANSWERED = auto()
    IN_PROGRESS = auto()  # somebody else is at it
    OTHER_CONTENT = auto()  # the transaction, or the key, has stood for something else


@dataclass(frozen=True, slots=True)
class Claim:
    """A question as it is claimed."""

    record: str
    fingerprint: bytes
    pending: bytes
    key_record: str | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """How a claim stands, with the first answer when there is one."""

    standing: Standing
    answer: bytes | None = None


class Claims:
    """Makes and reads the records of one installation.

    Args:
        secret: keys the fingerprints, so that they cannot be guessed back to what was asked.
        project: prefix of every Redis key.
    """

    def __init__(self, secret: bytes, project: str = "fraudguard") -> None:
        self._secret = secret[:_MAX_KEY_BYTES]
        self._project = project

    def claim(self, tenant_id: str, transaction_id: str, content: bytes, key: str | None) -> Claim:
        """Prepare the claim of a transaction with ``content``, under the caller's own ``key`` if it sent one."""
        fingerprint = blake2b(content, digest_size=_FINGERPRINT_BYTES, key=self._secret).digest()
        return Claim(
            record=f"{self._project}:answer:{entity_key(tenant_id, transaction_id)}",
            fingerprint=fingerprint,
            pending=_PENDING + fingerprint + token_bytes(_TOKEN_BYTES),
            key_record=None if key is None else f"{self._project}:idempotency-key:{entity_key(tenant_id, key)}",
        )

    @staticmethod
    def take(claim: Claim) -> list[Command]:
        """Commands that claim a transaction, or show what stands there; :meth:`read` reads as many replies."""
        commands: list[Command] = [
            ("SET", claim.record, claim.pending, "NX", "PX", LEASE_MS),
            ("GET", claim.record),
        ]
        if claim.key_record is not None:
            commands += [("SET", claim.key_record, claim.fingerprint, "NX", "PX", ANSWER_TTL_MS), ("GET", claim.key_record)]
        return commands

    @staticmethod
    def look(claim: Claim) -> list[Command]:
        """The command that shows how a claim of somebody else stands by now; for :meth:`read_again`."""
        return [("GET", claim.record)]

    @classmethod
    def read(cls, claim: Claim, replies: list[Any]) -> Claimed:
        """How the claim stands after :meth:`take`."""
        if claim.key_record is not None and replies[3] not in (None, claim.fingerprint):
            return Claimed(Standing.OTHER_CONTENT)
        return cls.read_again(claim, replies[1])

    @staticmethod
    def read_again(claim: Claim, record: bytes | None) -> Claimed:
        """How the claim stands, by the record."""
        if record == claim.pending:
            return Claimed(Standing.OURS)
        if record is None:  # it ran out, or was given back, between two looks
            return Claimed(Standing.IN_PROGRESS)
        if record[1:_HEADER] != claim.fingerprint:
            return Claimed(Standing.OTHER_CONTENT)
        return Claimed(Standing.ANSWERED, record[_HEADER:]) if record[:1] == _ANSWERED else Claimed(Standing.IN_PROGRESS)

    @staticmethod
    def finish(claim: Claim, answer: bytes) -> Command:
        """The command that puts the answer in the place of the claim; :meth:`standing_answer` reads its reply."""
        record = _ANSWERED + claim.fingerprint + answer
        return ("EVALSHA", FINISH_SHA, 1, claim.record, claim.pending, record, ANSWER_TTL_MS)

    @staticmethod
    def give_back(claim: Claim) -> Command:
        """The command that removes the claim of a question that was not answered."""
        return ("EVALSHA", FINISH_SHA, 1, claim.record, claim.pending, b"", 0)

    @staticmethod
    def standing_answer(reply: bytes | None) -> bytes | None:
        """The answer that was there before ours, if there was one."""
        return None if reply is None else reply[_HEADER:]
