"""The rule engine: a small readable language of conditions, compiled once to numpy closures over a batch of events.

A rule names a condition, a contribution to the score, an optional forced floor, and a message into which the runtime values are
put.  A missing value is never true unless it is asked for with ``missing(x)``.  Nothing here reads a file: rules arrive as plain
structures or as the canonical JSON that also travels on the ``rules`` topic.
"""

from fraud.rules.errors import InvalidRules
from fraud.rules.rule import Rule, Severity, State
from fraud.rules.ruleset import Evaluation, Fired, RuleSet
from fraud.rules.vocabulary import CONTEXT_FIELDS, FIELDS, columns_of

__all__ = [
    "CONTEXT_FIELDS",
    "FIELDS",
    "Evaluation",
    "Fired",
    "InvalidRules",
    "Rule",
    "RuleSet",
    "Severity",
    "State",
    "columns_of",
]
