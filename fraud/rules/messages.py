"""Message templates of rules: ``"{amount_usd:.2f} USD > 2,000"``, with the values that the rule saw put in.

Templates may come from a topic, so only names of the vocabulary and short number formats are accepted, never ``str.format``'s
attribute access or widths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from string import Formatter
from typing import Any

from fraud.rules.errors import InvalidRules
from fraud.rules.vocabulary import Type, Vocabulary, Word

__all__ = ["MISSING", "Template", "parse_template"]

MISSING = "missing"
MAX_CHARACTERS = 500
_NUMBER_FORMAT = re.compile(r"(,)?(\.\d)?[feg%]?")


@dataclass(frozen=True, slots=True)
class Template:
    """A message as literal texts with a value after each but the last: ``len(literals) == len(words) + 1``."""

    literals: tuple[str, ...]
    words: tuple[Word, ...]
    formats: tuple[str, ...]

    def fill(self, value_of: Callable[[Word], Any]) -> str:
        """Put the values in; ``None`` and NaN are written as "missing"."""
        parts = [self.literals[0]]
        for word, spec, literal in zip(self.words, self.formats, self.literals[1:], strict=True):
            parts.append(_written(value_of(word), word.type, spec))
            parts.append(literal)
        return "".join(parts)

    def fill_all(self, columns_of: Callable[[Word], Sequence[Any]], count: int) -> list[str]:
        """What :meth:`fill` writes for each of ``count`` events: a column of their values for each word."""
        parts: list[Iterable[str]] = [repeat(self.literals[0], count)]
        for word, spec, literal in zip(self.words, self.formats, self.literals[1:], strict=True):
            parts.append([_written(value, word.type, spec) for value in columns_of(word)])
            parts.append(repeat(literal, count))
        return list(map("".join, zip(*parts, strict=True)))


def parse_template(text: str, vocabulary: Vocabulary) -> Template:
    """Check a template's names and formats.

    Raises:
        InvalidRules: an unbalanced brace, an unknown name, or a format that does not suit the value.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidRules(f"the message is longer than {MAX_CHARACTERS} characters")
    literals, words, formats = [""], [], []
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise InvalidRules(f"message: {error}") from None
    for literal, name, spec, conversion in pieces:
        literals[-1] += literal
        if name is None:
            continue
        if conversion or not name.isidentifier():
            raise InvalidRules(f"message: {{{name}}} must be a plain name, with a format such as .2f at most")
        words.append(_word(name, vocabulary))
        formats.append(_format(spec or "", words[-1]))
        literals.append("")
    return Template(tuple(literals), tuple(words), tuple(formats))


def _word(name: str, vocabulary: Vocabulary) -> Word:
    try:
        return vocabulary.find(name)
    except InvalidRules as error:
        raise InvalidRules(f"message: {error.problem}") from None


def _format(spec: str, word: Word) -> str:
    if word.type is Type.NUMBER and _NUMBER_FORMAT.fullmatch(spec):
        # A bare "," or ".2" would mean significant digits for a float; decimals are what people expect.
        return spec if not spec or spec[-1] in "feg%" else f"{spec if '.' in spec else spec + '.0'}f"
    if spec:
        raise InvalidRules(f"message: format {spec!r} does not suit {word.name!r}, {word.type}")
    return spec


def _written(value: Any, kind: Type, spec: str) -> str:
    if value is None or (kind is Type.NUMBER and math.isnan(value)):
        return MISSING
    if kind is Type.TRUTH:
        return "true" if value else "false"
    if kind is Type.TEXT:
        return str(value)
    if spec:
        return format(float(value), spec)
    return str(int(value)) if float(value).is_integer() else f"{value:.4f}".rstrip("0").rstrip(".")
