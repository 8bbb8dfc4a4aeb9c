"""The payloads that travel between the operators of the scoring job: one value a batch, not one an event.

A batch starts in ``ingest`` under its home shard and a number. Each shard that owns some of its entities gets one observation
part, and answers ``infer`` with one feature part; the home part, which ``infer`` needs besides, travels with the home shard's
own observations and answer. Every part carries the batch's number, its own index and the number of parts, so ``infer`` can tell
from any of them when the batch is whole.

Fixed-width columns are numpy arrays, so packing and unpacking cost a few microseconds a batch. These bytes live in flight and
in checkpoints only; they are no contract with anybody outside the job, and ``PACKING_VERSION`` guards a restore.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fraud.events import Transaction
from fraud.kernel import EVENT_WORDS

__all__ = [
    "PACKING_VERSION",
    "ControlPart",
    "Entry",
    "FeaturePart",
    "HomePart",
    "Item",
    "ItemKind",
    "ObservationPart",
    "PartHeader",
    "join_home",
    "pack_names",
    "peek_header",
    "unpack_home",
    "unpack_names",
]

PACKING_VERSION = 3
_HEADER = struct.Struct("<BcHHHq")  # version, part type, home shard, part index, parts, batch
_COUNTS = struct.Struct("<III")
_SIZE = struct.Struct("<I")


def pack_names(names: Sequence[str]) -> bytes:
    """Names of features in their order."""
    return ",".join(names).encode()


def unpack_names(packed: bytes) -> tuple[str, ...]:
    """Take apart what :func:`pack_names` joined."""
    return tuple(packed.decode().split(",")) if packed else ()


@dataclass(slots=True)
class ControlPart:
    """A rule set or a model, ``kind`` saying which, on its way through the home shard to ``infer``.

    It is in force from the batch of the header on: the first whose features ``ingest`` has computed for it.
    """

    header: PartHeader
    kind: str
    body: bytes | None

    def pack(self) -> bytes:
        kind = self.kind.encode()
        return b"".join((self.header.pack(b"C"), _COUNTS.pack(len(kind), self.body is not None, 0), kind, self.body or b""))

    @classmethod
    def unpack(cls, payload: bytes) -> ControlPart:
        _, header = peek_header(payload)
        length, has_body, _ = _COUNTS.unpack_from(payload, _HEADER.size)
        at = _HEADER.size + _COUNTS.size
        return cls(header, payload[at : at + length].decode(), payload[at + length :] if has_body else None)


class ItemKind(IntEnum):
    """What an input record became."""

    TRANSACTION = 0
    LABEL = 1
    DEAD_LETTER = 2
    ERASURE = 3


class Entry(IntEnum):
    """What an observation enters into the log of its entity."""

    EVENT = 0
    LABEL = 1
    ERASURE = 2


@dataclass(slots=True, frozen=True)
class PartHeader:
    """Which part of which batch: ``index`` 0 is the home part."""

    home_shard: int
    batch: int
    index: int
    parts: int

    def pack(self, part_type: bytes) -> bytes:
        return _HEADER.pack(PACKING_VERSION, part_type, self.home_shard, self.index, self.parts, self.batch)


def peek_header(payload: bytes) -> tuple[bytes, PartHeader]:
    """Return a payload's type (``b"H"``, ``b"O"``, ``b"F"`` or ``b"C"``) and header; ValueError for another version."""
    version, part_type, home_shard, index, parts, batch = _HEADER.unpack_from(payload)
    if version != PACKING_VERSION:
        raise ValueError(f"a part of packing version {version}; this job reads {PACKING_VERSION}")
    return part_type, PartHeader(home_shard, batch, index, parts)


def join_home(home: bytes, companion: bytes) -> bytes:
    """Join a packed home part and what travels beside it."""
    return b"".join((home, companion, _SIZE.pack(len(home))))


def unpack_home(payload: bytes) -> tuple[bytes, bytes]:
    """Take apart what :func:`join_home` joined: the home part, still packed, and its companion."""
    (size,) = _SIZE.unpack_from(payload, len(payload) - _SIZE.size)
    return payload[:size], payload[size : -_SIZE.size]


def _pack_blobs(blobs: Sequence[bytes]) -> bytes:
    sizes = np.fromiter(map(len, blobs), dtype=np.uint32, count=len(blobs))
    return sizes.tobytes() + b"".join(blobs)


