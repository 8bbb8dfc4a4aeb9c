"""How fast a program works off a topic that was filled beforehand: watching its output grow, and the figures that follow.

Times are the broker's: every output record carries the moment at which it was appended, so that nothing has to read along on the
cores that are being measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from serving import ledger

__all__ = ["Drain", "Usage", "busy_s", "figures", "output_size", "sample_tree", "wait_until_drained"]

_POLL_S = 0.5
_SETTLED_S = 3.0  # so long without another record after enough of them: transactions end with markers that count as offsets
_PATIENCE_S = 60.0  # with the broker of a machine that a program has to itself


@dataclass(slots=True)
class Usage:
    """What a program and its children took: seconds of the cores by sample, and the most memory at once."""

    samples: list[tuple[float, float]] = field(default_factory=list)  # (wall clock s, CPU s so far)
    peak_rss_bytes: int = 0

    def add(self, at_s: float, cpu_s: float, rss_bytes: int) -> None:
        """Take in a sample; the CPU seconds of a child that has ended stay counted."""
        self.samples.append((at_s, max(cpu_s, self.samples[-1][1] if self.samples else 0.0)))
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss_bytes)

    def cpu_s(self, start_s: float, end_s: float) -> float:
        """CPU seconds between two moments, by the nearest samples."""
        if not self.samples:
            return 0.0
        first, last = (min(self.samples, key=lambda sample: abs(sample[0] - moment))[1] for moment in (start_s, end_s))
        return last - first


@dataclass(frozen=True, slots=True)
class Drain:
    """When a program was started, when it read its first record, and when each of its outputs was appended, wall clock in seconds.

    ``usage`` is what it took meanwhile, ``foreign`` what took neither it nor the stack that it works on.
    """

    started_s: float
    first_read_s: float
    outputs_s: Sequence[float]
    usage: Usage = field(default_factory=Usage)
    foreign: Usage = field(default_factory=Usage)


def figures(drain: Drain) -> dict[str, float | int | None]:
    """Rates of a drain, events a second; None where there is too little to tell.

    ``events_per_s`` counts from the first record read to the last output and is the one to compare: a program that works in stages
    or in micro-batches holds its outputs back, so that a rate from the first output on flatters it.  ``events_per_s_last_80_percent``
    leaves out the first fifth of the outputs, in which just-in-time compilers warm up.
    """
    outputs = sorted(drain.outputs_s)
    if not outputs:
        return {"outputs": 0, "startup_s": None, "seconds": None, "events_per_s": None}
    fifth = len(outputs) // 5
    return {
        "outputs": len(outputs),
        "startup_s": round(drain.first_read_s - drain.started_s, 2),
        "seconds": round(outputs[-1] - drain.first_read_s, 2),
        "first_output_after_s": round(outputs[0] - drain.first_read_s, 2),
        "events_per_s": _rate(len(outputs), outputs[-1] - drain.first_read_s),
        "events_per_s_from_first_output": _rate(len(outputs) - 1, outputs[-1] - outputs[0]),
        "events_per_s_last_80_percent": _rate(len(outputs) - fifth, outputs[-1] - outputs[fifth]),
    }


def _rate(count: int, seconds: float) -> int | None:
    return round(count / seconds) if seconds > 0 else None


def output_size(bootstrap: str, topic: str) -> int:
    """Records, and markers of transactions, that a topic holds."""
    return sum(place.offset for place in ledger.end_offsets(bootstrap, (topic,), timeout_s=_PATIENCE_S))


def wait_until_drained(
    wanted: int,
    size: Callable[[], int],
    count: Callable[[], int],
    sample: Callable[[], None],
    is_running: Callable[[], bool],
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Watch an output until ``wanted`` records stand in it and it has stopped growing.

    ``size`` is cheap and may count too much (markers of transactions), so ``count`` has the last word; it is asked rarely.

    Returns:
        ``drained``; ``ended`` when the program ended before; ``timeout``.
    """
    deadline_s = clock() + timeout_s
    last, changed_s = -1, clock()
    while clock() < deadline_s:
        now = size()
        if now != last:
            last, changed_s = now, clock()
        if last >= wanted and clock() - changed_s >= _SETTLED_S:
            if count() >= wanted:
                return "drained"
            changed_s = clock()
        if not is_running():
            return "drained" if count() >= wanted else "ended"
        sample()
        sleep(_POLL_S)
    return "timeout"


def sample_tree(pids: Sequence[int]) -> tuple[float, int]:
    """CPU seconds and resident bytes of processes and all their descendants now, each counted once."""
    cpu_s, rss_bytes = 0.0, 0
    family: set[psutil.Process] = set()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            family |= {root, *root.children(recursive=True)}
    for process in family:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu_s += times.user + times.system
            rss_bytes += process.memory_info().rss
    return cpu_s, rss_bytes


def busy_s() -> float:
    """CPU seconds that the whole machine has spent on anything since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)
