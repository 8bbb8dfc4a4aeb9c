"""Which metrics and labels a PromQL expression names: enough of the grammar to hold rules and dashboards to what is exposed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Named", "missing_from", "names_in"]

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\s*\{([^}]*)\}")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+-?\w+")
_NUMBER = re.compile(r"(?<![a-zA-Z_:0-9])[0-9][0-9.eE]*(?:[smhdwy])?(?![a-zA-Z_:])")
_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()(?![a-zA-Z0-9_:])")
_KEYWORDS = frozenset(
    {"and", "or", "unless", "bool", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "inf", "nan"}
)
ADDED_BY_SCRAPING = frozenset({"job", "instance", "node", "le"})


@dataclass(frozen=True)
class Named:
    """``metrics`` with the labels of their own matchers, and ``grouped`` labels that any of them may have."""

    metrics: dict[str, frozenset[str]]
    grouped: frozenset[str]


def names_in(expr: str) -> Named:
    """The metrics and labels that ``expr`` names."""
    text = _STRING.sub('""', expr)
    grouped = frozenset(label.strip() for _, labels in _GROUPING.findall(text) for label in labels.split(",") if label.strip())
    text = _RANGE.sub(" ", _GROUPING.sub(" ", text))
    metrics: dict[str, frozenset[str]] = {}
    for name, matchers in _SELECTOR.findall(text):
        labels = frozenset(re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", matchers))
        metrics[name] = metrics.get(name, frozenset()) | labels
    rest = _NUMBER.sub(" ", _SELECTOR.sub(" ", text))
    for name in _WORD.findall(rest):
        if name.lower() not in _KEYWORDS:
            metrics.setdefault(name, frozenset())
    return Named(metrics, grouped)


def missing_from(exposed: Mapping[str, Iterable[str]], expr: str) -> list[str]:
    """What ``expr`` names and ``exposed`` (metric to labels) does not have, in words; nothing when it can be answered."""
    named = names_in(expr)
    missing = [f"metric {name}" for name in named.metrics if name not in exposed]
    for name, labels in named.metrics.items():
        known = frozenset(exposed.get(name, ())) | ADDED_BY_SCRAPING
        missing += [f"label {label} of {name}" for label in sorted(labels - known) if name in exposed]
    anywhere = frozenset(label for name in named.metrics for label in exposed.get(name, ())) | ADDED_BY_SCRAPING
    return missing + [f"label {label} of any of them" for label in sorted(named.grouped - anywhere)]