def _unpack_blobs(payload: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    sizes = np.frombuffer(payload, dtype=np.uint32, count=count, offset=at).tolist()
    at += 4 * count
    blobs = []
    for size in sizes:
        blobs.append(payload[at : at + size])
        at += size
    return blobs, at


@dataclass(slots=True)
class Item:
    """One record of the batch: ``body`` is its framed Avro value: the sanitised transaction, the label, the dead letter or the erasure.

    ``card_seq`` is the number of the card's log after it, ``features`` the event's and card's columns, then the card's extra ones
    (transactions only).
    """

    kind: ItemKind
    body: bytes
    card_seq: int = 0
    late: bool = False
    timestamp_ms: int = 0
    features: NDArray[np.float64] | None = None
    transaction: Transaction | None = None  # decoded from ``body``; does not travel


@dataclass(slots=True)
class HomePart:
    """What ``infer`` needs of a batch besides its entities' features."""

    header: PartHeader
    items: list[Item]

    def pack(self) -> bytes:
        items = self.items
        table = np.array([(item.kind, item.late, item.card_seq, item.timestamp_ms) for item in items], dtype=np.int64)
        features = [item.features for item in items if item.features is not None]
        width = len(features[0]) if features else 0
        return b"".join(
            (
                self.header.pack(b"H"),
                _COUNTS.pack(len(items), len(features), width),
                table.tobytes(),
                b"".join(row.tobytes() for row in features),
                _pack_blobs([item.body for item in items]),
            )
        )

    @classmethod
    def unpack(cls, payload: bytes) -> HomePart:
        _, header = peek_header(payload)
        at = _HEADER.size
        count, rows, width = _COUNTS.unpack_from(payload, at)
        at += _COUNTS.size
        table = np.frombuffer(payload, dtype=np.int64, count=4 * count, offset=at).reshape(count, 4).tolist()
        at += 32 * count
        features = iter(np.frombuffer(payload, dtype=np.float64, count=rows * width, offset=at).reshape(rows, width))
        at += 8 * rows * width
        bodies, _ = _unpack_blobs(payload, at, count)
        items = [
            Item(ItemKind(kind), body, seq, bool(late), timestamp_ms, next(features) if kind == ItemKind.TRANSACTION else None)
            for (kind, late, seq, timestamp_ms), body in zip(table, bodies, strict=True)
        ]
        return cls(header, items)


@dataclass(slots=True)
class ObservationPart:
    """What one shard's entities have to observe of a batch, in the batch's order.

    ``table`` is ``int64[n, 3]``: item of the batch, entity kind, row of ``rows``; ``keys`` names the entities; ``rows`` is
    ``int64[m, EVENT_WORDS]``, an event row or, for a label, its (transaction time, transaction hash, fraud) in the first words;
    an erasure's says nothing.  ``entries`` tells which of :class:`Entry` each observation is; ``extra`` names the features beyond the
    catalogue that are asked for.
    """

    header: PartHeader
    table: NDArray[np.int64]
    entries: NDArray[np.uint8]
    keys: list[str]
    rows: NDArray[np.int64]
    extra: tuple[str, ...] = ()

    def pack(self) -> bytes:
        extra = pack_names(self.extra)
        return b"".join(
            (
                self.header.pack(b"O"),
                _COUNTS.pack(len(self.keys), len(self.rows), len(extra)),
                self.table.tobytes(),
                self.rows.tobytes(),
                self.entries.tobytes(),
                _pack_blobs([key.encode() for key in self.keys]),
                extra,
            )
        )

    @classmethod
    def unpack(cls, payload: bytes) -> ObservationPart:
        _, header = peek_header(payload)
        at = _HEADER.size
        count, rows, names = _COUNTS.unpack_from(payload, at)
        at += _COUNTS.size
        table = np.frombuffer(payload, dtype=np.int64, count=3 * count, offset=at).reshape(count, 3)
        at += 24 * count
        # a copy: the kernel's signature asks for a writable array
        events = np.frombuffer(payload, dtype=np.int64, count=EVENT_WORDS * rows, offset=at).reshape(rows, EVENT_WORDS).copy()
        at += 8 * EVENT_WORDS * rows
        entries = np.frombuffer(payload, dtype=np.uint8, count=count, offset=at)
        at += count
        keys, at = _unpack_blobs(payload, at, count)
        return cls(header, table, entries, [key.decode() for key in keys], events, unpack_names(payload[at : at + names]))


@dataclass(slots=True)
class FeaturePart:
    """A shard's answer: ``table`` is ``int64[n, 3]`` (item, kind, seq); ``values`` the kinds' columns one after the other.

    A kind's extra columns, where some are asked for, follow its own.

    A label or an erasure has a row in ``table`` and no values: ``widths[n]`` says how many values each row has.
    """

    header: PartHeader
    table: NDArray[np.int64]
    widths: NDArray[np.int64]
    values: NDArray[np.float64]

    def pack(self) -> bytes:
        return b"".join(
            (
                self.header.pack(b"F"),
                _COUNTS.pack(len(self.table), len(self.values), 0),
                self.table.tobytes(),
                self.widths.tobytes(),
                self.values.tobytes(),
            )
        )

    @classmethod
    def unpack(cls, payload: bytes) -> FeaturePart:
        _, header = peek_header(payload)
        at = _HEADER.size
        count, values, _ = _COUNTS.unpack_from(payload, at)
        at += _COUNTS.size
        table = np.frombuffer(payload, dtype=np.int64, count=3 * count, offset=at).reshape(count, 3)
        at += 24 * count
        widths = np.frombuffer(payload, dtype=np.int64, count=count, offset=at)
        at += 8 * count
        return cls(header, table, widths, np.frombuffer(payload, dtype=np.float64, count=values, offset=at))
