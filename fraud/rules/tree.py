"""The tree of a condition.  ``position`` is the character of the text, counted from 1, that an error message points at."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AllOf", "AnyOf", "Arithmetic", "Between", "Compare", "In", "Literal", "Missing", "Name", "Node", "Not"]


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, a string or a truth value."""

    value: float | str | bool
    position: int


@dataclass(frozen=True, slots=True)
class Name:
    """A feature or a field."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``left sign right`` over numbers; negation is ``0 - x``."""

    sign: str
    left: Node
    right: Node
    position: int


@dataclass(frozen=True, slots=True)
class Compare:
    """``left sign right``, a truth value."""

    sign: str
    left: Node
    right: Node
    position: int


@dataclass(frozen=True, slots=True)
class In:
    """``item in (values)``."""

    item: Node
    values: tuple[Literal, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Between:
    """``low <= item <= high``."""

    item: Node
    low: Node
    high: Node
    position: int


@dataclass(frozen=True, slots=True)
class Missing:
    """``missing(name)``: the one condition that a missing value makes true."""

    name: Name
    position: int


@dataclass(frozen=True, slots=True)
class Not:
    """Negation; unknown stays unknown."""

    item: Node
    position: int


@dataclass(frozen=True, slots=True)
class AllOf:
    """``and`` of two or more."""

    items: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class AnyOf:
    """``or`` of two or more."""

    items: tuple[Node, ...]
    position: int


Node = Literal | Name | Arithmetic | Compare | In | Between | Missing | Not | AllOf | AnyOf
