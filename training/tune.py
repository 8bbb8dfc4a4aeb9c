"""Cross-validation in time, and the choice of hyper-parameters by it.

Every fold trains on the past and is measured on what came next; shuffled folds would let a model see the fraud wave it is tested on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from training.train import PARAMETERS, ROUNDS, train_booster

__all__ = ["CANDIDATES", "Trial", "cross_validate", "time_folds", "tune"]

# Around the parameters that the product ships with: how much a tree may say, and how many rows must agree.
CANDIDATES: tuple[Mapping[str, Any], ...] = tuple(
    {"num_leaves": leaves, "min_data_in_leaf": rows, "learning_rate": rate}
    for leaves in (8, 16)
    for rows in (5, 50)
    for rate in (0.03, 0.06)
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of parameters and its average precision on each fold, in order of time."""

    parameters: Mapping[str, Any]
    average_precision: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return sum(self.average_precision) / len(self.average_precision)


def time_folds(times_ms: NDArray[np.int64], folds: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Cut history into ``folds + 1`` blocks of about equal size; fold ``i`` trains on the first ``i + 1``, tests on the next.

    Rows of one instant stay together.  Returns (train rows, test rows) of each fold, in order of time.
    """
    order = np.argsort(times_ms, kind="stable")
    times = times_ms[order]
    inner = [len(times) * block // (folds + 1) for block in range(1, folds + 1)]
    cuts = [int(np.searchsorted(times, times[cut])) for cut in inner] + [len(times)]
    return [(order[:start], order[start:end]) for start, end in pairwise(cuts)]


def cross_validate(
    features: NDArray[np.float64],
    labels: NDArray[np.bool_],
    times_ms: NDArray[np.int64],
    *,
    seed: int,
    parameters: Mapping[str, Any] = PARAMETERS,
    rounds: int = ROUNDS,
    folds: int = 4,
) -> tuple[float, ...]:
    """Measure the average precision of each fold.

    Args:
        features: ``float64[N, F]``, NaN for missing.
        labels: ``bool[N]``.
        times_ms: ``int64[N]``, event times.
        seed: of LightGBM.
        parameters: of LightGBM.
        rounds: number of trees.
        folds: number of folds.

    Raises:
        ValueError: a fold without fraud on one of its sides.
    """
    names = [f"f{column}" for column in range(features.shape[1])]
    scores = []
    for number, (past, next_rows) in enumerate(time_folds(times_ms, folds), start=1):
        if not (labels[past].any() and labels[next_rows].any()):
            raise ValueError(f"fold {number} has no fraud to learn from or to find")
        booster = train_booster(features[past], names, labels[past], seed, parameters, rounds)
        scores.append(float(average_precision_score(labels[next_rows], booster.predict(features[next_rows]))))
    return tuple(scores)


def tune(
    features: NDArray[np.float64],
    labels: NDArray[np.bool_],
    times_ms: NDArray[np.int64],
    *,
    seed: int,
    candidates: Sequence[Mapping[str, Any]] = CANDIDATES,
    rounds: int = ROUNDS,
    folds: int = 4,
) -> list[Trial]:
    """Cross-validate each candidate on top of the shipped parameters; the best by mean average precision comes first.

    Give it the rows before the calibration part only: what a model is chosen by is no test of it.
    """
    trials = []
    for candidate in candidates:
        parameters = {**PARAMETERS, **candidate}
        scores = cross_validate(features, labels, times_ms, seed=seed, parameters=parameters, rounds=rounds, folds=folds)
        trials.append(Trial(parameters, scores))
    return sorted(trials, key=lambda trial: -trial.mean)
