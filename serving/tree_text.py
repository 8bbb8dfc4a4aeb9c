"""The trees of LightGBM's text format, as far as the forms of our own can represent them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Tree", "parse_trees"]

_CATEGORICAL, _DEFAULT_LEFT, _MISSING_SHIFT = 1, 2, 2
_MISSING_ZERO, _MISSING_NAN = 1, 2


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: its cuts by number, the root first, and its leaves by number.

    Attributes:
        features: of each cut, the place among the model's features.
        thresholds: of each cut; a value that is not greater goes left.
        missing_goes_left: of each cut.
        lefts, rights: of each cut, the cut below, or ``~leaf``.
        cut_counts, leaf_counts: training rows that came by.
        values: of each leaf.
    """

    features: list[int]
    thresholds: list[float]
    missing_goes_left: list[bool]
    lefts: list[int]
    rights: list[int]
    cut_counts: list[int]
    leaf_counts: list[int]
    values: list[float]


class _NotRepresentable(ValueError):
    """A tree that is more than cuts at thresholds and numbers in leaves."""


def parse_trees(text: str) -> list[Tree] | None:
    """The trees of a model text; None for categorical cuts, linear leaves, zero as missing, or a text that is not understood."""
    try:
        return [_tree(fields) for fields in _sections(text)]
    except (_NotRepresentable, KeyError, ValueError):
        return None


def _sections(text: str) -> Iterator[Mapping[str, str]]:
    header, *sections = text.split("\nTree=")
    if "\naverage_output" in header:
        raise _NotRepresentable("a random forest averages")
    for section in sections:
        lines = section.split("\n\n", 1)[0].split("\n")[1:]
        yield dict(line.split("=", 1) for line in lines if "=" in line)


def _tree(fields: Mapping[str, str]) -> Tree:
    if fields.get("is_linear", "0") != "0":
        raise _NotRepresentable("linear leaves")
    values = [float(word) for word in fields["leaf_value"].split()]
    if len(values) == 1:
        return Tree([], [], [], [], [], [], [0], values)
    names = ("split_feature", "decision_type", "left_child", "right_child", "internal_count", "leaf_count")
    features, decisions, lefts, rights, cut_counts, leaf_counts = ([int(word) for word in fields[name].split()] for name in names)
    thresholds = [float(word) for word in fields["threshold"].split()]
    missing_goes_left = [_missing_goes_left(decision, at) for decision, at in zip(decisions, thresholds, strict=True)]
    return Tree(features, thresholds, missing_goes_left, lefts, rights, cut_counts, leaf_counts, values)


def _missing_goes_left(decision: int, threshold: float) -> bool:
    missing = decision >> _MISSING_SHIFT
    if decision & _CATEGORICAL or missing == _MISSING_ZERO:
        raise _NotRepresentable("a categorical cut, or zero as missing")
    if missing == _MISSING_NAN:
        return bool(decision & _DEFAULT_LEFT)
    return threshold >= 0.0  # a feature that never was missing in training: LightGBM takes NaN for zero
