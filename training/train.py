"""Train, calibrate, measure and publish a model from arrays of features.

The features come from the same kernel that serves them; where they were computed is not this module's business.  The split is
by time, since fraud moves: the model learns from the oldest rows, is calibrated on the ones after, and measured on the newest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from serving.model_files import AnomalyFile, Calibration, Manifest, publish
from training.anomaly import ANOMALY_FEATURES, fit_forest
from training.calibrate import NotTrainable, fit_platt
from training.metrics import evaluate

__all__ = ["PARAMETERS", "ROUNDS", "NotTrainable", "Split", "TrainingReport", "split_by_time", "train", "train_booster"]

# Small trees over fine bins: the default of 255 bins cost 0.03-0.045 average precision on the Handbook's data.
PARAMETERS: Mapping[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 8,
    "min_data_in_leaf": 5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.8,
    "max_bin": 4095,
    "min_data_in_bin": 1,
    "num_threads": 2,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
ROUNDS = 300
# Raw coordinates are for the anomaly forest: trees would learn the places of the training fraud by heart.
_NOT_FOR_THE_CLASSIFIER = frozenset({"lat", "lon"})
_HASHED_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of the rows, in order of time; what remains is the test part."""

    train: float = 0.6
    calibration: float = 0.2

    def __post_init__(self) -> None:
        if self.train <= 0 or self.calibration <= 0 or self.train + self.calibration >= 1:
            raise ValueError("train and calibration must be positive and leave rows to test on")


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came of a training: the published model, and its metrics on the newest rows."""

    sha256: str
    folder: Path
    manifest: Manifest

    @property
    def metrics(self) -> Mapping[str, float]:
        """Measured on the test part, which neither the trees nor the calibration saw."""
        return self.manifest.metrics


def train(
    features: NDArray[np.float64],
    feature_names: Sequence[str],
    labels: NDArray[np.bool_],
    times_ms: NDArray[np.int64],
    out_dir: Path,
    *,
    seed: int,
    catalogue_version: str,
    split: Split = Split(),
    parameters: Mapping[str, Any] = PARAMETERS,
    rounds: int = ROUNDS,
) -> TrainingReport:
    """Train and publish a model.  The same arguments give the same files.

    Args:
        features: ``float64[N, F]``, NaN for missing, in the order of ``feature_names``.
        feature_names: names of the catalogue; columns that never vary are left out of the model.
        labels: ``bool[N]``, whether the row turned out to be fraud.
        times_ms: ``int64[N]``, event times; rows may come in any order.
        out_dir: folder of published models.
        seed: of LightGBM and of the anomaly forest.
        catalogue_version: recorded with the model.
        split: shares of train, calibration and test.
        parameters: of LightGBM.
        rounds: number of trees.

    Returns:
        The published model and its metrics.

    Raises:
        NotTrainable: a part without fraud or without honest rows, features that never vary, or nothing learned.
        ValueError: arrays that do not fit each other.
    """
    _check_shapes(features, feature_names, labels, times_ms)
    parts = split_by_time(times_ms, split)
    for name, rows in parts.items():
        if not 0 < np.sum(labels[rows]) < len(rows):
            raise NotTrainable(f"the {name} part ({len(rows)} rows) needs rows with fraud and without")
    columns = _informative(features, parts["train"], feature_names)
    names = [feature_names[column] for column in columns]
    booster = train_booster(features[np.ix_(parts["train"], columns)], names, labels[parts["train"]], seed, parameters, rounds)
    raw = {name: _raw(booster, features[np.ix_(parts[name], columns)]) for name in ("calibration", "test")}
    calibration = fit_platt(raw["calibration"], labels[parts["calibration"]])
    anomaly = _anomaly(features, parts["train"], feature_names, seed)
    manifest = Manifest(
        feature_names=tuple(names),
        catalogue_version=catalogue_version,
        calibration=calibration,
        anomaly=None if anomaly is None else AnomalyFile(sha256(anomaly).hexdigest(), ANOMALY_FEATURES),
        metrics=_metrics(raw["test"], labels[parts["test"]], calibration),
        hyper_parameters={**parameters, "rounds": rounds, "seed": seed},
        training={
            "data_sha256": _data_sha256(features, feature_names, labels, times_ms),
            "from_ms": int(times_ms.min()),
            "to_ms": int(times_ms.max()),
            "rows": {name: len(rows) for name, rows in parts.items()},
            "frauds": {name: int(np.sum(labels[rows])) for name, rows in parts.items()},
        },
    )
    digest = publish(out_dir, booster.model_to_string(), manifest, anomaly)
    return TrainingReport(digest, out_dir / digest, manifest)


def train_booster(
    features: NDArray[np.float64],
    names: Sequence[str],
    labels: NDArray[np.bool_],
    seed: int,
    parameters: Mapping[str, Any] = PARAMETERS,
    rounds: int = ROUNDS,
) -> Any:
    """Train the trees alone and return LightGBM's ``Booster``; missing values are its own NaN handling's business."""
    data = lightgbm.Dataset(features, labels.astype(np.float64), feature_name=list(names), free_raw_data=True)
    return lightgbm.train({**parameters, "seed": seed}, data, rounds)


def split_by_time(times_ms: NDArray[np.int64], split: Split) -> dict[str, NDArray[np.intp]]:
    """Cut the rows into ``train``, ``calibration`` and ``test``; rows of one instant stay together, in the later part.

    Returns:
        Row numbers of each part, in order of time.
    """
    order = np.argsort(times_ms, kind="stable")
    times = times_ms[order]
    shares = (split.train, split.train + split.calibration)
    cuts = [int(np.searchsorted(times, times[int(len(times) * share)])) for share in shares] if len(times) else [0, 0]
    return {"train": order[: cuts[0]], "calibration": order[cuts[0] : cuts[1]], "test": order[cuts[1] :]}


def _check_shapes(
    features: NDArray[np.float64], feature_names: Sequence[str], labels: NDArray[np.bool_], times_ms: NDArray[np.int64]
) -> None:
    if features.ndim != 2 or features.shape[1] != len(feature_names):
        raise ValueError(f"features of shape {features.shape} do not have the {len(feature_names)} columns named")
    if labels.shape != (len(features),) or times_ms.shape != (len(features),):
        raise ValueError(f"{len(features)} rows, but labels {labels.shape} and times {times_ms.shape}")
    if labels.dtype != np.bool_:
        raise ValueError(f"labels must be bool, not {labels.dtype}: a row whose label is unknown is no training row")


def _informative(features: NDArray[np.float64], rows: NDArray[np.intp], feature_names: Sequence[str]) -> NDArray[np.intp]:
    """Return the columns that vary: no tree can cut the others, and serving would gather them for nothing."""
    kept = []
    for column, name in enumerate(feature_names):
        if name in _NOT_FOR_THE_CLASSIFIER:
            continue
        values = features[rows, column]
        known = values[~np.isnan(values)]
        if len(known) and (len(known) < len(values) or known.min() < known.max()):
            kept.append(column)
    if not kept:
        raise NotTrainable("no feature varies over the training rows")
    return np.array(kept, dtype=np.intp)


def _raw(booster: Any, features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(booster.predict(features, raw_score=True, num_threads=2), dtype=np.float64)


def _anomaly(features: NDArray[np.float64], rows: NDArray[np.intp], feature_names: Sequence[str], seed: int) -> bytes | None:
    """Train the forest where its features are in the vector and some row has all of them."""
    if not set(ANOMALY_FEATURES) <= set(feature_names):
        return None
    columns = np.array([list(feature_names).index(name) for name in ANOMALY_FEATURES])
    points = features[np.ix_(rows, columns)]
    if np.isnan(points).any(axis=1).all():
        return None
    return fit_forest(points, seed=seed).to_bytes()


def _metrics(raw: NDArray[np.float64], labels: NDArray[np.bool_], calibration: Calibration) -> dict[str, float]:
    probability = 1.0 / (1.0 + np.exp(-np.clip(calibration.a * raw + calibration.b, -700, 700)))
    uncalibrated = evaluate(1.0 / (1.0 + np.exp(-np.clip(raw, -700, 700))), labels)
    before = {f"{name}_uncalibrated": uncalibrated[name] for name in ("brier", "ece")}
    return evaluate(probability, labels) | before


def _data_sha256(
    features: NDArray[np.float64], feature_names: Sequence[str], labels: NDArray[np.bool_], times_ms: NDArray[np.int64]
) -> str:
    """Name the training data: the same rows in the same order give the same hash, on every machine."""
    digest = sha256("\n".join(feature_names).encode())
    for start in range(0, len(features), _HASHED_ROWS):
        block = features[start : start + _HASHED_ROWS]
        # one NaN: arithmetic may leave others, which compare alike and hash apart
        digest.update(np.where(np.isnan(block), np.nan, block).astype("<f8").tobytes())
    digest.update(labels.tobytes())
    digest.update(times_ms.astype("<i8").tobytes())
    return digest.hexdigest()
