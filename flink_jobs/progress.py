"""How far event time has come, per shard and source partition, and what is late against it.

The watermark of a shard is the smallest of its partitions' newest event times, less the out-of-orderness that is allowed; a
partition that has been silent for ``idle_ms`` of broker time does not hold it back.  Everything here is a function of the
records in their order, the broker's append times included, so a record is late again when it is read again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

__all__ = ["Progress"]

_ENTRY = struct.Struct("<Hqq")


@dataclass(slots=True)
class Progress:
    """Event-time progress of one shard: ``newest`` maps a partition to its newest (event time, append time), ms UTC."""

    out_of_orderness_ms: int
    idle_ms: int
    newest: dict[int, tuple[int, int]] = field(default_factory=dict)

    def is_late(self, partition: int, event_time_ms: int, append_time_ms: int) -> bool:
        """Enter an event and tell whether it came behind the watermark that stood before it."""
        watermark = self.watermark_ms(append_time_ms)
        newest, _ = self.newest.get(partition, (event_time_ms, 0))
        self.newest[partition] = (max(newest, event_time_ms), append_time_ms)
        return watermark is not None and event_time_ms < watermark

    def watermark_ms(self, append_time_ms: int) -> int | None:
        """The shard's watermark at a broker time; None before its first event."""
        active = [event for event, append in self.newest.values() if append_time_ms - append <= self.idle_ms]
        times = active or [event for event, _ in self.newest.values()]
        if not times:
            return None
        # with every partition idle the furthest one tells how far time had come
        return (min(times) if active else max(times)) - self.out_of_orderness_ms

    def pack(self) -> bytes:
        entries = (_ENTRY.pack(partition, *times) for partition, times in sorted(self.newest.items()))
        return b"".join(entries)

    def restore(self, data: bytes) -> None:
        """Take over what :meth:`pack` wrote."""
        self.newest = {partition: (event, append) for partition, event, append in _ENTRY.iter_unpack(data)}
