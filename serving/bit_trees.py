"""LightGBM's trees without branches to guess: QuickScorer (Lucchese et al., SIGIR 2015).

Walking 300 small trees costs about 10 us a row, nearly all of it mispredicted branches.  Here each tree is a word with a bit for
each leaf, from left to right.  Per feature the cuts of all trees stand in order of their thresholds: going up to the event's value,
each cut that fails clears the leaves on its left in its tree.  The lowest bit that is left is the leaf the tree would have reached.
The leaves are then added in the order of the trees, as LightGBM adds them, so the sum is the same to the last bit.

A model with more than 64 leaves in a tree is left to the library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from serving.tree_text import Tree

__all__ = ["ZERO", "BitTrees", "pack_bit_trees"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Words = NDArray[np.uint64]

_MAX_LEAVES = 64
_ALL_LEAVES = (1 << _MAX_LEAVES) - 1
# What is nearer to zero than this the library takes for zero (kZeroThreshold, a float32).
ZERO = float(np.float32(1e-35))
# A de Bruijn sequence: multiplied by a single bit, its six highest bits tell which bit it was.
_DE_BRUIJN = 0x03F79D71B4CB0A89
_BIT_NUMBERS = np.zeros(64, dtype=np.int64)
for _bit in range(64):
    _BIT_NUMBERS[((_DE_BRUIJN << _bit) & _ALL_LEAVES) >> 58] = _bit


@njit("void(float64[:, ::1], int32[::1], float64[::1], uint64[::1], int64[::1], float64[::1])", cache=True, nogil=True)
def _score(matrix: Floats, layout: Ints, numbers: Floats, words: Words, bit_numbers: Ints, out: Floats) -> None:
    features, trees = layout[0], layout[1]
    columns = 2
    cuts = columns + features
    missing = cuts + features + 1
    cut_tree = missing + features + 1
    cut_count = layout[cuts + features]
    missing_tree = cut_tree + cut_count
    leaves = missing_tree + layout[missing + features]
    left = np.empty(trees, dtype=np.uint64)
    for row in range(matrix.shape[0]):
        for tree in range(trees):
            left[tree] = np.uint64(_ALL_LEAVES)
        for feature in range(features):
            value = matrix[row, layout[columns + feature]]
            if math.isnan(value):
                for i in range(layout[missing + feature], layout[missing + feature + 1]):
                    left[layout[missing_tree + i]] &= words[cut_count + i]
            else:
                if abs(value) <= ZERO:
                    value = 0.0
                i = layout[cuts + feature]
                while numbers[i] < value:  # the last threshold of a feature is infinite
                    left[layout[cut_tree + i]] &= words[i]
                    i += 1
        total = 0.0
        for tree in range(trees):
            lowest = left[tree] & (~left[tree] + np.uint64(1))
            leaf = bit_numbers[(lowest * np.uint64(_DE_BRUIJN)) >> np.uint64(58)]
            total += numbers[cut_count + layout[leaves + tree] + leaf]
        out[row] = total


@dataclass(frozen=True, slots=True, eq=False)
class BitTrees:
    """The trees of a model, packed into three arrays so that a call hands over few.

    Attributes:
        layout: ``int32``: counts of features and trees; column of each feature; where its cuts begin (one more for the end); where
            its cuts that fail for a missing value begin; tree of each cut; tree of each of those; where each tree's leaves begin.
        numbers: ``float64``: threshold of each cut, then the leaf values.
        words: ``uint64``: the leaves that survive when a cut fails, for each cut, then for those of missing values.
    """

    layout: Ints
    numbers: Floats
    words: Words

    def predict(self, matrix: Floats) -> Floats:
        """Return raw scores ``float64[B]`` of feature vectors ``float64[B, F]``; keeps nothing, so threads may share it."""
        out = np.empty(matrix.shape[0])
        _score(np.ascontiguousarray(matrix, dtype=np.float64), self.layout, self.numbers, self.words, _BIT_NUMBERS, out)
        return out

    def probes(self, width: int, rows: int, seed: int = 0) -> Floats:
        """Return ``float64[rows, width]`` vectors that sit on, just below and just above the cuts, or are missing or extreme."""
        random = np.random.default_rng(seed)
        features = int(self.layout[0])
        matrix = np.zeros((rows, width))
        for feature in range(features):
            start, end = self.layout[2 + features + feature], self.layout[3 + features + feature]
            at = random.choice(self.numbers[start:end], rows)  # the infinite one included
            near = np.choose(random.integers(0, 3, rows), [at, np.nextafter(at, -math.inf), np.nextafter(at, math.inf)])
            odd = random.choice([math.nan, math.nan, 0.0, -0.0, -math.inf, 1e-40, 1e300], rows)
            matrix[:, self.layout[2 + feature]] = np.where(random.random(rows) < 0.25, odd, near)
        return matrix


@dataclass(frozen=True, slots=True)
class _Cut:
    feature: int
    threshold: float
    tree: int
    survivors: int
    fails_when_missing: bool


def pack_bit_trees(trees: Sequence[Tree], columns: NDArray[np.intp]) -> BitTrees | None:
    """Lay out the trees of a model.

    Args:
        trees: of the model.
        columns: where the model's features stand in the feature vector, in the model's order.

    Returns:
        The trees, or ``None`` when there are none, or one with too many leaves.
    """
    if not trees or any(len(tree.values) > _MAX_LEAVES for tree in trees):
        return None
    cuts: list[_Cut] = []
    leaf_starts: list[int] = []
    leaf_values: list[float] = []
    for number, tree in enumerate(trees):
        leaf_starts.append(len(leaf_values))
        leaf_values += _add_cuts(number, tree, cuts)
    return _packed(columns, cuts, leaf_starts, leaf_values)


def _add_cuts(number: int, tree: Tree, cuts: list[_Cut]) -> list[float]:
    """Append the cuts of one tree and return its leaf values from left to right."""
    order: list[int] = []

    def visit(node: int) -> None:
        if node < 0:
            order.append(~node)
            return
        start = len(order)
        visit(tree.lefts[node])
        cleared = (1 << len(order)) - (1 << start)
        survivors = _ALL_LEAVES & ~cleared
        cuts.append(_Cut(tree.features[node], tree.thresholds[node], number, survivors, not tree.missing_goes_left[node]))
        visit(tree.rights[node])

    visit(0 if tree.features else ~0)
    return [tree.values[leaf] for leaf in order]


def _packed(columns: NDArray[np.intp], cuts: list[_Cut], leaf_starts: list[int], leaf_values: list[float]) -> BitTrees:
    by_feature: list[list[_Cut]] = [[] for _ in columns]
    for cut in cuts:
        by_feature[cut.feature].append(cut)
    ordered: list[_Cut] = []
    of_missing: list[_Cut] = []
    starts, missing_starts = [0], [0]
    for feature, own in enumerate(by_feature):
        own.sort(key=lambda cut: cut.threshold)
        ordered += [*own, _Cut(feature, math.inf, 0, _ALL_LEAVES, fails_when_missing=False)]
        of_missing += [cut for cut in own if cut.fails_when_missing]
        starts.append(len(ordered))
        missing_starts.append(len(of_missing))
    trees = [cut.tree for cut in (*ordered, *of_missing)]
    layout = [len(columns), len(leaf_starts), *columns.tolist(), *starts, *missing_starts, *trees, *leaf_starts]
    return BitTrees(
        layout=np.array(layout, dtype=np.int32),
        numbers=np.array([cut.threshold for cut in ordered] + leaf_values, dtype=np.float64),
        words=np.array([cut.survivors for cut in (*ordered, *of_missing)], dtype=np.uint64),
    )
