"""A compiled set of rules and its evaluation over a batch of events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud.decide import Outcome
from fraud.extra import in_order
from fraud.rules.conditions import Columns, Condition, Mask, compile_condition, names_of
from fraud.rules.errors import InvalidRules
from fraud.rules.messages import Template, parse_template
from fraud.rules.rule import SCORE_UNITS, Rule, State, parse_rule
from fraud.rules.syntax import parse
from fraud.rules.vocabulary import EventFields, Vocabulary, Word, column

__all__ = ["Evaluation", "Fired", "RuleSet"]

MAX_RULES = 500
MAX_EXTRA = 16  # features beyond the catalogue: each is a pass over its entity's log, for every event


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that fired for one event, with its runtime values in ``message``; ``shadow`` ones did not count."""

    rule_id: str
    rule_name: str
    severity: str
    reason_code: str
    score: float
    floor: str | None
    shadow: bool
    message: str


@dataclass(frozen=True, slots=True)
class _Compiled:
    rule: Rule
    condition: Condition
    template: Template


class Evaluation:
    """What a rule set said about a batch.

    Attributes:
        score: ``float64[B]``, the sum of the contributions of enabled rules that fired, at most 1.
        floor: ``int8[B]``, the strongest :class:`Outcome` that an enabled rule forces; ALLOW where none does.
        fired: ``bool[R, B]`` over the rules that are not disabled, in the order of listing.
    """

    __slots__ = ("_compiled", "_features", "_fields", "fired", "floor", "score")

    def __init__(
        self,
        *,
        score: NDArray[np.float64],
        floor: NDArray[np.int8],
        fired: NDArray[np.bool_],
        compiled: Sequence[_Compiled],
        features: NDArray[np.float64],
        event_fields: EventFields,
    ) -> None:
        self.score = score
        self.floor = floor
        self.fired = fired
        self._compiled = compiled
        self._features = features
        self._fields = event_fields

    def reasons(self, rows: NDArray[np.intp] | None = None) -> list[tuple[Fired, ...]]:
        """List, for each event of the batch or of its given rows, the rules that fired; messages are written only here."""
        fired = self.fired if rows is None else self.fired[:, rows]
        listed: list[list[Fired]] = [[] for _ in range(fired.shape[1])]
        rules, places = np.nonzero(fired)
        for index, place in zip(rules.tolist(), places.tolist(), strict=True):
            listed[place].append(self._reason(self._compiled[index], place if rows is None else int(rows[place])))
        return [tuple(reasons) for reasons in listed]

    def messages(self, rule: int, rows: NDArray[np.intp]) -> list[str]:
        """The messages that one rule, by its place in :attr:`fired`, writes for some events of the batch; as :meth:`reasons` has them."""

        def values_of(word: Word) -> Sequence[Any]:
            if word.index is not None:
                numbers: list[float] = self._features[rows, word.index].tolist()
                return numbers
            values = self._fields.get(word.name)
            return [None] * len(rows) if values is None else [values[row] for row in rows.tolist()]

        return self._compiled[rule].template.fill_all(values_of, len(rows))

    def _reason(self, compiled: _Compiled, row: int) -> Fired:
        rule = compiled.rule
        return Fired(
            rule_id=rule.id,
            rule_name=rule.name,
            severity=rule.severity.value,
            reason_code=rule.reason_code,
            score=rule.score,
            floor=None if rule.floor is None else rule.floor.name,
            shadow=rule.state is State.SHADOW,
            message=compiled.template.fill(lambda word: self._value(word, row)),
        )

    def _value(self, word: Word, row: int) -> Any:
        if word.index is not None:
            return float(self._features[row, word.index])
        values = self._fields.get(word.name)
        return None if values is None else values[row]


