"""``test``: the suites and the static checks, exactly as CI runs them."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.arguments import FINDING, GOOD, MISUSE, add_command, split_after
from cli.output import print_error, print_lines, report, say

if TYPE_CHECKING:
    from cli.arguments import Commands

__all__ = ["CHECKS", "SUITES", "order_of", "register", "split_arguments"]

_REPO = Path(__file__).resolve().parent.parent

SUITES = ("unit", "contract", "integration", "faults")

# What takes long is marked "slow" and left out, except where the faults are asked for by name or everything is.
_EVERYTHING = ("-m", "slow or not slow")

_BOOTSTRAP = "fraudguard"  # has no suffix, so no tool finds it by itself

CHECKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ruff check", ("-m", "ruff", "check", ".", _BOOTSTRAP)),
    ("ruff format", ("-m", "ruff", "format", "--check", ".", _BOOTSTRAP)),
    ("mypy", ("-m", "mypy")),
    ("mypy of the bootstrap", ("-m", "mypy", _BOOTSTRAP)),
    ("import layers", ("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")),
)

_DESCRIPTION = """\
Run the tests.  Without a suite: the static checks (ruff, mypy, import layers) and every suite, without what takes long.  With "all":
everything.  "faults" runs all fault scenarios, with --quick one fault of each main kind, as the run without a suite does; --kills N
sets how many faults of a kind each kill scenario has.  Whatever follows the suite goes to pytest: ./fraudguard test unit -k geo -x
"""

_NOTHING_COLLECTED = 5
_PYTEST_MISUSE = (4, _NOTHING_COLLECTED)  # 4 is a usage error


@dataclass(frozen=True)
class _Outcome:
    name: str
    passed: bool
    seconds: float


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "test", _test, "run the tests and the static checks", description=_DESCRIPTION)
    parser.add_argument("suite", nargs="?", choices=(*SUITES, "all"), help="one suite, or all of them with everything that takes long")
    parser.add_argument("--quick", action="store_true", help="of the faults one of the main kinds each")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of the command line, and those that ``test`` passes on to pytest."""
    if arguments[:1] != ["test"]:
        return list(arguments), []
    known = {*SUITES, "all", "--quick", "--json", "-h", "--help"}
    own, passed_on = split_after(arguments[1:], known.__contains__)
    if passed_on and not passed_on[0].startswith("-") and not own:
        return list(arguments), []  # a misspelt suite: the parser names the right ones
    return ["test", *own], passed_on


def _test(arguments: argparse.Namespace) -> int:
    suites = SUITES if arguments.suite in (None, "all") else (arguments.suite,)
    checks = [_run_check(name, command) for name, command in CHECKS] if arguments.suite in (None, "all") else []
    folders = [folder for folder in suites if (_REPO / "tests" / folder).is_dir()]
    if not folders:
        print_error(f"there are no tests in tests/{suites[0]}")
        return MISUSE
    if "contract" in folders:
        _prepare_tools()
    is_long = not arguments.quick and arguments.suite in ("faults", "all")
    passed_on = [*(_EVERYTHING if is_long else ()), *arguments.passed_on]
    status, counts, seconds = _run_suites(folders, passed_on, quiet=arguments.json)
    failed = [check.name for check in checks if not check.passed]
    payload = {
        "passed": status == 0 and not failed,
        "suites": folders,
        "tests": counts,
        "seconds": round(seconds, 1),
        "checks": {check.name: check.passed for check in checks},
    }
    report(payload, as_json=arguments.json, people=lambda: print_lines(_summary(checks, status)))
    if status in _PYTEST_MISUSE:
        return MISUSE
    return GOOD if payload["passed"] else FINDING


def _prepare_tools() -> None:
    """Have promtool and amtool where the machine can build them; without them their tests are skipped and say so."""
    from fraud.errors import Unavailable  # noqa: PLC0415 - help works without any package
    from infra.gotools import ensure_tools  # noqa: PLC0415

    try:
        ensure_tools(say)
    except Unavailable as error:
        print_error(str(error))


def _run_check(name: str, command: Sequence[str]) -> _Outcome:
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own list
        [sys.executable, *command], cwd=_REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    outcome = _Outcome(name, done.returncode == 0, time.monotonic() - began)
    if not outcome.passed:
        say(done.stdout.rstrip())
    say(f"{'ok    ' if outcome.passed else 'FAILED'}  {name}  ({outcome.seconds:.1f} s)")
    return outcome


def _run_suites(folders: Sequence[str], passed_on: Sequence[str], *, quiet: bool) -> tuple[int, dict[str, int], float]:
    """The faults in a run of their own: two stacks at once would slow each other down."""
    statuses: list[int] = []
    counts: dict[str, int] = {}
    seconds = 0.0
    for group in ([folder for folder in folders if folder != "faults"], [folder for folder in folders if folder == "faults"]):
        if group:
            ended, found, took = _run_pytest(group, passed_on, quiet=quiet)
            statuses.append(ended)
            counts = {name: counts.get(name, 0) + found.get(name, 0) for name in {**counts, **found}}
            seconds += took
    # a choice such as -k may leave one of the two without tests
    told = [status for status in statuses if status != _NOTHING_COLLECTED] or statuses
    return max(told), counts, seconds


def _run_pytest(folders: Sequence[str], passed_on: Sequence[str], *, quiet: bool) -> tuple[int, dict[str, int], float]:
    """Exit status, counts by outcome, seconds; ``quiet`` keeps standard output free for the JSON object."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.xml"
        tests = [*(f"tests/{folder}" for folder in folders), *order_of(passed_on), f"--junit-xml={results}", *passed_on]
        command = [sys.executable, "-m", "pytest", *tests]
        done = subprocess.run(command, cwd=_REPO, stdout=sys.stderr if quiet else None, check=False)  # noqa: S603
        return done.returncode, _count(results), time.monotonic() - began


def order_of(passed_on: Sequence[str]) -> list[str]:
    """The option that makes the tests' order that of the sources: another commit has another order, and what failed fails again."""
    if any("randomly" in option for option in passed_on):
        return []
    asked = ("git", "-C", str(_REPO), "rev-parse", "HEAD^{tree}")
    try:
        tree = subprocess.run(asked, capture_output=True, text=True, check=True).stdout  # noqa: S603 - git from PATH
    except (OSError, subprocess.CalledProcessError):  # sources without a history: any order
        return []
    return [f"--randomly-seed={int(tree[:8], 16)}"]


def _count(results: Path) -> dict[str, int]:
    if not results.exists():
        return {}
    suite = ET.parse(results).getroot().find("testsuite")  # noqa: S314 - pytest wrote it a moment ago
    if suite is None:
        return {}
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    return {"passed": counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"], **counts}


def _summary(checks: Sequence[_Outcome], status: int) -> list[str]:
    failed = [check.name for check in checks if not check.passed]
    if failed:
        return [f"static checks that failed: {', '.join(failed)}"]
    return ["all good"] if status == 0 else []
