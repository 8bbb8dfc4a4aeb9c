"""The online store fed from beside the stream: the operator hands over states and never waits for Redis.

One thread writes what has changed every ``interval_s``, of each entity the newest state, in one round trip where it fits.  The
stream's micro-batches are a few events each at low rates, and a round trip for each of them was most of what they cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from serving.online_writer import BufferedWriter

__all__ = ["OnlineFeed"]

INTERVAL_S = 0.05  # the store is then current within a tenth of a second


class OnlineFeed:
    """Takes states from one operator and writes them through ``writer``, which belongs to the feed's thread alone.

    ``report`` is called on that thread after every write, with the writer as it stands.
    """

    def __init__(
        self,
        writer: BufferedWriter,
        interval_s: float = INTERVAL_S,
        *,
        report: Callable[[BufferedWriter], None] = lambda _writer: None,
    ) -> None:
        self._writer = writer
        self._report = report
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._changed: dict[tuple[int, str], tuple[bytes, int, int]] = {}
        self._stopping = threading.Event()
        # a daemon: a task that Flink ends without closing must not keep its process
        self._thread = threading.Thread(target=self._run, name="online-feed", daemon=True)
        self._thread.start()

    def put(self, kind: int, key: str, state: bytes, seq: int, event_time_ms: int) -> None:
        """Hand over the newest state of an entity."""
        with self._lock:
            self._changed[kind, key] = state, seq, event_time_ms

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
        for (kind, key), (state, seq, event_time_ms) in changed.items():
            self._writer.put(kind, key, state, seq, event_time_ms)
        self._writer.flush()
        self._report(self._writer)
