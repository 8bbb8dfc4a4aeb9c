"""The anomaly forest: trained by scikit-learn, laid out flat for serving.

Unsupervised: it knows no labels and flags a fixed share of what it was shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from serving.anomaly import AnomalyForest

__all__ = ["ANOMALY_FEATURES", "CONTAMINATION", "export_forest", "fit_forest"]

ANOMALY_FEATURES = ("amount", "lat", "lon")
CONTAMINATION = 0.1
_TREES = 100
_SAMPLES_PER_TREE = 256
_EULER_GAMMA = 0.5772156649015329


def fit_forest(points: NDArray[np.float64], *, seed: int) -> AnomalyForest:
    """Train on the rows that are whole.

    Args:
        points: ``float64[N, C]``; rows with NaN are left out.
        seed: of the forest.

    Raises:
        ValueError: no row is whole.
    """
    whole = points[~np.isnan(points).any(axis=1)]
    if not len(whole):
        raise ValueError("no row has all of the anomaly features")
    forest = IsolationForest(
        n_estimators=_TREES,
        max_samples=min(_SAMPLES_PER_TREE, len(whole)),
        contamination=CONTAMINATION,
        random_state=seed,
        n_jobs=1,
    )
    return export_forest(forest.fit(whole))


def export_forest(forest: Any) -> AnomalyForest:
    """Lay a fitted ``IsolationForest`` out as flat arrays, with the path length of each leaf worked out."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("feature", "threshold", "children", "path_length", "depth")}
    roots, offset = [], 0
    for estimator, columns in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = estimator.tree_
        is_leaf, depths = tree.children_left < 0, _depths(tree)
        children = np.stack([tree.children_left, tree.children_right], axis=1)
        itself = np.arange(tree.node_count)[:, None]
        roots.append(offset)
        parts["feature"].append(np.where(is_leaf, 0, np.asarray(columns)[np.maximum(tree.feature, 0)]))
        parts["threshold"].append(tree.threshold)
        parts["children"].append(np.where(is_leaf[:, None], itself, children) + offset)
        parts["path_length"].append(depths + _average_path_length(tree.n_node_samples))
        parts["depth"].append(depths)
        offset += tree.node_count
    flat = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    samples = np.array([forest.max_samples_])
    return AnomalyForest(
        roots=np.array(roots, dtype=np.int32),
        feature=flat["feature"].astype(np.int32),
        threshold=flat["threshold"].astype(np.float64),
        children=flat["children"].astype(np.int32),
        path_length=flat["path_length"],
        depth=int(flat["depth"].max()),
        normaliser=float(len(roots) * _average_path_length(samples)[0]) or 1.0,
        flag_above=float(-forest.offset_),
    )


def _depths(tree: Any) -> NDArray[np.float64]:
    """Return the number of cuts above each node; scikit-learn stores parents before their children."""
    depths = np.zeros(tree.node_count)
    for node in range(tree.node_count):
        if tree.children_left[node] >= 0:
            depths[[tree.children_left[node], tree.children_right[node]]] = depths[node] + 1
    return depths


def _average_path_length(samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the expected depth of a node left with so many samples: 2 H(n - 1) - 2 (n - 1) / n."""
    n = samples.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        long = 2 * (np.log(n - 1) + _EULER_GAMMA) - 2 * (n - 1) / n
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, long))
