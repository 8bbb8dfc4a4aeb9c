"""Which entities a subtask's state may hold, so that nobody asks the state for one that was never there.

A read of the state leaves Python, and coming back it waits for the interpreter like everybody else; most reads were of cards, devices
and addresses that nobody had seen before.  This is a Bloom filter (B. H. Bloom, "Space/time trade-offs in hash coding with allowable
errors", CACM 13(7), 1970): it may take a stranger for an acquaintance, which costs a read, and never the reverse.

It says nothing before it has been told of every entity: those of the state when the operator opened by whoever reads the state
through, and those that come later by their only writer.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["KnownEntities"]

_BITS = 1 << 27  # 16 MiB: one stranger in a hundred is taken for an acquaintance at 13 million entities
_MASK = _BITS - 1
_PROBES = range(4)


class KnownEntities:
    """The entities of all shards of one operator instance."""

    def __init__(self) -> None:
        self._bits = bytearray(_BITS // 8)
        self._unread: set[int] | None = None  # shards whose state has not been read through; None: not known which there are

    def own(self, shards: Iterable[int]) -> None:
        """These shards' state is this instance's; called once, before anything else."""
        self._unread = set(shards)

    def read_through(self, shard: int) -> None:
        """Everything that the shard's state holds has been added."""
        if self._unread is not None:
            self._unread.discard(shard)

    def add(self, kind: int, key: str) -> bool:
        """The state holds this entity, or will; returns whether it certainly had not been added."""
        bits, is_new = self._bits, False
        at, step = _hashes(kind, key)
        for _ in _PROBES:
            byte, bit = bits[at >> 3], 1 << (at & 7)
            if not byte & bit:
                is_new = True
                bits[at >> 3] = byte | bit
            at = (at + step) & _MASK
        return is_new

    def is_new(self, kind: int, key: str) -> bool:
        """Whether the state certainly does not hold it; it is added, since who asks will write it."""
        return self.add(kind, key) and self._unread is not None and not self._unread


def _hashes(kind: int, key: str) -> tuple[int, int]:
    """Where to begin, and an odd number to go on by (A. Kirsch, M. Mitzenmacher, "Less hashing, same performance", ESA 2006)."""
    hashed = hash((kind, key))  # of this process: the filter lives as long
    return hashed & _MASK, (hashed >> 31) | 1
