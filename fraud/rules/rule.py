"""One rule as its author wrote it, and how it is read from plain structures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from fraud.decide import Outcome
from fraud.rules.errors import InvalidRules, did_you_mean

__all__ = ["SCORE_UNITS", "Rule", "Severity", "State", "parse_rule"]

# Contributions are whole millionths, so that their sum does not depend on order, batch size or machine.
SCORE_UNITS = 1_000_000
_RULE_ID = re.compile(r"[a-z][a-z0-9_]{0,63}")
_REASON_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Severity(StrEnum):
    """How much a hit matters to people who read it."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class State(StrEnum):
    """``shadow`` rules are evaluated and reported, and count for nothing."""

    ENABLED = "enabled"
    SHADOW = "shadow"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as its author wrote it.

    Attributes:
        id: stable name in records and commands.
        name: title for people.
        when: the condition.
        score: contribution to the rules score, 0..1 in steps of a millionth.
        reason_code: machine-readable reason.
        message: template of the explanation.
        floor: outcome that a hit forces at least, CHALLENGE or DENY.
        priority: rules are listed from the highest to the lowest, then by id.
        severity: see :class:`Severity`.
        state: see :class:`State`.
    """

    id: str
    name: str
    when: str
    score: float
    reason_code: str
    message: str
    floor: Outcome | None = None
    priority: int = 0
    severity: Severity = Severity.MEDIUM
    state: State = State.ENABLED

    def to_plain(self) -> dict[str, Any]:
        """Return the rule as plain values, the inverse of what :meth:`RuleSet.parse` reads."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["floor"] = None if self.floor is None else self.floor.name
        return plain | {"severity": self.severity.value, "state": self.state.value}


def parse_rule(item: object, number: int) -> Rule:
    """Read one rule from plain structures; conditions and templates are checked when the set is compiled.

    Args:
        item: a mapping of the attributes of :class:`Rule`.
        number: place in the list, for messages about a rule without an id.

    Raises:
        InvalidRules: a key that is unknown, absent or out of its range.
    """
    if not isinstance(item, Mapping):
        raise InvalidRules(f"rule number {number} is not a mapping")
    rule_id = item.get("id")
    if not isinstance(rule_id, str) or not _RULE_ID.fullmatch(rule_id):
        raise InvalidRules(f"rule number {number} needs an id of lower-case letters, digits and _, not {rule_id!r}")
    try:
        return _checked_rule(rule_id, item)
    except InvalidRules as error:
        raise error.of_rule(rule_id) from None


def _checked_rule(rule_id: str, item: Mapping[Any, Any]) -> Rule:
    known = {field.name for field in fields(Rule)}
    for key in item:
        if key not in known:
            raise InvalidRules(f"unknown key {key!r}{did_you_mean(str(key), known)}")
    reason_code = _text(item, "reason_code")
    if not _REASON_CODE.fullmatch(reason_code):
        raise InvalidRules(f"reason_code must be capitals, digits and _, not {reason_code!r}")
    return Rule(
        id=rule_id,
        name=_text(item, "name"),
        when=_text(item, "when"),
        score=_score(item.get("score")),
        reason_code=reason_code,
        message=_text(item, "message"),
        floor=_floor(item.get("floor")),
        priority=_priority(item.get("priority", 0)),
        severity=Severity(_one_of(item, "severity", Severity, Severity.MEDIUM)),
        state=State(_one_of(item, "state", State, State.ENABLED)),
    )


def _text(item: Mapping[Any, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRules(f"{key!r} must be a text that is not empty")
    if not value.replace("\n", " ").isprintable():
        raise InvalidRules(f"{key!r} holds characters that cannot be printed")
    return value.replace("\n", " ").strip()


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise InvalidRules(f"'score' must be a number from 0 to 1, not {value!r}")
    if round(value * SCORE_UNITS) / SCORE_UNITS != value:
        raise InvalidRules(f"'score' has at most six decimals, not {value!r}")
    return float(value)


def _floor(value: object) -> Outcome | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in {"CHALLENGE", "DENY"}:
        raise InvalidRules(f"'floor' must be CHALLENGE or DENY, or be left out, not {value!r}")
    return Outcome[value]


def _priority(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1_000_000:
        raise InvalidRules(f"'priority' must be a whole number, not {value!r}")
    return value


def _one_of(item: Mapping[Any, Any], key: str, allowed: type[StrEnum], default: StrEnum) -> str:
    value = item.get(key, default.value)
    words = [member.value for member in allowed]
    if value not in words:
        hint = did_you_mean(value, words) if isinstance(value, str) else ""
        raise InvalidRules(f"{key!r} must be one of {', '.join(words)}, not {value!r}{hint}")
    return str(value)
