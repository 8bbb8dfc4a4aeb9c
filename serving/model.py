"""The fraud model at serving time: LightGBM, Platt calibration, contributions.

Scores come from :mod:`serving.bit_trees`, three times as fast as LightGBM's library on rows that differ, contributions from
:mod:`serving.tree_shap`; both are proven against the library on every load, and a model that has no such form, or fails the proof, is left
to it.  Single rows, batches, both paths and ``Booster.predict`` agree to the last bit, which tests hold.

A :class:`Model` never changes and may be shared between threads.
:class:`ModelManager` holds the one in force; a model that is refused leaves the one before it serving.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from serving.anomaly import AnomalyForest, BoundForest
from serving.bit_trees import BitTrees, pack_bit_trees
from serving.booster import LibraryBooster, UnreadableModel
from serving.model_files import Manifest, ModelFiles, ModelRefused, production, read_files
from serving.tree_shap import ShapTables, tabulate
from serving.tree_text import parse_trees

__all__ = ["FeatureContribution", "Model", "ModelHealth", "ModelManager", "ModelRefused", "load_model"]

_WARM_UP_ROWS = 32
_PROBES = 512
_SHAP_PROBES = 128


@dataclass(frozen=True, slots=True)
class FeatureContribution:
    """What one feature added to the raw score; ``value`` is the feature's own, NaN when missing."""

    feature: str
    value: float
    contribution: float


