"""Text of a condition to a tree: tokens and recursive descent, no ``eval``.

Grammar, loosest first::

    condition := conjunction ("or" conjunction)*
    conjunction := negation ("and" negation)*
    negation  := "not" negation | predicate
    predicate := sum [("<" | "<=" | ">" | ">=" | "==" | "!=") sum
                     | ["not"] "in" "(" literal ("," literal)* ")"
                     | ["not"] "between" sum "and" sum]
    sum       := product (("+" | "-") product)*
    product   := factor (("*" | "/") factor)*
    factor    := "-" factor | number | string | "true" | "false" | name | "missing" "(" name ")" | "(" condition ")"

Names and types are checked when the tree is compiled.  Rules may come from a topic, so length, depth and size are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from fraud.rules.errors import InvalidRules, did_you_mean
from fraud.rules.tree import AllOf, AnyOf, Arithmetic, Between, Compare, In, Literal, Missing, Name, Node, Not

__all__ = ["parse"]

MAX_CHARACTERS = 4_000
MAX_DEPTH = 32
MAX_NODES = 200

_KEYWORDS = frozenset({"and", "or", "not", "in", "between", "missing", "true", "false"})
_COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<text>"[^"\n]*"|'[^'\n]*')
      | (?P<sign><=|>=|==|!=|[-+*/<>(),])""",
    re.VERBOSE,
)
_MISTAKES = {
    "=": "write == to compare",
    "&": "write 'and'",
    "|": "write 'or'",
    "!": "write 'not' or !=",
    '"': "the string has no end",
}
_MISTAKES["'"] = _MISTAKES['"']


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def parse(text: str) -> Node:
    """Parse a condition.

    Raises:
        InvalidRules: with the position of what cannot be read.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidRules(f"the condition is longer than {MAX_CHARACTERS} characters")
    parser = _Parser(text)
    node = parser.condition()
    parser.end()
    return node


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            hint = _MISTAKES.get(text[at], "")
            raise InvalidRules(f"cannot read {text[at]!r}{': ' if hint else ''}{hint}", position=at + 1)
        kind = str(match.lastgroup)
        if kind == "name" and match[0] in _KEYWORDS:
            kind = "keyword"
        if kind != "space":
            yield _Token(kind, match[0], at + 1)
        at = match.end()
    yield _Token("end", "", len(text) + 1)


class _Parser:
    """Recursive descent over the tokens of one condition."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0
        self._nodes = 0

    def end(self) -> None:
        """Refuse whatever follows a complete condition."""
        token = self._tokens[self._at]
        if token.kind == "end":
            return
        if token.text in _COMPARISONS:
            raise InvalidRules("comparisons do not chain: write 'x between a and b'", position=token.position)
        raise self._unexpected("'and', 'or' or the end")

    def condition(self) -> Node:
        items, position = [self._conjunction()], self._tokens[self._at].position
        while self._take("or"):
            items.append(self._conjunction())
        return items[0] if len(items) == 1 else self._made(AnyOf(tuple(items), position))

    def _conjunction(self) -> Node:
        items, position = [self._negation()], self._tokens[self._at].position
        while self._take("and"):
            items.append(self._negation())
        return items[0] if len(items) == 1 else self._made(AllOf(tuple(items), position))

    def _negation(self) -> Node:
        token = self._tokens[self._at]
        if not self._take("not"):
            return self._predicate()
        self._enter(token)
        node = self._made(Not(self._negation(), token.position))
        self._depth -= 1
        return node

    def _predicate(self) -> Node:
        left = self._sum()
        token = self._tokens[self._at]
        if token.kind == "sign" and token.text in _COMPARISONS:
            self._at += 1
            return self._made(Compare(token.text, left, self._sum(), token.position))
        negated = self._take("not")
        node: Node
        if self._take("in"):
            node = self._made(In(left, self._values(), token.position))
        elif self._take("between"):
            low = self._sum()
            self._expect("and")
            node = self._made(Between(left, low, self._sum(), token.position))
        elif negated:
            raise self._unexpected("'in' or 'between'")
        else:
            return left
        return self._made(Not(node, token.position)) if negated else node

    def _values(self) -> tuple[Literal, ...]:
        self._expect("(")
        values = [self._literal()]
        while self._take(","):
            if self._tokens[self._at].text == ")":
                break  # a comma after the last one, as in Python
            values.append(self._literal())
        self._expect(")")
        return tuple(values)

    def _literal(self) -> Literal:
        negative = self._take("-")
        token = self._tokens[self._at]
        if token.kind not in {"number", "text"} or (negative and token.kind == "text"):
            raise self._unexpected("a number or a string")
        literal = self._read_literal()
        if negative and isinstance(literal.value, float):
            return Literal(-literal.value, literal.position)
        return literal

    def _read_literal(self) -> Literal:
        token = self._tokens[self._at]
        self._at += 1
        if token.kind == "text":
            return Literal(token.text[1:-1], token.position)
        if token.kind == "keyword":
            return Literal(token.text == "true", token.position)
        value = float(token.text)
        if not math.isfinite(value):
            raise InvalidRules(f"{token.text} is too large a number", position=token.position)
        return Literal(value, token.position)

    def _sum(self) -> Node:
        node = self._product()
        while (token := self._tokens[self._at]).text in {"+", "-"} and token.kind == "sign":
            self._at += 1
            node = self._arithmetic(token, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._factor()
        while (token := self._tokens[self._at]).text in {"*", "/"} and token.kind == "sign":
            self._at += 1
            node = self._arithmetic(token, node, self._factor())
        return node

    def _factor(self) -> Node:
        token = self._tokens[self._at]
        if self._take("-"):
            self._enter(token)
            node = self._arithmetic(token, Literal(0.0, token.position), self._factor())
            self._depth -= 1
            return node
        if self._take("("):
            self._enter(token)
            node = self.condition()
            self._expect(")")
            self._depth -= 1
            return node
        if self._take("missing"):
            self._expect("(")
            name = self._name()
            self._expect(")")
            return self._made(Missing(name, token.position))
        if token.kind == "name":
            return self._name()
        if token.kind in {"number", "text"} or token.text in {"true", "false"}:
            return self._read_literal()
        raise self._unexpected("a name, a number or a string")

    def _name(self) -> Name:
        token = self._tokens[self._at]
        if token.kind != "name":
            raise self._unexpected("a name")
        self._at += 1
        return Name(token.text, token.position)

    def _arithmetic(self, token: _Token, left: Node, right: Node) -> Node:
        """Join two operands; what is constant is computed here, once."""
        if token.text == "/" and isinstance(right, Literal) and right.value == 0:
            raise InvalidRules("division by zero", position=token.position)
        if not (isinstance(left, Literal) and isinstance(right, Literal)):
            return self._made(Arithmetic(token.text, left, right, token.position))
        a, b = left.value, right.value
        if not (isinstance(a, float) and isinstance(b, float)):
            raise InvalidRules(f"{token.text} works on numbers only", position=token.position)
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / (b or 1.0)}[token.text]
        if not math.isfinite(value):
            raise InvalidRules("the constant is too large a number", position=token.position)
        return Literal(value, left.position)

    def _made(self, node: Node) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidRules(f"the condition has more than {MAX_NODES} parts", position=node.position)
        return node

    def _enter(self, token: _Token) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidRules(f"nested deeper than {MAX_DEPTH}", position=token.position)

    def _take(self, text: str) -> bool:
        token = self._tokens[self._at]
        if token.text == text and token.kind in {"keyword", "sign"}:
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(f"{text!r}")

    def _unexpected(self, wanted: str) -> InvalidRules:
        token = self._tokens[self._at]
        found = "the condition ends" if token.kind == "end" else f"found {token.text!r}"
        hint = did_you_mean(token.text, _KEYWORDS) if token.kind == "name" else ""
        return InvalidRules(f"expected {wanted}, {found}{hint}", position=token.position)
