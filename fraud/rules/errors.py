"""The one error of the rule engine: a rule set that cannot be used, said so that its author can mend it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["InvalidRules", "did_you_mean"]


class InvalidRules(ValueError):
    """A rule set that is refused as a whole.

    Attributes:
        problem: what is wrong and, where it can be told, what was probably meant.
        rule_id: the rule at fault; ``None`` for the set itself.
        position: character of the condition at fault, counted from 1; ``None`` elsewhere.
    """

    def __init__(self, problem: str, *, rule_id: str | None = None, position: int | None = None) -> None:
        where = f"rule {rule_id!r}: " if rule_id is not None else ""
        at = f" (at character {position})" if position is not None else ""
        super().__init__(f"{where}{problem}{at}")
        self.problem = problem
        self.rule_id = rule_id
        self.position = position

    def of_rule(self, rule_id: str) -> InvalidRules:
        """Return the same problem with the rule's id put in."""
        return InvalidRules(self.problem, rule_id=rule_id, position=self.position)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or nothing."""
    near = get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
