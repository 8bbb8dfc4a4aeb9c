"""Platt scaling: two numbers that turn a raw score into a probability, fitted on rows that the model was not trained on.

Source: Platt, "Probabilistic Outputs for Support Vector Machines" (1999), with the Newton iteration and the numerically safe
log-likelihood of Lin, Lin and Weng, "A note on Platt's probabilistic outputs" (2007).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.model_files import Calibration

__all__ = ["NotTrainable", "fit_platt"]

_ITERATIONS = 100
_TOLERANCE = 1e-10


class NotTrainable(ValueError):
    """The rows teach nothing: some have no fraud or nothing else, no feature varies, or what was learned says nothing of later rows."""


def fit_platt(raw: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Fit ``p = 1 / (1 + exp(-(a * raw + b)))`` by maximum likelihood over Platt's smoothed targets.

    Args:
        raw: ``float64[N]`` raw scores.
        labels: ``bool[N]``, with fraud and without.

    Raises:
        NotTrainable: one class is absent, or a higher score does not mean more fraud.
    """
    frauds = int(np.sum(labels))
    honest = len(labels) - frauds
    if not frauds or not honest:
        raise NotTrainable("calibration needs rows with fraud and without")
    # Never quite 0 and 1: a separable sample would otherwise drive the slope to infinity.
    targets = np.where(labels, (frauds + 1) / (frauds + 2), 1 / (honest + 2))
    parameters = np.array([0.0, np.log((frauds + 1) / (honest + 1))])
    design = np.stack([raw, np.ones_like(raw)])
    loss = _loss(parameters, design, targets)
    for _ in range(_ITERATIONS):
        probability = _sigmoid(parameters @ design)
        gradient = design @ (probability - targets)
        hessian = (design * (probability * (1 - probability))) @ design.T + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while (better := _loss(parameters - scale * step, design, targets)) > loss and scale > _TOLERANCE:
            scale /= 2
        parameters, gain, loss = parameters - scale * step, loss - better, better
        if abs(gain) < _TOLERANCE * len(labels):
            break
    if parameters[0] <= 0:
        raise NotTrainable("a higher score does not mean more fraud on the calibration rows: the model has learned nothing")
    return Calibration(float(parameters[0]), float(parameters[1]))


def _sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(-np.abs(log_odds))
    return np.where(log_odds >= 0, 1 / (1 + odds), odds / (1 + odds))


def _loss(parameters: NDArray[np.float64], design: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    log_odds = parameters @ design
    return float(np.sum(np.logaddexp(0, log_odds) - targets * log_odds))