class Model:
    """A loaded model.

    Args:
        files: verified content of the model's folder.
        features: name to index in the feature vector.
        library_only: leave all scoring to LightGBM's library.

    Attributes:
        sha256: names the model in every decision.
        manifest: what ``model.json`` says.
        feature_names: inputs of the model, in its own order.
        columns: ``intp[C]``, where they stand in the feature vector.
        anomaly: the forest trained beside it, or ``None``.
        path: ``bit_trees`` or ``library``: what computes the scores.
        shap_path: ``tables`` or ``library``: what computes the contributions.

    Raises:
        ModelRefused: a text that LightGBM cannot read, or one made for other features than are there.
    """

    def __init__(self, files: ModelFiles, features: Mapping[str, int], *, library_only: bool = False) -> None:
        self.sha256 = files.sha256
        self.manifest: Manifest = files.manifest
        self.feature_names = files.manifest.feature_names
        self.columns = _columns(self.feature_names, features)
        self.anomaly = _bound_forest(files, features)
        self._width = 1 + max(features.values(), default=-1)
        self._booster = _booster(files)
        self._a, self._b = files.manifest.calibration.a, files.manifest.calibration.b
        self._trees, self._shap = (None, None) if library_only else self._proven(files.text)
        self.path = "library" if self._trees is None else "bit_trees"
        self.shap_path = "library" if self._shap is None else "tables"

    def predict(self, matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score a batch.

        Args:
            matrix: ``float64[B, F]``, feature vectors with NaN for missing.

        Returns:
            Raw scores (log-odds before calibration) and calibrated probabilities, ``float64[B]`` each.
        """
        self._check_shape(matrix)
        raw = self._trees.predict(matrix) if self._trees is not None else self._booster.predict(matrix[:, self.columns])
        # One by one: numpy's exp may round otherwise in a batch than alone.
        return raw, np.array([self.calibrate(value) for value in raw.tolist()], dtype=np.float64)

    def predict_single(self, vector: NDArray[np.float64]) -> tuple[float, float]:
        """Score one ``float64[F]`` feature vector: raw score and calibrated probability, as :meth:`predict` gives them."""
        if vector.shape != (self._width,):
            raise ValueError(f"a feature vector has shape {(self._width,)}, not {vector.shape}")
        trees = self._trees
        raw = self._booster.predict_row(vector[self.columns]) if trees is None else float(trees.predict(vector[None])[0])
        return raw, self.calibrate(raw)

    def calibrate(self, raw: float) -> float:
        """Return the probability of a raw score (Platt scaling)."""
        log_odds = self._a * raw + self._b
        return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds > -700.0 else 0.0  # exp(709.8) overflows

    def contributions(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Explain a batch by exact tree SHAP values; many times the cost of a prediction.

        Returns:
            ``float64[B, C + 1]``: what each of :attr:`feature_names` added, then the base value; a row sums to the raw score.
        """
        self._check_shape(matrix)
        return self._booster.contributions(matrix[:, self.columns]) if self._shap is None else self._shap.contributions(matrix)

    def top_contributions(self, matrix: NDArray[np.float64], k: int) -> list[list[FeatureContribution]]:
        """List, for each row, the ``k`` features that moved the raw score most, the strongest first."""
        table, values = self.contributions(matrix)[:, :-1], matrix[:, self.columns]
        listed = []
        for row, row_values in zip(table, values, strict=True):
            strongest = np.argsort(-np.abs(row), kind="stable")[:k]
            listed.append([FeatureContribution(self.feature_names[i], float(row_values[i]), float(row[i])) for i in strongest])
        return listed

    def warm_up(self) -> None:
        """Run every path once, so that the first event does not pay for it."""
        for rows in (1, _WARM_UP_ROWS):
            blank = np.full((rows, self._width), np.nan)
            self.predict(blank)
            if self.anomaly is not None:
                self.anomaly.evaluate(np.zeros((rows, self._width)))
        self.contributions(np.full((1, self._width), np.nan))

    def _proven(self, text: str) -> tuple[BitTrees | None, ShapTables | None]:
        """Return the trees in their fast forms if they answer like the library, to the last bit, around every kind of cut."""
        parsed = parse_trees(text)
        trees = None if parsed is None else pack_bit_trees(parsed, self.columns)
        if parsed is None or trees is None:
            return None, None
        probes = trees.probes(self._width, _PROBES)
        if not np.array_equal(trees.predict(probes), self._booster.predict(probes[:, self.columns])):
            return None, None
        table = self._booster.contributions(probes[:_SHAP_PROBES, self.columns])
        shap = tabulate(parsed, self.columns, base=float(table[0, -1]))
        return trees, shap if shap is not None and np.array_equal(shap.contributions(probes[:_SHAP_PROBES]), table) else None

    def _check_shape(self, matrix: NDArray[np.float64]) -> None:
        if matrix.ndim != 2 or matrix.shape[1] != self._width:
            raise ValueError(f"feature vectors have shape (B, {self._width}), not {matrix.shape}")


def load_model(models_dir: Path, sha256: str, features: Mapping[str, int] = CATALOGUE.index) -> Model:
    """Read, verify, load and warm up a published model.

    Raises:
        ModelRefused: absent, altered, cut short, or made for other features.
    """
    return _loaded(read_files(models_dir, sha256), features)


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """Whether a model can answer, which, and why the last one that was offered was refused."""

    healthy: bool
    sha256: str | None
    catalogue_version: str | None
    last_refusal: str | None


class ModelManager:
    """The model in force in this process.

    :meth:`load_model` replaces it in one assignment, so a caller that takes :attr:`current` once a batch scores the whole batch
    with one model.  Loading is serialised; predicting takes no lock.

    Args:
        models_dir: folder of the published models and the pointer to production.
        features: name to index in the feature vector.
    """

    def __init__(self, models_dir: Path, features: Mapping[str, int] = CATALOGUE.index) -> None:
        self._models_dir = models_dir
        self._features = features
        self._current: Model | None = None
        self._last_refusal: str | None = None
        self._loading = threading.Lock()

    @property
    def current(self) -> Model:
        """The model in force.

        Raises:
            Unavailable: none was ever loaded.
        """
        if self._current is None:
            raise Unavailable("model", self._last_refusal or "none is loaded")
        return self._current

    def load_model(self, sha256: str | None = None) -> Model:
        """Put a published model in force: the one named, or the one in production.

        Raises:
            ModelRefused: it cannot serve; the model in force stays.
        """
        with self._loading:
            try:
                model = self._open(sha256)
            except ModelRefused as refusal:
                self._last_refusal = refusal.detail
                raise
            self._current, self._last_refusal = model, None
            return model

    def predict_single(self, vector: NDArray[np.float64]) -> tuple[float, float]:
        """Score one event with the model in force; see :meth:`Model.predict_single`."""
        return self.current.predict_single(vector)

    def predict_batch(self, matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score a batch with the model in force; see :meth:`Model.predict`."""
        return self.current.predict(matrix)

    def health_check(self) -> ModelHealth:
        """Score an event of which nothing is known and report."""
        model = self._current
        if model is None:
            return ModelHealth(healthy=False, sha256=None, catalogue_version=None, last_refusal=self._last_refusal)
        raw, probability = model.predict_single(np.full(1 + max(self._features.values(), default=-1), np.nan))
        return ModelHealth(
            healthy=math.isfinite(raw) and 0.0 <= probability <= 1.0,
            sha256=model.sha256,
            catalogue_version=model.manifest.catalogue_version,
            last_refusal=self._last_refusal,
        )

    def _open(self, sha256: str | None) -> Model:
        if sha256 is not None:
            wanted, manifest_sha256 = sha256, None
        else:
            pointer = production(self._models_dir)
            if pointer is None:
                raise ModelRefused("no model was promoted to production")
            wanted, manifest_sha256 = pointer.sha256, pointer.manifest_sha256
        if self._current is not None and self._current.sha256 == wanted:
            return self._current
        return _loaded(read_files(self._models_dir, wanted, manifest_sha256), self._features)


def _loaded(files: ModelFiles, features: Mapping[str, int]) -> Model:
    model = Model(files, features)
    try:
        model.warm_up()
    except Unavailable as failure:  # linear leaves, say, have no contributions, and every decision that is not ALLOW must be explained
        raise ModelRefused(f"{files.sha256[:12]}: {failure.detail}") from None
    return model


def _booster(files: ModelFiles) -> LibraryBooster:
    try:
        booster = LibraryBooster(files.text)
    except UnreadableModel as error:
        raise ModelRefused(f"{files.sha256[:12]}: LightGBM cannot read it: {error}") from None
    if booster.feature_names != files.manifest.feature_names:
        raise ModelRefused(f"{files.sha256[:12]}: the model and its manifest name different features")
    if booster.outputs != 1:
        raise ModelRefused(f"{files.sha256[:12]}: not a binary classifier")
    return booster


def _bound_forest(files: ModelFiles, features: Mapping[str, int]) -> BoundForest | None:
    if files.manifest.anomaly is None or files.anomaly is None:
        return None
    columns = _columns(files.manifest.anomaly.feature_names, features)
    forest = AnomalyForest.from_bytes(files.anomaly)
    if int(forest.feature.max()) >= len(columns):
        raise ModelRefused("the anomaly forest reads more columns than its manifest names")
    return BoundForest(forest, columns)


def _columns(names: tuple[str, ...], features: Mapping[str, int]) -> NDArray[np.intp]:
    unknown = [name for name in names if name not in features]
    if unknown:
        raise ModelRefused(f"the model was trained on features that do not exist here: {', '.join(unknown[:5])}")
    return np.array([features[name] for name in names], dtype=np.intp)
