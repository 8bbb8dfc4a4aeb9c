"""What reads like a card number: the one thing that no log and no dead letter may hold, whoever put it there."""

from __future__ import annotations

import re

__all__ = ["has_card_number", "is_card_number", "without_card_numbers"]

_DIGIT_RUN = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")


def is_card_number(digits: str) -> bool:
    """Luhn's check over 13 to 19 digits; one in ten other numbers of that length passes too."""
    if not 13 <= len(digits) <= 19:
        return False
    numbers = [int(digit) for digit in digits[::-1]]
    return (sum(numbers[::2]) + sum(sum(divmod(2 * number, 10)) for number in numbers[1::2])) % 10 == 0


def has_card_number(text: str) -> bool:
    """Whether some run of digits in a text, with or without spaces and dashes in it, reads like one."""
    return any(is_card_number(_digits_of(match)) for match in _DIGIT_RUN.finditer(text))


def without_card_numbers(text: str, replacement: str) -> str:
    """The text with ``replacement`` in the place of each."""
    return _DIGIT_RUN.sub(lambda match: replacement if is_card_number(_digits_of(match)) else match.group(), text)


def _digits_of(match: re.Match[str]) -> str:
    return re.sub(r"[ -]", "", match.group())
