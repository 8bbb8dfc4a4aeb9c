"""What an SQL text asks for, as far as the HTTP protocol must know: its format, inline data, what a read-only account may say.

Pure text.  What a reader may say is judged on the *canonical* text that the engine's own parser gives back, so that comments, quoting
and escapes cannot hide anything from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["ClickHouseError", "Insert", "format_of", "needs_session", "refusal_for_reader", "returns_rows", "split_insert"]

_SKIPPED = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_NAME = r"(?:`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|\w+)"
_FIRST_WORD = re.compile(_SKIPPED + r"(\(*\s*\w+)", re.DOTALL)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_INSERT = re.compile(
    rf"(?P<head>{_SKIPPED}INSERT\s+INTO\s+(?:TABLE\s+)?{_NAME}(?:\s*\.\s*{_NAME})?\s*(?:\([^)]*\))?)"
    r"\s*(?P<settings>(?:SETTINGS\s+[^\n]*?)?)\s*\bFORMAT\s+(?P<format>\w+)[ \t]*;?(?:\r?\n|$|[ \t]*)",
    re.IGNORECASE | re.DOTALL,
)
_SESSION = re.compile(
    _SKIPPED + r"(SET\s|USE\s|BEGIN\b|COMMIT\b|ROLLBACK\b|CREATE\s+(?:OR\s+REPLACE\s+)?TEMPORARY\s)", re.IGNORECASE | re.DOTALL
)

# In canonical text a string is '…' and an odd name is `…`, both with backslash escapes.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`", re.DOTALL)
_READERS_WORDS = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "EXISTS", "EXPLAIN"})
# readonly = 1 does not stop these, or not before they have looked: file reads the server's disk, python the objects of this process,
# eval runs text that was not judged, the ai functions call the network
_NOT_FOR_READERS = re.compile(r"\b(file|eval|fuzzQuery|cluster|clusterAllReplicas|(?i:python)|ai[A-Z]\w*|AI[A-Z]\w*)\b")
_DESCRIBED_FUNCTION = re.compile(r"\bDESCRIBE TABLE \w+\(")  # it would ask the source for its columns


class ClickHouseError(Exception):
    """An error in ClickHouse's own words: ``Code: 62. DB::Exception: …``; ``code`` is its number."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {text} ({name})")
        self.code = code

    @staticmethod
    def of(error: BaseException) -> ClickHouseError:
        """What the engine raised, without what its Python layer puts before the message."""
        text = str(error)
        found = re.search(r"Code: (\d+)\. ", text)
        if found is None:
            return ClickHouseError(1002, "UNKNOWN_EXCEPTION", text)
        known = ClickHouseError(int(found.group(1)), "", "")
        known.args = (text[found.start() :].partition(": In scope SELECT formatQuerySingleLine")[0].strip(),)
        return known


@dataclass(frozen=True, slots=True)
class Insert:
    """``INSERT INTO …`` with its ``SETTINGS …`` ("" = none) and its format apart; ``data_at`` is where its data begins in the text."""

    head: str
    settings: str
    format: str
    data_at: int


def split_insert(text: str) -> Insert | None:
    """The head of an insert whose data follows in a format; None for any other statement, ``VALUES`` and ``SELECT`` included."""
    found = _INSERT.match(text)
    return Insert(found["head"].strip(), found["settings"].strip(), found["format"], found.end()) if found else None


def format_of(text: str) -> str | None:
    """The output format that the statement names itself."""
    found = _FORMAT.search(text)
    return found.group(1) if found else None


def needs_session(text: str) -> bool:
    """Whether the statement would only do something for the next one of its session."""
    return _SESSION.match(text) is not None


def returns_rows(text: str) -> bool:
    """Whether the statement is a query whose rows may be sent as they come."""
    found = _FIRST_WORD.match(text)
    return found is not None and found.group(1).strip("( \t\r\n").upper() in ("SELECT", "WITH")


def refusal_for_reader(canonical: str) -> str | None:
    """Why a read-only account may not run a statement, which is in the engine's canonical form; None when it may."""
    bare = _QUOTED.sub("''", canonical)
    found = _FIRST_WORD.match(bare)
    first = found.group(1).strip("( ").upper() if found else ""
    if first not in _READERS_WORDS:
        return f"{first or 'this statement'} is not for a read-only account"
    if " INTO OUTFILE " in bare:
        return "INTO OUTFILE would write on the server's disk"
    if _DESCRIBED_FUNCTION.search(bare):
        return "DESCRIBE of a table function would open what it names"
    if named := _NOT_FOR_READERS.search(bare):
        return f"the function {named.group(1)} is not for a read-only account"
    return None
