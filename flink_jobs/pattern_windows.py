"""Tumbling event-time windows over the ledger, for each tenant, and what is found in them: the core of the pattern job.

The watermark is the smallest of the partitions' newest event times less the out-of-orderness; a partition without a record for
``idle_ms`` of *reading* does not hold it back.  It is kept here and not by Flink, since event time is known only inside a decoded
record, behind the point where Flink has merged the partitions.  When it passes a window's end, the window is looked at and forgotten;
what still comes for it is counted as late.  While the whole ledger is silent the open windows are looked at as they are, and kept: see
docs/adr/0006.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flink_jobs.cores import ByteMap
from flink_jobs.progress import Progress
from fraud.errors import InvalidEvent
from fraud.patterns import Limits, detect
from serving.codec import Codec
from serving.pattern_events import Row, alert_of_finding, pack_rows, row_of, to_window, unpack_rows
from serving.records import Alert

__all__ = ["MAPS", "PatternWindows"]

MAPS = ("windows", "chunks")

_PROGRESS, _WATERMARK = "progress", "watermark"
_LONG_AGO_MS = -(2**61)


@dataclass(slots=True)
class _Window:
    """An open window: ``seen`` of its ``events`` were looked at; ``alerts`` are the identities of those raised already."""

    tenant_id: str
    start_ms: int
    chunks: int = 0
    events: int = 0
    seen: int = 0
    alerts: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.start_ms}|{self.tenant_id}"


class PatternWindows:
    """Batches of ledger records in, alerts out; state is in the maps, and cached here, its only writer.

    Args:
        codec: decodes decisions.
        limits: of the tests.
        window_ms: length of a window.
        partitions: of the ledger, see ``PatternSettings``.
        out_of_orderness_ms: see ``PatternSettings``.
        idle_ms: see ``PatternSettings``.
        count: adds to a counter by name.
    """

    def __init__(
        self,
        codec: Codec,
        limits: Limits,
        *,
        window_ms: int,
        partitions: int,
        out_of_orderness_ms: int,
        idle_ms: int,
        count: Callable[[str, int], None],
    ) -> None:
        self._codec = codec
        self._limits = limits
        self._window_ms = window_ms
        self._partitions = partitions
        self._idle_ms = idle_ms
        self._count = count
        self._progress = Progress(out_of_orderness_ms, idle_ms)
        self._watermark_ms = _LONG_AGO_MS
        self._windows: dict[str, _Window] | None = None

    def process(self, partitions: Sequence[int], values: Sequence[bytes], now_ms: int, maps: Mapping[str, ByteMap]) -> list[Alert]:
        """Take in a batch; returns the alerts of the windows that it closes.  ``now_ms`` is the wall clock."""
        windows = self._restored(maps, now_ms)
        gathered: dict[str, list[Row]] = {}
        for partition, value in zip(partitions, values, strict=True):
            try:
                decision = self._codec.decode_decision(value)
            except InvalidEvent:
                self._count("undecodable", 1)
                continue
            time_ms = decision.event_time_ms
            newest, _ = self._progress.newest.get(partition, (_LONG_AGO_MS, 0))
            self._progress.newest[partition] = (max(newest, time_ms), now_ms)
            start_ms = time_ms - time_ms % self._window_ms
            if start_ms + self._window_ms <= self._watermark_ms:
                self._count("late", 1)
                continue
            window = windows.setdefault(f"{start_ms}|{decision.tenant_id}", _Window(decision.tenant_id, start_ms))
            gathered.setdefault(window.key, []).append(row_of(decision))
        for key, rows in gathered.items():
            window = windows[key]
            maps["chunks"].put(f"{key}|{window.chunks}", pack_rows(rows))
            window.chunks += 1
            window.events += len(rows)
            self._save(window, maps)
        alerts = self._advance(now_ms, maps)
        maps["windows"].put(_PROGRESS, self._progress.pack())
        return alerts

    def look_if_idle(self, now_ms: int, maps: Mapping[str, ByteMap]) -> list[Alert] | None:
        """Look at every open window if the ledger has been silent for ``idle_ms``, and keep it; None when it has not been."""
        windows = self._restored(maps, now_ms)
        last_read_ms = max((read for _, read in self._progress.newest.values()), default=now_ms)
        if now_ms - last_read_ms < self._idle_ms:
            return None
        alerts: list[Alert] = []
        for window in _in_order(windows.values()):
            if window.seen < window.events:
                alerts += self._look(window, maps)
                self._save(window, maps)
        return alerts

    def _advance(self, now_ms: int, maps: Mapping[str, ByteMap]) -> list[Alert]:
        """Move the watermark on, never back, and close what it has passed."""
        reached = self._progress.watermark_ms(now_ms)
        if reached is None or reached <= self._watermark_ms:
            return []
        self._watermark_ms = reached
        maps["windows"].put(_WATERMARK, reached.to_bytes(8, "little", signed=True))
        alerts: list[Alert] = []
        windows = self._restored(maps, now_ms)
        for window in _in_order(windows.values()):
            if window.start_ms + self._window_ms <= reached:
                if window.seen < window.events:
                    alerts += self._look(window, maps)
                self._forget(window, maps)
                del windows[window.key]
        return alerts

    def _look(self, window: _Window, maps: Mapping[str, ByteMap]) -> list[Alert]:
        """Search a window as it is; returns the alerts that it has not raised before."""
        end_ms = window.start_ms + self._window_ms
        events, findings = detect(to_window(window.tenant_id, window.start_ms, end_ms, self._chunks(window, maps)), self._limits)
        alerts = [alert_of_finding(finding, events) for finding in findings if finding.finding_id not in window.alerts]
        window.seen = window.events
        window.alerts += [alert.alert_id for alert in alerts]
        self._count("windows_searched", 1)
        self._count("alerts", len(alerts))
        return alerts

    @staticmethod
    def _chunks(window: _Window, maps: Mapping[str, ByteMap]) -> Iterator[list[Row]]:
        for number in range(window.chunks):
            chunk = maps["chunks"].get(f"{window.key}|{number}")
            assert chunk is not None, "a chunk of an open window is in state"
            yield unpack_rows(chunk)

    @staticmethod
    def _save(window: _Window, maps: Mapping[str, ByteMap]) -> None:
        body = [window.tenant_id, window.start_ms, window.chunks, window.events, window.seen, window.alerts]
        maps["windows"].put(window.key, json.dumps(body).encode())

    @staticmethod
    def _forget(window: _Window, maps: Mapping[str, ByteMap]) -> None:
        for number in range(window.chunks):
            maps["chunks"].remove(f"{window.key}|{number}")
        maps["windows"].remove(window.key)

    def _restored(self, maps: Mapping[str, ByteMap], now_ms: int) -> dict[str, _Window]:
        """The open windows; read from state once.  Partitions count as read just now: none is idle because the job was down."""
        if self._windows is None:
            self._windows = {}
            for key, data in maps["windows"].items():
                if key == _PROGRESS:
                    self._progress.restore(data)
                elif key == _WATERMARK:
                    self._watermark_ms = int.from_bytes(data, "little", signed=True)
                else:
                    self._windows[key] = _Window(*json.loads(data))
            known = self._progress.newest
            for partition in {*range(self._partitions), *known}:
                known[partition] = (known.get(partition, (_LONG_AGO_MS, 0))[0], now_ms)
        return self._windows


def _in_order(windows: Iterable[_Window]) -> list[_Window]:
    return sorted(windows, key=lambda window: (window.start_ms, window.tenant_id))
