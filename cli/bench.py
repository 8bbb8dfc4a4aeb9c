"""``bench``: figures of this machine, one command each."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD, MISUSE, add_command, add_group
from cli.output import print_error, print_table, report, stopwatch

if TYPE_CHECKING:
    from cli.arguments import Commands

__all__ = ["is_right", "register"]

_PEERS = """\
Have bytewax, Quix Streams, Spark structured streaming and our own job work off the same prepared topic, one after the other on two
cores, with the same features, model and rules, and check every feature of every decision.  The first use installs the peers into an
environment of their own under the state folder (1.5 GB).  Exit status 1 when a program failed, lost an event or got a feature wrong.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    bench = add_group(commands, "bench", "measure on this machine")
    peers = add_command(bench, "peers", _peers, "the same job on bytewax, Quix Streams and Spark, side by side", description=_PEERS)
    peers.add_argument("--events", type=int, default=40_000, metavar="N", help="transactions in the topic (default 40000)")
    peers.add_argument("--only", default="", metavar="NAMES", help="some of bytewax,quix,spark,fraudguard")


def _peers(arguments: argparse.Namespace) -> int:
    from infra.bench_peers import OURS, PEERS, run  # noqa: PLC0415 - help works without any package

    only = [name for name in arguments.only.split(",") if name]
    unknown = [name for name in only if name not in PEERS and name != OURS]
    if unknown or arguments.events < 1:
        print_error(f"no peer {', '.join(unknown)}" if unknown else "--events is at least 1")
        return MISUSE
    result = run(events=arguments.events, only=only, say=stopwatch())
    report(result, as_json=arguments.json, people=lambda: _print(result["results"]))
    return GOOD if all(is_right(one, arguments.events) for one in result["results"].values()) else FINDING


def is_right(result: dict[str, Any], events: int) -> bool:
    """Whether a program decided every event once or more, with the features that the backfill computes."""
    wrong = result.get("differing_rows", 1) or result.get("differing_card_rows_in_file_order", 1)
    return result["end"] == "drained" and result["decided"] == events and not wrong


def _print(results: dict[str, dict[str, Any]]) -> None:
    rates = ("events_per_s", "events_per_s_last_80_percent", "startup_s", "cpu_us_per_event", "peak_rss_mb")
    names = ("end", *rates, "decided", "repeated", "differing_rows", "guarantee")
    rows = [(name, *(one.get(key) for key in names)) for name, one in results.items()]
    print_table(("", *(name.replace("_", " ") for name in names)), rows)
