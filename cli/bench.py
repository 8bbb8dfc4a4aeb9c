"""``bench``: measurements of the running system, each a report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD, add_command, add_group, rate
from cli.output import print_lines, print_table, report, stopwatch

if TYPE_CHECKING:
    from cli.arguments import Commands
    from generator.driver import Run

__all__ = ["register"]

_SOAK = """\
Load at a rate for some minutes while a server (TaskManager, JobManager, broker, in seeded random turn) is killed with SIGKILL every
so many seconds.  At the end the oracle compares what the broker acknowledged with what the ledger committed: lost, duplicate,
phantom, gap, diff, inversion.  Exit status 1 unless all are 0 and every kill was recovered from.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    bench = add_group(commands, "bench", "measurements of the running system")
    soak = add_command(bench, "soak", _soak, "load for minutes with a kill every so often, and the oracle's verdict", description=_SOAK)
    soak.add_argument("--minutes", type=rate, default=15.0, metavar="N", help="length of the load (default 15)")
    soak.add_argument("--kill-every", type=float, default=60.0, metavar="S", help="seconds between kills, 0 for none (default 60)")
    soak.add_argument("--rate", type=rate, default=500.0, help="events a second (default 500)")
    soak.add_argument("--seed", type=int, default=1, help="of the traffic and of the order of the kills")


def _soak(arguments: argparse.Namespace) -> int:
    from infra.application import bring_up  # noqa: PLC0415 - help works without any package
    from infra.soak import SoakOptions, run_soak  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    say = stopwatch()
    stack = Stack()
    bring_up(stack, say)
    options = SoakOptions(arguments.minutes, arguments.kill_every, arguments.rate, arguments.seed)
    shown_s = 0.0

    def show(run: Run) -> None:
        nonlocal shown_s
        if run.seconds - shown_s >= 10.0:
            shown_s = run.seconds
            say(f"{run.sent:>9,} sent  {run.answered:>9,} decided")

    result = run_soak(stack.plan, options, say=say, on_progress=show)
    report(result, as_json=arguments.json, people=lambda: _print_soak(result))
    return GOOD if result["clean"] else FINDING


def _print_soak(result: dict[str, Any]) -> None:
    plain = [
        (name.replace("_", " "), value) for name, value in result.items() if value not in ({}, []) and not isinstance(value, (dict, list))
    ]
    print_table(("", ""), plain)
    print_lines([""])
    print_table(("killed", "after s", "recovery s"), [tuple(kill.values()) for kill in result["recovery_s"]])
