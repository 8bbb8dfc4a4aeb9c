"""The anomaly forest at serving time: an Isolation Forest as flat arrays, walked by compiled code.

scikit-learn trains it (``training.anomaly``) and is not needed to serve it.  The score is the paper's (Liu, Ting and Zhou,
"Isolation Forest", 2008): ``2 ** (-mean path length / c)``, near 1 for what is isolated after few cuts, about 0.5 and below for
what is not.  A row with a missing value has no score and no flag.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from io import BytesIO
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numba import njit
from numpy.typing import NDArray

from serving.model_files import ModelRefused

__all__ = ["AnomalyForest", "BoundForest"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
_DTYPES: dict[str, type] = {
    "roots": np.int32,
    "feature": np.int32,
    "threshold": np.float64,
    "children": np.int32,
    "path_length": np.float64,
    "depth": np.int64,
    "normaliser": np.float64,
    "flag_above": np.float64,
}
_SCALARS: dict[str, type] = {"depth": int, "normaliser": float, "flag_above": float}


@njit(
    "void(float64[:, ::1], int32[::1], int32[::1], float64[::1], int32[:, ::1], float64[::1], int64, float64, float64[::1])",
    cache=True,
    nogil=True,
)
def _score(
    points: Floats,
    roots: Ints,
    feature: Ints,
    threshold: Floats,
    children: Ints,
    path_length: Floats,
    depth: int,
    normaliser: float,
    out: Floats,
) -> None:
    trees, columns = roots.shape[0], points.shape[1]
    nodes = np.empty(trees, dtype=np.int32)
    values = np.empty(columns)
    for row in range(points.shape[0]):
        missing = False
        for column in range(columns):
            missing |= math.isnan(points[row, column])
            # scikit-learn compares the value as float32 with a float64 threshold
            values[column] = np.float64(np.float32(points[row, column]))
        if missing:
            out[row] = math.nan
            continue
        nodes[:] = roots
        # All trees one level at a time, and a leaf leads to itself: no branch to mispredict, and the trees' steps overlap.
        for _ in range(depth):
            for tree in range(trees):
                node = nodes[tree]
                nodes[tree] = children[node, np.int64(values[feature[node]] > threshold[node])]
        total = 0.0
        for tree in range(trees):
            total += path_length[nodes[tree]]
        out[row] = 2.0 ** (-total / normaliser)


@dataclass(frozen=True, slots=True, eq=False)
class AnomalyForest:
    """All trees of a forest, one node after the other.

    Attributes:
        roots: ``int32[T]``, first node of each tree.
        feature: ``int32[N]``, column compared at a node.
        threshold: ``float64[N]``, what it is compared with.
        children: ``int32[N, 2]``, where a value at most the threshold and one above it go; a leaf leads to itself.
        path_length: ``float64[N]``, at a leaf: its depth plus the expected depth of what was not split further.
        depth: cuts on the longest way to a leaf.
        normaliser: trees times the expected path length of one sample.
        flag_above: a score above this is an anomaly: the share ``contamination`` of the training rows.
    """

    roots: Ints
    feature: Ints
    threshold: Floats
    children: Ints
    path_length: Floats
    depth: int
    normaliser: float
    flag_above: float

    def evaluate(self, points: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Score a batch.

        Args:
            points: ``float64[B, C]`` in the column order of training; NaN is missing.

        Returns:
            Scores ``float64[B]`` in 0..1, NaN where a value is missing, and flags ``bool[B]``.
        """
        points = np.ascontiguousarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] <= int(self.feature.max(initial=0)):
            raise ValueError(f"points of shape {points.shape} do not fit the forest")
        score = np.empty(points.shape[0])
        _score(
            points,
            self.roots,
            self.feature,
            self.threshold,
            self.children,
            self.path_length,
            self.depth,
            self.normaliser,
            score,
        )
        return score, score > self.flag_above

    def to_bytes(self) -> bytes:
        """Return the forest as an ``.npz`` without pickles, the same bytes for the same forest."""
        buffer = BytesIO()
        np.savez(buffer, **{field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> AnomalyForest:
        """Read a forest and check that no walk can leave it.

        Raises:
            ModelRefused: not a forest.
        """
        try:
            with np.load(BytesIO(data), allow_pickle=False) as archive:
                arrays: dict[str, Any] = {name: np.ascontiguousarray(archive[name], dtype) for name, dtype in _DTYPES.items()}
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise ModelRefused(f"the anomaly forest cannot be read: {type(error).__name__}") from None
        if any(arrays[name].size != 1 for name in _SCALARS):
            raise ModelRefused("the anomaly forest is damaged")
        forest = cls(**arrays | {name: kind(arrays[name].item()) for name, kind in _SCALARS.items()})
        if not forest._is_sound():
            raise ModelRefused("the anomaly forest is damaged")
        return forest

    def _is_sound(self) -> bool:
        """No index leaves the arrays, and the depth is one that a tree of so many nodes can have."""
        nodes = len(self.feature)
        shapes = [array.shape for array in (self.feature, self.threshold, self.path_length, self.children, self.roots)]
        return bool(
            shapes[:4] == [(nodes,), (nodes,), (nodes,), (nodes, 2)]
            and len(shapes[4]) == 1
            and self.roots.size > 0
            and all(np.all((array >= 0) & (array < nodes)) for array in (self.roots, self.children))
            and np.all(self.feature >= 0)
            and 0 <= self.depth <= nodes
            and self.normaliser > 0
        )


@dataclass(frozen=True, slots=True)
class BoundForest:
    """A forest and the columns of the feature vector that it reads."""

    forest: AnomalyForest
    columns: NDArray[np.intp]

    def evaluate(self, features: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Score ``float64[B, F]`` feature vectors; see :meth:`AnomalyForest.evaluate`."""
        return self.forest.evaluate(features[:, self.columns])
