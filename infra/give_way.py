"""``python give_way.py NICENESS COMMAND…``: become the command, behind whoever has a caller waiting for its answer.

Run as a file by ``infra.processes.start``, before anything of ours can be imported, so it needs the standard library only.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["ANALYTICS", "STREAM", "give_way", "main"]

# A tenth of the weight: with 5 (a third) the API still waited for the stream for up to 96 ms, one time in a hundred.
STREAM = 10
ANALYTICS = 15  # a third of the stream's: nobody waits for a row as for a decision
_SESSION_NICENESS = Path("/proc/self/autogroup")
_RETRY_S = 0.1  # the kernel takes one such change in this time from all who are not root


def main(niceness: int, command: list[str]) -> None:
    """Give way and execute ``command``; does not return."""
    give_way(niceness)
    os.execvp(command[0], command)  # noqa: S606 - the command is the stack's own


def give_way(niceness: int) -> None:
    """Put this process and its session behind the others; to be called once, in a session of its own."""
    os.nice(niceness)
    if sys.platform == "linux":
        with suppress(PermissionError):  # a sandbox may not allow it
            # who is woken does not interrupt whoever computes: the stream wakes up thousands of times a second
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with suppress(OSError):  # a kernel without such groups goes by the niceness of the process
            _weigh_session(niceness)


def _weigh_session(niceness: int) -> None:
    """Make this session as nice: a kernel that shares the processor out between sessions compares niceness only inside of each."""
    with _SESSION_NICENESS.open("r+b", buffering=0) as file:
        while file.write(b"%d" % niceness) is None:
            time.sleep(_RETRY_S)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
