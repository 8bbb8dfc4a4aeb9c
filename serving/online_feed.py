"""The online store fed from beside the stream: the operator hands over states and never waits for Redis.

One thread writes what has changed every ``interval_s``, of each entity the newest state, in one round trip where it fits.  The
stream's micro-batches are a few events each at low rates, and a round trip for each of them was most of what they cost.

States that the store lost (``serving.online_healing``) come in beside, at whatever pace the feed has room for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from serving.online_healing import Healing
from serving.online_store import EntityRow
from serving.online_writer import CHUNK_ROWS, BufferedWriter

__all__ = ["OnlineFeed"]

INTERVAL_S = 0.05  # the store is then current within a tenth of a second
# Of states put again, as many wait at a time: enough for an interval, and the newest states behind them wait for 80 ms of writing at most.
ROOM_ROWS = 4 * CHUNK_ROWS


class OnlineFeed:
    """Takes states from one operator and writes them through ``writer``, which belongs to the feed's thread alone.

    ``report`` is called on that thread after every write, with the writer as it stands.  Without ``healing`` the store keeps only
    what it is given once.
    """

    def __init__(
        self,
        writer: BufferedWriter,
        interval_s: float = INTERVAL_S,
        *,
        report: Callable[[BufferedWriter], None] = lambda _writer: None,
        healing: Healing | None = None,
    ) -> None:
        self._writer = writer
        self._healing = healing
        self._report = report
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._changed: dict[tuple[int, str], tuple[bytes, int, int]] = {}
        self._again: list[EntityRow] = []
        self._ended: list[tuple[int, int]] = []
        self._waiting = 0  # rows in the writer, as of its last write
        self._stopping = threading.Event()
        # a daemon: a task that Flink ends without closing must not keep its process
        self._thread = threading.Thread(target=self._run, name="online-feed", daemon=True)
        self._thread.start()

    def put(self, kind: int, key: str, state: bytes, seq: int, event_time_ms: int) -> None:
        """Hand over the newest state of an entity."""
        with self._lock:
            self._changed[kind, key] = state, seq, event_time_ms

    def own(self, shards: Sequence[int]) -> None:
        """These shards' states come through this feed."""
        if self._healing is not None:
            self._healing.own(shards)

    def wanted(self, shard: int) -> int:
        """Number of the attempt for which all states of a shard are to be put again; 0 when the store has them."""
        return 0 if self._healing is None else self._healing.wanted(shard)

    def room(self) -> int:
        """How many states may be put again now."""
        return ROOM_ROWS - len(self._again) - self._waiting

    def put_again(self, rows: Sequence[EntityRow]) -> None:
        """Hand over states that the store may have lost; where a newer one waits, that one is written."""
        with self._lock:
            self._again += rows

    def end_again(self, shard: int, number: int) -> None:
        """All states of a shard have been put again, for the attempt that :meth:`wanted` named."""
        with self._lock:
            self._ended.append((shard, number))

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left and end the thread."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
            again, self._again = self._again, []
            ended, self._ended = self._ended, []
        for row in again:
            self._writer.put_again(row)
        for (kind, key), (state, seq, event_time_ms) in changed.items():
            self._writer.put(kind, key, state, seq, event_time_ms)
        is_written = self._writer.flush()
        self._waiting = self._writer.waiting
        if self._healing is not None:
            for shard, number in ended:
                self._healing.handed_over(shard, number)
            self._healing.tend(self._writer.epoch, self._writer.dropped, is_written=is_written)
        self._report(self._writer)
