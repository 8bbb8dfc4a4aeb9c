"""What every command's arguments have in common."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse gives its own type no public name

__all__ = [
    "FINDING",
    "GOOD",
    "INTERRUPTED",
    "MISUSE",
    "Handler",
    "add_command",
    "add_group",
    "add_maturity",
    "count",
    "existing_file",
    "percentage",
    "rate",
    "share",
    "split_after",
]

GOOD, FINDING, MISUSE, INTERRUPTED = 0, 1, 2, 130
_DAY_MS = 86_400_000

Handler = Callable[[argparse.Namespace], int]


def add_command(
    commands: Commands, name: str, handler: Handler, summary: str, *, description: str = "", reports: bool = True
) -> argparse.ArgumentParser:
    """Add a command and return its parser; ``reports`` gives it ``--json``, ``handler`` returns the exit status."""
    parser = commands.add_parser(
        name, help=summary, description=description or summary, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(handler=handler, json=False)
    if reports:
        parser.add_argument("--json", action="store_true", help="end standard output with one JSON object; progress goes to standard error")
    return parser


def add_group(commands: Commands, name: str, summary: str) -> Commands:
    """Add a command that only has commands below it, such as ``rules``; returns where to add them."""
    parser = commands.add_parser(name, help=summary, description=summary)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def add_maturity(parser: argparse.ArgumentParser) -> None:
    """Add how long a complaint takes, for commands that ask what was fraud."""
    parser.add_argument("--maturity-days", dest="maturity_ms", type=_days, default=0, metavar="D", help="how long a complaint takes: what "
                        "was allowed in the last D days and has no label counts as unknown (default 0: as good)")  # fmt: skip


def existing_file(text: str) -> Path:
    """An argument that names a file which is there."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def count(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def rate(text: str) -> float:
    """An argument that is a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _days(text: str) -> int:
    """A number of days, in milliseconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return round(value * _DAY_MS)


def share(text: str) -> float:
    """An argument that is a part of a whole, 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def percentage(text: str) -> float:
    """An argument that is a number of percent, above 0 and up to 100."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 100.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 100")
    return value


def split_after(arguments: Sequence[str], known: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """``arguments`` as long as ``known`` says yes, and the rest untouched, for commands that pass arguments on."""
    for position, argument in enumerate(arguments):
        if not known(argument):
            return list(arguments[:position]), list(arguments[position:])
    return list(arguments), []
