"""Saved queries by name: files of SQL whose first comment says what they answer, with typed parameters and defaults.

A parameter stands in the SQL as ``{name:Type}``; ClickHouse puts its value in, so it cannot become SQL.  Its default stands in a
comment of its own: ``-- default name: value``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SavedQuery", "UnknownQuery", "load_queries", "saved_query"]

_FOLDER = Path(__file__).resolve().parent / "queries"
_PARAMETER = re.compile(r"\{(\w+):[^}]+\}")
_DEFAULT = re.compile(r"^-- default (\w+): (.*)$", re.MULTILINE)


class UnknownQuery(Exception):
    """No saved query of that name, or a parameter that it does not have or that is missing."""


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """One file: ``defaults`` of those parameters that have one."""

    name: str
    summary: str
    sql: str
    parameters: tuple[str, ...]
    defaults: Mapping[str, str]

    def values(self, given: Mapping[str, str]) -> dict[str, str]:
        """Every parameter's value; raises UnknownQuery."""
        if unknown := given.keys() - set(self.parameters):
            known = ", ".join(self.parameters) or "none"
            raise UnknownQuery(f"{self.name} has no parameter {', '.join(sorted(unknown))}; its parameters are: {known}")
        values = {**self.defaults, **given}
        if missing := [name for name in self.parameters if name not in values]:
            raise UnknownQuery(f"{self.name} asks for --param {' --param '.join(f'{name}=…' for name in missing)}")
        return values


def load_queries() -> list[SavedQuery]:
    """All of them, by name."""
    return [_parse(path) for path in sorted(_FOLDER.glob("*.sql"))]


def saved_query(name: str) -> SavedQuery:
    """One of them; raises UnknownQuery."""
    known = {query.name: query for query in load_queries()}
    if name not in known:
        raise UnknownQuery(f"no saved query {name}; there are: {', '.join(known)}")
    return known[name]


def _parse(path: Path) -> SavedQuery:
    text = path.read_text(encoding="utf-8")
    summary = text.partition("\n")[0].removeprefix("-- ")
    return SavedQuery(path.stem, summary, text, tuple(dict.fromkeys(_PARAMETER.findall(text))), dict(_DEFAULT.findall(text)))