class RuleSet:
    """A compiled set of rules.  Immutable, and safe to share between threads.

    Args:
        rules: in any order.
        features: name to index in the feature vector, aliases included (``CATALOGUE.index``).

    Attributes:
        rules: in the order of listing: priority from high to low, then id.
        hash: SHA-256 of the canonical JSON, which names this set in every decision.
        fields: event fields that the rules read and that :meth:`evaluate` wants as columns.
        extra: features beyond the catalogue that rules read which are not disabled, in the order of their columns (``fraud.extra``).

    Raises:
        InvalidRules: a rule that cannot be compiled, two with one id, or more extra features than may be asked for.
    """

    __slots__ = ("_compiled", "_feature_slots", "_field_slots", "_floors", "_forcing", "_scores", "extra", "fields", "hash", "rules")

    def __init__(self, rules: Sequence[Rule], features: Mapping[str, int]) -> None:
        if len(rules) > MAX_RULES:
            raise InvalidRules(f"{len(rules)} rules are more than {MAX_RULES}")
        self.rules = tuple(sorted(rules, key=lambda rule: (-rule.priority, rule.id)))
        for first, second in zip(ids := sorted(rule.id for rule in rules), ids[1:], strict=False):
            if first == second:
                raise InvalidRules("two rules have this id", rule_id=first)
        self.hash = sha256(self.to_json().encode()).hexdigest()
        self.extra = self._extra(Vocabulary(features))
        self._compile(Vocabulary(features, self.extra))

    @classmethod
    def parse(cls, data: object, features: Mapping[str, int]) -> RuleSet:
        """Build a set from plain structures: ``{"rules": [{"id": ..., "when": ..., ...}, ...]}``.

        Raises:
            InvalidRules: with the rule's id and the position in its condition.
        """
        if not isinstance(data, Mapping) or set(data) != {"rules"} or not isinstance(data["rules"], list):
            raise InvalidRules("a rule set is a mapping with the one key 'rules', a list")
        return cls([parse_rule(item, number) for number, item in enumerate(data["rules"], start=1)], features)

    @classmethod
    def from_json(cls, text: str | bytes, features: Mapping[str, int]) -> RuleSet:
        """Build a set from JSON, as it travels on the ``rules`` topic.

        Raises:
            InvalidRules: not JSON, or not a rule set.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRules(f"not JSON: {error}") from None
        return cls.parse(data, features)

    def to_json(self) -> str:
        """Return the canonical JSON: rules in the order of listing, keys sorted, no spaces."""
        plain = {"rules": [rule.to_plain() for rule in self.rules]}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @property
    def active(self) -> tuple[Rule, ...]:
        """The rules that are not disabled, in the order of listing, which is that of :attr:`Evaluation.fired`."""
        return tuple(item.rule for item in self._compiled)

    def evaluate(self, features: NDArray[np.float64], event_fields: EventFields) -> Evaluation:
        """Evaluate all rules that are not disabled over a batch.

        Args:
            features: ``float64[B, F]`` in catalogue order, NaN for missing; then a column for each of :attr:`extra`.
            event_fields: a column of ``B`` values, ``None`` for missing, for each name in :attr:`fields`; a column that is
                absent is missing for every event (a blacklist that cannot be asked, say).

        Returns:
            Scores, floors and the rules that fired.
        """
        size = features.shape[0]
        columns: Columns = list(np.ascontiguousarray(features[:, self._feature_slots].T))
        columns += [column(word.type, event_fields.get(word.name), size) for word in self._field_slots]
        fired: Mask = np.empty((len(self._compiled), size), dtype=np.bool_)
        for row, compiled in zip(fired, self._compiled, strict=True):
            row[:] = compiled.condition(columns)
        # Integers: the same sum whatever the order in which numpy adds.
        score = np.minimum(self._scores @ fired, SCORE_UNITS) / SCORE_UNITS
        floor = np.max(fired[self._forcing] * self._floors, axis=0, initial=0)
        return Evaluation(score=score, floor=floor, fired=fired, compiled=self._compiled, features=features, event_fields=event_fields)

    def _extra(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        names: set[str] = set()
        for rule in self.rules:
            words, _, template = _prepare(rule, vocabulary)
            if rule.state is not State.DISABLED:
                names |= {word.name for word in (*words, *template.words) if vocabulary.is_extra(word)}
        if len(names) > MAX_EXTRA:
            raise InvalidRules(f"{len(names)} features beyond the catalogue are more than {MAX_EXTRA}")
        return in_order(sorted(names)) if names else ()

    def _compile(self, vocabulary: Vocabulary) -> None:
        # Disabled rules are checked like the others: one that could not be enabled is of no use.
        read: dict[str, Word] = {}
        compiled: list[tuple[Rule, Callable[[Mapping[str, int]], Condition], Template]] = []
        for rule in self.rules:
            words, condition, template = _prepare(rule, vocabulary)
            if rule.state is not State.DISABLED:
                read |= {word.name: word for word in words}
                compiled.append((rule, condition, template))
        conditions = list(read.values())
        in_vector = [word for word in conditions if word.index is not None]
        self._field_slots = tuple(word for word in conditions if word.index is None)
        self._feature_slots = np.array([word.index for word in in_vector], dtype=np.intp)
        slots = {word.name: slot for slot, word in enumerate((*in_vector, *self._field_slots))}
        self._compiled = tuple(_Compiled(rule, condition(slots), template) for rule, condition, template in compiled)
        shown = {word.name for item in self._compiled for word in item.template.words if word.index is None}
        self.fields = tuple(sorted(shown | {word.name for word in self._field_slots}))
        active = [item.rule if item.rule.state is State.ENABLED else None for item in self._compiled]
        self._scores = np.array([0 if rule is None else round(rule.score * SCORE_UNITS) for rule in active], dtype=np.int64)
        floors = [Outcome.ALLOW if rule is None or rule.floor is None else rule.floor for rule in active]
        self._forcing = np.flatnonzero(floors)
        self._floors = np.array(floors, dtype=np.int8)[self._forcing, None]


def _prepare(rule: Rule, vocabulary: Vocabulary) -> tuple[list[Word], Callable[[Mapping[str, int]], Condition], Template]:
    """Check a rule by compiling it once on its own; the result compiles it again for the slots of the whole set."""
    try:
        node = parse(rule.when)
        words = [vocabulary.find(name.name, name.position) for name in names_of(node)]
        compile_condition(node, vocabulary, {word.name: 0 for word in words})
        return words, lambda slots: compile_condition(node, vocabulary, slots), parse_template(rule.message, vocabulary)
    except InvalidRules as error:
        raise error.of_rule(rule.id) from None
