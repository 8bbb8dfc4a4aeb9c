"""``python shares.py NICENESS SLICE_US COMMAND…``: become the command, with its share of the processor.

Run as a file by ``infra.processes.start``, before anything of ours can be imported, so it needs the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["ANALYTICS", "FRONT", "STORE", "STREAM", "Share", "main", "take"]


class Share(NamedTuple):
    """How a server shares the processor with the others.

    Niceness is its weight against theirs.  ``slice_us`` is how long it wants to compute at a time, 0 for the kernel's own idea of that:
    who asks for little interrupts, when it wakes up, whoever asked for more, as long as it has not had more than its share.
    """

    niceness: int
    slice_us: int = 0


_SHORT_US = 100  # the least that Linux takes
# A caller waits for the API: ten times the stream's weight, and it waits for nobody's turn.
FRONT = Share(0, _SHORT_US)
# Redis answers both in microseconds and needs no more than its share to do that at once.  With the API's weight it held up the stream:
# Linux balances its cores by weight, so that next to whoever weighs ten times as much little of the stream found a place.
STORE = Share(10, _SHORT_US)
STREAM = Share(10)
ANALYTICS = Share(15)  # a third of the stream's: nobody waits for a row as for a decision

_SESSION_NICENESS = Path("/proc/self/autogroup")
_RETRY_S = 0.1  # the kernel takes one such change in this time from all who are not root
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the system call, which the standard library does not know
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, niceness, priority, and what is the slice here; two more times


def main(share: Share, command: list[str]) -> None:
    """Take the share and execute ``command``; does not return."""
    take(share)
    os.execvp(command[0], command)  # noqa: S606 - the command is the stack's own


def take(share: Share) -> None:
    """Give this process and its session their share; to be called once, in a session of its own."""
    os.nice(share.niceness)
    if sys.platform == "linux":
        _ask_for_slice(share)
        if share.niceness:
            with suppress(OSError):  # a kernel without such groups goes by the niceness of the process
                _weigh_session(share.niceness)


def _ask_for_slice(share: Share) -> None:
    """Linux before 6.12 takes no notice of it, and a sandbox may refuse: both are slower and nothing else."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        asked = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, share.slice_us * 1000, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, asked, 0)


def _weigh_session(niceness: int) -> None:
    """Make this session as nice: a kernel that shares the processor out between sessions compares niceness only inside of each."""
    with _SESSION_NICENESS.open("r+b", buffering=0) as file:
        while file.write(b"%d" % niceness) is None:
            time.sleep(_RETRY_S)


if __name__ == "__main__":
    main(Share(int(sys.argv[1]), int(sys.argv[2])), sys.argv[3:])
