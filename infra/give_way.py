"""``python give_way.py COMMAND…``: become the command, behind whoever has a caller waiting for its answer.

Run as a file by ``infra.processes.start``, before anything of ours can be imported, so it needs the standard library only.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["NICENESS", "main"]

NICENESS = 10  # a tenth of the weight: with 5 (a third) the API still waited for the stream for up to 70 ms, one time in a hundred
_SESSION_NICENESS = Path("/proc/self/autogroup")
_RETRY_S = 0.1  # the kernel takes one such change in this time from all who are not root


def main(command: list[str]) -> None:
    """Give way and execute ``command``; does not return."""
    os.nice(NICENESS)
    if sys.platform == "linux":
        # who is woken does not interrupt whoever computes: the stream wakes up thousands of times a second
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with suppress(OSError):  # a kernel without such groups goes by the niceness of the process
            _weigh_session()
    os.execvp(command[0], command)  # noqa: S606 - the command is the stack's own


def _weigh_session() -> None:
    """Make this session as nice: a kernel that shares the processor out between sessions compares niceness only inside of each."""
    with _SESSION_NICENESS.open("r+b", buffering=0) as file:
        while file.write(b"%d" % NICENESS) is None:
            time.sleep(_RETRY_S)


if __name__ == "__main__":
    main(sys.argv[1:])
