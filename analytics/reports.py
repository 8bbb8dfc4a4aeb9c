"""Reports of backtests in a folder, each as an article of HTML with a line about it, for the pages of the front."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.atomic_write import write_atomically

__all__ = ["Report", "Reports"]

_NAME = re.compile(r"[0-9]{13}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Report:
    """What the list says of a report; ``equal`` is whether production came out as recorded."""

    created_ms: int
    rule_set_hash: str
    first_event_ms: int
    last_event_ms: int
    compared: int
    equal: bool

    @property
    def name(self) -> str:
        """Sorts by time."""
        return f"{self.created_ms:013d}-{self.rule_set_hash[:12]}"


class Reports:
    """The reports in one folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, report: Report, article: str, *, kept: int) -> None:
        """Keep a report and only the newest ``kept``; its line is written last, so that a list never names an article that is not there."""
        write_atomically(self._folder / f"{report.name}.html", article)
        write_atomically(self._folder / f"{report.name}.json", json.dumps(asdict(report)))
        for article_file in sorted(self._folder.glob("*.html"))[:-kept]:
            article_file.with_suffix(".json").unlink(missing_ok=True)
            article_file.unlink(missing_ok=True)

    def list(self) -> list[Report]:
        """All of them, the newest first."""
        found = [self._read(path) for path in sorted(self._folder.glob("*.json"), reverse=True)]
        return [report for report in found if report is not None]

    def find(self, name: str) -> tuple[Report, str] | None:
        """A report and its article; None when there is none of that name, or it is no name."""
        path = self._folder / f"{name}.json"
        report = self._read(path) if _NAME.fullmatch(name) is not None else None
        article = None if report is None else _text(path.with_suffix(".html"))
        return None if report is None or article is None else (report, article)

    @staticmethod
    def _read(path: Path) -> Report | None:
        line = _text(path)
        return None if line is None else Report(**json.loads(line))


def _text(path: Path) -> str | None:
    """What a file says; None when there is none, which a report becomes while somebody looks."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
