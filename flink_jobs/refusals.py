"""How many records may be refused before the job itself is suspected.

A record that can never be scored goes to the dead letters.  When nearly all of them do, something else is wrong: a bad release of a
producer, or of this job; and going on would empty the topic into the dead letters.  So the job stops, before the batch that was too
much leaves any trace, and what it has not read stays where it is.

The counts are part of a shard's state: an attempt that starts again from a checkpoint cannot begin counting anew, and would stop at the
same record.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "RefusalLimits", "Refusals", "TooManyRefused"]

_HEAD = struct.Struct("<qqq")


class TooManyRefused(RuntimeError):
    """The job must stop until somebody has looked; a restart cannot help."""


@dataclass(frozen=True, slots=True)
class RefusalLimits:
    """What is still taken for bad input, of all shards together: so many in a row, and such a share of the last ``window_records``.

    A shard knows only its own records.  It allows as many refused ones as all shards together may have, but among its share of the
    window, since bad records tend to have one key and so one shard.
    """

    max_run_records: int = 100
    max_share: float = 0.05
    window_records: int = 1_000


DEFAULT_LIMITS = RefusalLimits()


class Refusals:
    """The refused records of one shard.

    Attributes:
        seen: records so far, refused or not.
    """

    def __init__(self, limits: RefusalLimits | None, shards: int) -> None:
        self._limits = limits
        self._max_in_window = 0 if limits is None else round(limits.max_share * limits.window_records)
        self._window = 0 if limits is None else limits.window_records // shards
        self.seen = 0
        self._last = 0  # number of the last refused record
        self._run = 0
        self._recent: deque[int] = deque()  # numbers of the refused records within the window

    def add(self, codes: Sequence[str | None]) -> None:
        """Count a batch: the code of each record that was refused, None for each other one; raises TooManyRefused."""
        if self._limits is not None:
            for number, code in enumerate(codes, start=self.seen + 1):
                if code is not None:
                    self._add_refused(number, code, self._limits)
        self.seen += len(codes)

    def _add_refused(self, number: int, code: str, limits: RefusalLimits) -> None:
        self._run = self._run + 1 if number == self._last + 1 else 1
        self._last = number
        self._recent.append(number)
        while self._recent[0] <= number - self._window:
            self._recent.popleft()
        if self._run > limits.max_run_records:
            raise TooManyRefused(f"{self._run} records in a row were refused, the last as {code}: {_ADVICE}")
        # not before there was a window to take a share of: the run limits the beginning
        if number >= self._window and len(self._recent) > self._max_in_window:
            raise TooManyRefused(f"{len(self._recent)} of the last {self._window} records were refused, the last as {code}: {_ADVICE}")

    def pack(self) -> bytes:
        """For :meth:`restore`."""
        return _HEAD.pack(self.seen, self._last, self._run) + struct.pack(f"<{len(self._recent)}q", *self._recent)

    def restore(self, data: bytes) -> None:
        """Take over what :meth:`pack` wrote; without limits, what was refused is forgiven."""
        self.seen, last, run = _HEAD.unpack_from(data)
        if self._limits is not None:
            self._last, self._run = last, run
            self._recent.extend(struct.unpack(f"<{(len(data) - _HEAD.size) // 8}q", data[_HEAD.size :]))


_ADVICE = "the job stops and reads no further; see its dead letters, then `job start`, or `job start --accept-refused` if they are right"
