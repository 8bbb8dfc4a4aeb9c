"""Tree SHAP values, most of the work done in advance: those of LightGBM's library to the last bit, in a fraction of its time.

What a leaf gives to the features above it (Lundberg et al., "Consistent Individualized Feature Attribution for Tree Ensembles",
arXiv:1802.03888, algorithm 2) depends on a row only in this: which of the cuts above the leaf the row would pass on the leaf's side.
With few cuts above, all cases fit into a table (Yang, "Fast TreeSHAP", arXiv:2109.09847, algorithm 3).  The table is filled with the
library's own operations in their order, and the leaves of a tree are added in the order in which the library reaches them, on the row's
side of each cut first.  So the sums are the library's.

A model whose trees are too deep for tables is left to the library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from serving.bit_trees import ZERO
from serving.tree_text import Tree

__all__ = ["ShapTables", "tabulate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_MAX_DEPTH = 10
_MAX_CELLS = 1 << 21  # 16 MiB
_COLUMN, _LEFT, _RIGHT, _MISSING_LEFT = range(4)
_CELLS, _FEATURES, _SIZE = range(3)


@njit("void(int64[::1], float64[::1], float64[::1], float64[::1], int64, int64)", cache=True)
def _unwind(feature: Ints, zero: Floats, one: Floats, weight: Floats, depth: int, at: int) -> None:
    zero_at, one_at, after = zero[at], one[at], weight[depth]
    for i in range(depth - 1, -1, -1):
        if one_at != 0.0:
            before = weight[i]
            weight[i] = after * (depth + 1) / ((i + 1) * one_at)
            after = before - weight[i] * zero_at * (depth - i) / (depth + 1)
        else:
            weight[i] = weight[i] * (depth + 1) / (zero_at * (depth - i))
    for i in range(at, depth):
        feature[i], zero[i], one[i] = feature[i + 1], zero[i + 1], one[i + 1]


@njit("float64(float64, float64, float64[::1], int64)", cache=True)
def _unwound_sum(zero_at: float, one_at: float, weight: Floats, depth: int) -> float:
    after, total = weight[depth], 0.0
    for i in range(depth - 1, -1, -1):
        if one_at != 0.0:
            part = after * (depth + 1) / ((i + 1) * one_at)
            total += part
            after = weight[i] - part * zero_at * ((depth - i) / (depth + 1))
        else:
            total += weight[i] / zero_at / ((depth - i) / (depth + 1))
    return total


@njit("void(int32[::1], float64[::1], float64, float64[:, ::1])", cache=True)
def _fill(features: Ints, ratios: Floats, value: float, out: Floats) -> None:
    """What one leaf gives, for each case: bit k of the case says whether the row passes the k-th cut from the root on the leaf's side."""
    cuts = features.shape[0]
    feature = np.empty(cuts + 1, dtype=np.int64)
    zero, one, weight = np.empty(cuts + 1), np.empty(cuts + 1), np.empty(cuts + 1)
    for case in range(1 << cuts):
        feature[0], zero[0], one[0], weight[0] = -1, 1.0, 1.0, 1.0
        depth = 0
        for cut in range(cuts):
            zero_above, one_above = 1.0, 1.0
            for at in range(1, depth + 1):
                if feature[at] == features[cut]:
                    zero_above, one_above = zero[at], one[at]
                    _unwind(feature, zero, one, weight, depth, at)
                    depth -= 1
                    break
            depth += 1
            zero_here, one_here = ratios[cut] * zero_above, one_above if case >> cut & 1 else 0.0
            feature[depth], zero[depth], one[depth], weight[depth] = features[cut], zero_here, one_here, 0.0
            for i in range(depth - 1, -1, -1):
                weight[i + 1] += one_here * weight[i] * (i + 1) / (depth + 1)
                weight[i] = zero_here * weight[i] * (depth - i) / (depth + 1)
        for at in range(1, depth + 1):
            out[case, at - 1] = _unwound_sum(zero[at], one[at], weight, depth) * (one[at] - zero[at]) * value


_EXPLAIN = "void(float64[:, ::1], int32[::1], int32[:, ::1], float64[::1], int32[:, ::1], int32[::1], float64[::1], float64[:, ::1])"


@njit(_EXPLAIN, cache=True, nogil=True)
def _explain(matrix: Floats, roots: Ints, cuts: Ints, thresholds: Floats, leaves: Ints, features: Ints, cells: Floats, out: Floats) -> None:
    nodes = np.empty(_MAX_DEPTH + 1, dtype=np.int64)
    depths = np.empty(_MAX_DEPTH + 1, dtype=np.int64)
    cases = np.empty(_MAX_DEPTH + 1, dtype=np.int64)
    for root in roots:
        for row in range(matrix.shape[0]):
            nodes[0], depths[0], cases[0] = root, 0, 0
            waiting = 1
            while waiting:
                waiting -= 1
                node, depth, case = nodes[waiting], depths[waiting], cases[waiting]
                while node >= 0:
                    value = matrix[row, cuts[node, _COLUMN]]
                    value = 0.0 if abs(value) <= ZERO else value
                    # no branches to guess: a value that is missing is not less
                    side = int(not (value <= thresholds[node])) & ~(int(math.isnan(value)) & cuts[node, _MISSING_LEFT])
                    nodes[waiting], depths[waiting], cases[waiting] = cuts[node, _RIGHT - side], depth + 1, case
                    waiting += 1
                    node = cuts[node, _LEFT + side]
                    case |= 1 << depth
                    depth += 1
                size, first = leaves[~node, _SIZE], leaves[~node, _FEATURES]
                at = leaves[~node, _CELLS] + case * size
                for i in range(size):
                    out[row, features[first + i]] += cells[at + i]


