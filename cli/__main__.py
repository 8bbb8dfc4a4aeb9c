"""Parse the command line, call one handler, and turn its errors into messages and exit statuses: 0 good, 1 finding, 2 misuse."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from cli import access, bench, decision, features, lake, operate, query, stack, testing, traffic
from cli.arguments import FINDING, GOOD, INTERRUPTED, MISUSE
from cli.output import print_error
from fraud.errors import Denied, InvalidEvent, Unavailable

__all__ = ["COMMANDS", "build_parser", "main"]

COMMANDS: tuple[ModuleType, ...] = (stack, traffic, features, decision, query, lake, bench, operate, access, testing)

_DESCRIPTION = """\
FraudGuard decides on card transactions in real time: exact streaming features, a model, rules.
Settings are environment variables with the prefix FRAUDGUARD_; state lives in FRAUDGUARD_HOME (by default .fraudguard in the
checkout).
"""
_EPILOG = "Exit status: 0 good, 1 finding (something is wrong, or not as asked), 2 misuse.  ./fraudguard COMMAND --help tells more."


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; needs no package outside the standard library."""
    parser = argparse.ArgumentParser(
        prog="fraudguard", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(handler=None, passed_on=[])
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for module in COMMANDS:
        module.register(commands)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    parser = build_parser()
    own, passed_on = testing.split_arguments(arguments)
    namespace = parser.parse_args(own, argparse.Namespace(passed_on=passed_on))
    if namespace.handler is None:
        parser.print_help()
        return MISUSE if arguments else GOOD
    _configure_logs()
    try:
        return int(namespace.handler(namespace))
    except (Unavailable, InvalidEvent, Denied) as error:
        print_error(str(error))
        return FINDING
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; without this the interpreter complains while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD


def _configure_logs() -> None:
    """What libraries have to say goes to standard error as JSON; results and progress are the commands' own."""
    from serving import logs  # noqa: PLC0415 - help works without any package

    logs.configure("cli", level=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
