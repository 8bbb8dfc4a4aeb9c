"""A parsed condition to numpy closures.

Kleene's three-valued logic without a third value: a rule asks only whether its condition *is true*.  Negation is pushed down to
the comparisons, each of which compiles twice, as "is true" and as "is false", and a missing value (NaN) makes both come out
false.  ``a and b`` is true where both are true, and false where either is false; ``or`` is the mirror image; ``not`` swaps.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud.rules.errors import InvalidRules
from fraud.rules.tree import AllOf, AnyOf, Arithmetic, Between, Compare, In, Literal, Missing, Name, Node, Not
from fraud.rules.vocabulary import Type, Vocabulary

__all__ = ["Columns", "Condition", "Mask", "compile_condition", "names_of"]

Mask = NDArray[np.bool_]
# One entry per slot: float64[B] of a number, a list of a string field, (true, false) masks of a truth field.
Columns = list[Any]
Condition = Callable[[Columns], Mask]
_Values = Callable[[Columns], Any]


def _differs(a: Any, b: Any) -> Mask:
    """``!=`` that a NaN does not make true."""
    return (a < b) | (a > b)  # type: ignore[no-any-return]


def _quotient(a: Any, b: Any) -> Any:
    """``/`` in which a division by zero is missing, not infinite."""
    return a / np.where(b == 0.0, np.nan, b)


_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": _differs,
}
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _quotient}


def names_of(node: Node) -> Iterator[Name]:
    """Yield the names that a condition reads, with repetitions."""
    match node:
        case Name():
            yield node
        case Missing(name=name):
            yield name
        case Arithmetic(left=left, right=right) | Compare(left=left, right=right):
            yield from names_of(left)
            yield from names_of(right)
        case In(item=item) | Not(item=item):
            yield from names_of(item)
        case Between(item=item, low=low, high=high):
            for part in (item, low, high):
                yield from names_of(part)
        case AllOf(items=items) | AnyOf(items=items):
            for part in items:
                yield from names_of(part)


def compile_condition(node: Node, vocabulary: Vocabulary, slots: Mapping[str, int]) -> Condition:
    """Check names and types and compile.

    Args:
        node: a parsed condition.
        vocabulary: knows features and fields.
        slots: place of each name in the columns handed to the result.

    Returns:
        A function of the columns of a batch to ``bool[B]``: where the condition is true.

    Raises:
        InvalidRules: an unknown name, or an operand of the wrong type.
    """
    names = [vocabulary.find(name.name, name.position) for name in names_of(node)]
    if not names:
        raise InvalidRules("the condition looks at no feature and no field")
    return _Compiler(vocabulary, slots).truth(node, wanted=True)


class _Compiler:
    def __init__(self, vocabulary: Vocabulary, slots: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._slots = slots

    def truth(self, node: Node, *, wanted: bool) -> Condition:
        """Compile to the mask of events for which the condition is true (``wanted``) or is false."""
        match node:
            case Not(item=item):
                return self.truth(item, wanted=not wanted)
            case AllOf(items=items):
                return _joined([self.truth(item, wanted=wanted) for item in items], conjunction=wanted)
            case AnyOf(items=items):
                return _joined([self.truth(item, wanted=wanted) for item in items], conjunction=not wanted)
        return self._predicate(node, wanted=wanted)

    def _predicate(self, node: Node, *, wanted: bool) -> Condition:
        match node:
            case Compare():
                return self._compare(node, wanted=wanted)
            case In():
                return self._membership(node, wanted=wanted)
            case Between(item=item, low=low, high=high, position=position):
                bounds = (Compare(">=", item, low, position), Compare("<=", item, high, position))
                return self.truth(AllOf(bounds, position), wanted=wanted)
            case Missing(name=name):
                return self._missing(name, wanted=wanted)
            case Literal(value=bool() as value):
                return _constantly(value == wanted)
            case Name() if self._type(node) is Type.TRUTH:
                slot, side = self._slots[node.name], 0 if wanted else 1
                return lambda columns: columns[slot][side]
        raise InvalidRules(f"{_shown(node)} is {self._type(node)}, not a condition: compare it with something", position=node.position)

    def _compare(self, node: Compare, *, wanted: bool) -> Condition:
        left_type, right_type = self._type(node.left), self._type(node.right)
        if left_type is not right_type:
            problem = f"cannot compare {_shown(node.left)}, {left_type}, with {_shown(node.right)}, {right_type}"
            raise InvalidRules(problem, position=node.position)
        if left_type is not Type.NUMBER and node.sign not in {"==", "!="}:
            raise InvalidRules(f"{node.sign} orders numbers only, not {left_type}", position=node.position)
        sign = node.sign if wanted else _OPPOSITE[node.sign]
        if left_type is Type.NUMBER:
            return self._compare_numbers(sign, node.left, node.right)
        if left_type is Type.TEXT:
            return self._compare_texts(sign, node.left, node.right)
        return self._compare_truths(node.left, node.right, same=sign == "==")

    def _compare_numbers(self, sign: str, left: Node, right: Node) -> Condition:
        compare = _ORDER[sign]
        if isinstance(left, Name) and isinstance(right, Literal):
            # nearly every comparison: spare it two calls, and numpy the conversion of a Python float
            slot, constant = self._slots[left.name], np.array(right.value)
            return lambda columns: compare(columns[slot], constant)
        a, b = self._numbers(left), self._numbers(right)
        return lambda columns: compare(a(columns), b(columns))

    def _compare_texts(self, sign: str, left: Node, right: Node) -> Condition:
        if isinstance(left, Literal):
            left, right = right, left
        if not isinstance(left, Name):
            raise InvalidRules("the condition compares two constants", position=left.position)
        slot, same = self._slots[left.name], sign == "=="
        if isinstance(right, Literal):
            return _membership_of_texts(slot, frozenset({right.value}), wanted=same)
        if not isinstance(right, Name):
            raise InvalidRules(f"cannot compare {_shown(right)}", position=right.position)
        other = self._slots[right.name]

        def compare(columns: Columns) -> Mask:
            pairs = zip(columns[slot], columns[other], strict=True)
            return np.array([a is not None and b is not None and (a == b) is same for a, b in pairs], dtype=np.bool_)

        return compare

    def _compare_truths(self, left: Node, right: Node, *, same: bool) -> Condition:
        """Compare truth values: they are equal where both are true or both are false."""
        a, not_a = self.truth(left, wanted=True), self.truth(left, wanted=False)
        b, not_b = self.truth(right, wanted=same), self.truth(right, wanted=not same)
        return lambda columns: (a(columns) & b(columns)) | (not_a(columns) & not_b(columns))

    def _membership(self, node: In, *, wanted: bool) -> Condition:
        kind = self._type(node.item)
        for value in node.values:
            if self._type(value) is not kind:
                problem = f"{_shown(node.item)} is {kind}, but {_shown(value)} in the list is {self._type(value)}"
                raise InvalidRules(problem, position=value.position)
        if kind is Type.TEXT and isinstance(node.item, Name):
            return _membership_of_texts(self._slots[node.item.name], frozenset(value.value for value in node.values), wanted=wanted)
        if kind is not Type.NUMBER:
            raise InvalidRules("'in' looks up a number or a field", position=node.position)
        return self._membership_of_numbers(node, wanted=wanted)

    def _membership_of_numbers(self, node: In, *, wanted: bool) -> Condition:
        item, known = self._numbers(node.item), np.array([value.value for value in node.values], dtype=np.float64)

        def is_member(columns: Columns) -> Any:
            return np.equal.outer(item(columns), known).any(axis=-1)

        def is_no_member(columns: Columns) -> Any:
            values = item(columns)
            return ~np.equal.outer(values, known).any(axis=-1) & (values == values)  # noqa: PLR0124 - NaN differs from itself

        return is_member if wanted else is_no_member

    def _missing(self, name: Name, *, wanted: bool) -> Condition:
        slot, kind = self._slots[name.name], self._type(name)
        if kind is Type.NUMBER:
            return lambda columns: np.isnan(columns[slot]) == wanted
        if kind is Type.TEXT:
            return lambda columns: np.array([(value is None) is wanted for value in columns[slot]], dtype=np.bool_)
        return lambda columns: (columns[slot][0] | columns[slot][1]) != wanted

    def _numbers(self, node: Node) -> _Values:
        match node:
            case Literal(value=constant):
                return lambda _columns: constant
            case Name(name=name):
                slot = self._slots[name]
                return lambda columns: columns[slot]
            case Arithmetic(sign="/", left=left, right=Literal(value=float() as divisor)):
                dividend = self._numbers(left)
                return lambda columns: dividend(columns) / divisor
            case Arithmetic(sign=sign, left=left, right=right):
                apply, a, b = _ARITHMETIC[sign], self._numbers(left), self._numbers(right)
                return lambda columns: apply(a(columns), b(columns))
        raise InvalidRules(f"{_shown(node)} is {self._type(node)}, not a number", position=node.position)

    def _type(self, node: Node) -> Type:
        match node:
            case Literal(value=bool()):
                return Type.TRUTH
            case Literal(value=str()):
                return Type.TEXT
            case Literal():
                return Type.NUMBER
            case Name(name=name, position=position):
                return self._vocabulary.find(name, position).type
            case Arithmetic(sign=sign, left=left, right=right):
                for part in (left, right):
                    if (kind := self._type(part)) is not Type.NUMBER:
                        raise InvalidRules(f"{sign} works on numbers only, {_shown(part)} is {kind}", position=part.position)
                return Type.NUMBER
        return Type.TRUTH


def _constantly(value: Any) -> Condition:
    return lambda _columns: value


def _joined(parts: list[Condition], *, conjunction: bool) -> Condition:
    join = operator.and_ if conjunction else operator.or_
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        a, b = parts
        return lambda columns: join(a(columns), b(columns))
    return lambda columns: reduce(join, [part(columns) for part in parts])


def _membership_of_texts(slot: int, values: frozenset[Any], *, wanted: bool) -> Condition:
    if wanted:
        return lambda columns: np.array([value in values for value in columns[slot]], dtype=np.bool_)
    return lambda columns: np.array([value is not None and value not in values for value in columns[slot]], dtype=np.bool_)


def _shown(node: Node) -> str:
    match node:
        case Name(name=name):
            return repr(name)
        case Literal(value=bool() as value):
            return str(value).lower()
        case Literal(value=str() as value):
            return repr(value)
        case Literal(value=value):
            return f"{value:g}"
        case Arithmetic():
            return "the calculation"
    return "the condition"
