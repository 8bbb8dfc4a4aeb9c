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

    def add(self, report: Report, article: str) -> None:
        """Keep a report; its line is written last, so that a list never names an article that is not there."""
        write_atomically(self._folder / f"{report.name}.html", article)
        write_atomically(self._folder / f"{report.name}.json", json.dumps(asdict(report)))

    def list(self) -> list[Report]:
        """All of them, the newest first."""
        return [self._read(path) for path in sorted(self._folder.glob("*.json"), reverse=True)]

    def find(self, name: str) -> tuple[Report, str] | None:
        """A report and its article; None when there is none of that name, or it is no name."""
        path = self._folder / f"{name}.json"
        if _NAME.fullmatch(name) is None or not path.exists():
            return None
        return self._read(path), path.with_suffix(".html").read_text(encoding="utf-8")

    @staticmethod
    def _read(path: Path) -> Report:
        return Report(**json.loads(path.read_text(encoding="utf-8")))
