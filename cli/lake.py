"""``lake``: the event log as Delta tables, for months and for other programs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.arguments import GOOD, add_command, add_group
from cli.output import print_lines, print_table, report, say

if TYPE_CHECKING:
    from cli.arguments import Commands

__all__ = ["register"]

_SYNC = """\
Append to the lake what the ledger has gathered since the last time, rows and offsets in one commit, and delete what the stream has
erased since, older versions included.  Interrupted, it goes on where it was.  Polars, DuckDB and Spark read the tables: transactions,
ml_features, labels, one folder a day of arrival.
"""
_TIDY = """\
Delete days beyond the last 90, join small files, and remove files that no version of the last seven days needs.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    lake = add_group(commands, "lake", "the event log as Delta tables: sync, status, tidy")
    add_command(lake, "sync", _sync, "append what the ledger has gathered, delete what was erased", description=_SYNC)
    add_command(lake, "status", _status, "tables, versions, days and sizes")
    add_command(lake, "tidy", _tidy, "expire, compact, vacuum", description=_TIDY)


def _sync(arguments: argparse.Namespace) -> int:
    from infra.lake import sync_lake  # noqa: PLC0415 - help works without any package
    from infra.stack import Stack  # noqa: PLC0415

    done = sync_lake(Stack().plan, lambda left: say(f"{left:,} records to come"))
    lines = [f"{count:,} rows of {name}" for name, count in sorted(done.rows.items())] or ["nothing new"]
    lines += [f"{done.erased:,} decisions deleted, for somebody was erased"] if done.erased else []
    lines += [f"{done.rejected:,} records cannot be read and were left out"] if done.rejected else []
    report(asdict(done), as_json=arguments.json, people=lambda: print_lines(lines))
    return GOOD


def _status(arguments: argparse.Namespace) -> int:
    from infra.lake import lake_of  # noqa: PLC0415 - help works without any package
    from infra.stack import Stack  # noqa: PLC0415

    tables = lake_of(Stack().layout).state()
    rows = [(one.name, one.rows, one.files, round(one.bytes / 1e6, 1), one.version, one.first_day, one.last_day) for one in tables]
    head = ("table", "rows", "files", "MB", "version", "first day", "last day")
    report({"tables": [asdict(one) for one in tables]}, as_json=arguments.json, people=lambda: print_table(head, rows))
    return GOOD


def _tidy(arguments: argparse.Namespace) -> int:
    from infra.lake import tidy_lake  # noqa: PLC0415 - help works without any package
    from infra.stack import Stack  # noqa: PLC0415

    done = tidy_lake(Stack().layout)
    lines = [
        f"{done.expired_rows:,} rows of old days deleted",
        f"{done.compacted_files:,} small files joined",
        f"{done.removed_files:,} files removed",
    ]
    report(asdict(done), as_json=arguments.json, people=lambda: print_lines(lines))
    return GOOD
