"""How good a model is, on labels that it never saw: ranking, cuts, calibration.

Plain numbers by name, ready for a manifest.  Nothing here trains or reads anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

__all__ = ["evaluate", "expected_calibration_error"]

_FPR_LIMIT = 0.02  # the product's promise: fewer than 2 % of honest customers are bothered
_BINS = 10


def evaluate(probability: NDArray[np.float64], labels: NDArray[np.bool_], threshold: float = 0.5) -> dict[str, float]:
    """Measure calibrated probabilities against labels.

    Args:
        probability: ``float64[N]``.
        labels: ``bool[N]``, with fraud and without.
        threshold: cut for recall, precision, F1 and the false-positive rate: flagged is what reaches it.

    Returns:
        ``auc``, ``average_precision``, ``recall_at_fpr_2pct`` (the best recall at a false-positive rate below 2 %) with its
        ``threshold_at_fpr_2pct``; ``threshold`` with ``recall``, ``precision``, ``f1`` and ``fpr``; ``brier`` and ``ece``.
    """
    flagged = probability >= threshold
    hits, alarms = int(np.sum(flagged & labels)), int(np.sum(flagged & ~labels))
    frauds, honest = int(np.sum(labels)), int(np.sum(~labels))
    recall_at, threshold_at = _recall_below(probability, labels, _FPR_LIMIT)
    return {
        "auc": float(roc_auc_score(labels, probability)),
        "average_precision": float(average_precision_score(labels, probability)),
        "recall_at_fpr_2pct": recall_at,
        "threshold_at_fpr_2pct": threshold_at,
        "threshold": threshold,
        "recall": hits / frauds,
        "precision": hits / (hits + alarms) if hits + alarms else 0.0,
        "f1": 2 * hits / (frauds + hits + alarms),
        "fpr": alarms / honest,
        "brier": float(np.mean((probability - labels) ** 2)),
        "ece": expected_calibration_error(probability, labels),
    }


def expected_calibration_error(probability: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Mean gap between predicted and observed frequency over ten bins of equal width, weighted by their rows (Naeini, 2015)."""
    bins = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    predicted = np.bincount(bins, weights=probability, minlength=_BINS)
    observed = np.bincount(bins, weights=labels, minlength=_BINS)
    return float(np.sum(np.abs(predicted - observed)) / len(probability))


def _recall_below(probability: NDArray[np.float64], labels: NDArray[np.bool_], fpr_limit: float) -> tuple[float, float]:
    fpr, recall, thresholds = roc_curve(labels, probability, drop_intermediate=False)
    last = int(np.flatnonzero(fpr < fpr_limit)[-1])
    # The curve starts at "nothing is flagged", whose threshold is infinite and would not be JSON.
    return float(recall[last]), float(min(thresholds[last], 1.0))
