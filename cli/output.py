"""How every command speaks: results on standard output, everything else on standard error.

With ``--json`` the result is one JSON object and the last thing on standard output, whatever was printed before.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["console", "print_error", "print_json", "print_lines", "print_table", "progress_bar", "report", "say", "stopwatch"]


def console(stream: IO[str] | None = None) -> Console:
    """A rich console on standard error (or ``stream``); colours and moving bars only where there is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - help works without any package

    return Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def print_error(text: str) -> None:
    """Why a command failed."""
    print(f"fraudguard: {text}", file=sys.stderr, flush=True)


def stopwatch() -> Callable[[str], None]:
    """A ``say`` that puts the seconds since its making before each line."""
    began = time.monotonic()
    return lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}")


def report(payload: Mapping[str, Any], *, as_json: bool, people: Callable[[], None]) -> None:
    """The result of a command: ``payload`` as JSON, or whatever ``people`` prints."""
    if as_json:
        print_json(payload)
    else:
        people()


def print_json(payload: Mapping[str, Any]) -> None:
    """One object on standard output; numbers that JSON does not know become null."""
    sys.stderr.flush()
    print(json.dumps(_without_nan(payload), indent=2, default=str, allow_nan=False), flush=True)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def print_lines(lines: Iterable[str]) -> None:
    """Plain lines of a result."""
    for line in lines:
        print(line, flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """A table of a result, as wide as its contents: a narrow pipe must not cut addresses."""
    from rich.table import Table  # noqa: PLC0415 - help works without any package

    table = Table(*headings, title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out = console(sys.stdout)
    if not out.is_terminal:
        out.width = 1000
    out.print(table)


@contextmanager
def progress_bar(text: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """A bar on standard error; call what it yields with how much is done.  Without a terminal: a line every ten seconds."""
    out = console()
    if not out.is_terminal:
        yield _line_now_and_then(text, total)
        return
    with _bar(out) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


def _bar(out: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=out)


def _line_now_and_then(text: str, total: float | None, every_s: float = 10.0) -> Callable[[float], None]:
    last = time.monotonic()

    def show(done: float) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            say(f"{text}: {done:,.0f}" + (f" of {total:,.0f}" if total else ""))

    return show
