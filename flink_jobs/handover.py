"""What ``ingest`` has just packed, kept at hand for an ``infer`` in the same process, which need not decode it again.

Both operators are keyed by the home shard, so Flink runs them for one shard in one slot, unless the job is split over two (see
``settings.JobSettings``): then nobody joins, and nothing is kept.  Nothing relies on either: the packed part says everything, and what is
kept here is taken only for the very same bytes.
"""

from __future__ import annotations

from collections import OrderedDict

from flink_jobs.packing import Item

__all__ = ["Handover"]

_CAPACITY = 512  # batches under way between the two operators; what is beyond is decoded


class Handover:
    """Items of batches by home shard and number; shared by the operators of a process."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[int, int], tuple[bytes, list[Item]]] = OrderedDict()
        self._takers: set[object] = set()

    def join(self, taker: object) -> None:
        """Somebody of this process will take what is put from now on."""
        self._takers.add(taker)

    def leave(self, taker: object) -> None:
        """The opposite of :meth:`join`."""
        self._takers.discard(taker)
        if not self._takers:
            self._kept.clear()

    def put(self, shard: int, batch: int, packed: bytes, items: list[Item]) -> None:
        """Keep the items of a packed home part, where somebody will take them; nobody may change them from now on."""
        if not self._takers:
            return
        self._kept[shard, batch] = packed, items
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def take(self, shard: int, batch: int, packed: bytes) -> list[Item] | None:
        """Return the items that were packed to exactly these bytes, once; None when they are not here."""
        kept = self._kept.pop((shard, batch), None)
        return kept[1] if kept is not None and kept[0] == packed else None