@dataclass(frozen=True, slots=True, eq=False)
class ShapTables:
    """The tables of a model.

    Attributes:
        base: of every row.
        width: how many features the model has.
        roots: ``int32``: the first cut of each tree.
        cuts: ``int32[cuts, 4]``: column of the vector, the cut below on either side or ``~leaf``, whether a missing value goes left.
        thresholds: ``float64[cuts]``.
        leaves: ``int32[leaves, 3]``: where its cells begin, where its features begin, how many these are.
        features: ``int32``: leaf by leaf, places among the model's features.
        cells: ``float64``: leaf by leaf and case by case, a number for each of its features.
    """

    base: float
    width: int
    roots: Ints
    cuts: Ints
    thresholds: Floats
    leaves: Ints
    features: Ints
    cells: Floats

    def contributions(self, matrix: Floats) -> Floats:
        """Return SHAP values ``float64[B, C + 1]``, the base last, of feature vectors ``float64[B, F]``; threads may share it."""
        out = np.zeros((matrix.shape[0], self.width + 1))
        rows = np.ascontiguousarray(matrix, dtype=np.float64)
        _explain(rows, self.roots, self.cuts, self.thresholds, self.leaves, self.features, self.cells, out)
        out[:, -1] = self.base
        return out


@dataclass(frozen=True, slots=True)
class _Path:
    """The way to one leaf: its features, and which share of the rows that came by each cut went on."""

    leaf: int
    features: list[int]
    ratios: list[float]


def tabulate(trees: Sequence[Tree], columns: NDArray[np.intp], base: float) -> ShapTables | None:
    """Fill the tables.

    Args:
        trees: of the model.
        columns: where the model's features stand in the feature vector, in the model's order.
        base: what the library says it is.

    Returns:
        The tables, or None when there would be too much of them.
    """
    roots: list[int] = []
    cuts: list[tuple[int, int, int, int]] = []
    thresholds: list[float] = []
    leaves: list[tuple[int, int, int]] = []
    features: list[int] = []
    cells: list[Floats] = []
    used = 0
    for tree in trees:
        if not tree.features:
            continue
        first_cut, first_leaf = len(cuts), len(leaves)
        roots.append(first_cut)
        for cut, feature in enumerate(tree.features):
            left, right = (child + first_cut if child >= 0 else child - first_leaf for child in (tree.lefts[cut], tree.rights[cut]))
            cuts.append((int(columns[feature]), left, right, int(tree.missing_goes_left[cut])))
        thresholds += tree.thresholds
        for path in sorted(_paths(tree, 0, [], []), key=lambda path: path.leaf):
            distinct = _in_last_order(path.features)
            size = len(distinct) << len(path.features)
            if len(path.features) > _MAX_DEPTH or used + size > _MAX_CELLS:
                return None
            table = np.empty((1 << len(path.features), len(distinct)))
            _fill(np.array(path.features, dtype=np.int32), np.array(path.ratios), tree.values[path.leaf], table)
            leaves.append((used, len(features), len(distinct)))
            features += distinct
            cells.append(table.ravel())
            used += size
    if not cells:
        return None
    return ShapTables(
        base=base,
        width=len(columns),
        roots=np.array(roots, dtype=np.int32),
        cuts=np.array(cuts, dtype=np.int32),
        thresholds=np.array(thresholds),
        leaves=np.array(leaves, dtype=np.int32),
        features=np.array(features, dtype=np.int32),
        cells=np.concatenate(cells),
    )


def _paths(tree: Tree, node: int, features: list[int], ratios: list[float]) -> Iterator[_Path]:
    if node < 0:
        yield _Path(~node, features, ratios)
        return
    if len(features) > _MAX_DEPTH:
        yield _Path(-1, features, ratios)  # too deep, whatever is below
        return
    for child in (tree.lefts[node], tree.rights[node]):
        count = tree.cut_counts[child] if child >= 0 else tree.leaf_counts[~child]
        yield from _paths(tree, child, [*features, tree.features[node]], [*ratios, count / tree.cut_counts[node]])


def _in_last_order(features: list[int]) -> list[int]:
    """Each feature once, in the order of its last cut: where the path leaves it."""
    return list(dict.fromkeys(reversed(features)))[::-1]
