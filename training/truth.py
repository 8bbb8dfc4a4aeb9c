"""What each recorded decision turned out to be.

A decision is *fraud* or *good* where a label says so, the newest label counting.  One without a label is *good* when it was allowed and
is old enough for a complaint to have come, and *unknown* otherwise: what was blocked or challenged gets no chargeback.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.decide import Outcome
from training.ledger_history import LedgerHistory

__all__ = ["FRAUD", "GOOD", "UNKNOWN", "Truth", "recorded_truth", "truth_of"]

FRAUD, GOOD, UNKNOWN = 1, 0, -1

Truth = NDArray[np.int8]


def recorded_truth(history: LedgerHistory, maturity_ms: int) -> Truth:
    """``int8[N]`` of FRAUD, GOOD and UNKNOWN; a complaint may come for ``maturity_ms`` after a payment, the newest event being now."""
    times_ms = history.events[:, k.E_T]
    allowed = (history.frame["outcome"] == Outcome.ALLOW.name).to_numpy()
    mature_before_ms = int(times_ms.max(initial=0)) - maturity_ms
    return truth_of(_newest_labels(history), history.events[:, k.E_TX], allowed, times_ms, mature_before_ms)


def truth_of(
    labels: Mapping[int, int],
    tx_hashes: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    event_time_ms: NDArray[np.int64],
    mature_before_ms: int,
) -> Truth:
    """``int8[N]`` of FRAUD, GOOD and UNKNOWN; ``labels`` has the newest label of each transaction by its hash, 1 for fraud."""
    truth = np.where(allowed & (event_time_ms <= mature_before_ms), GOOD, UNKNOWN).astype(np.int8)
    if labels:
        known = pl.DataFrame({"tx": list(labels), "label": list(labels.values())}, schema={"tx": pl.Int64, "label": pl.Int8})
        found = pl.DataFrame({"tx": tx_hashes}).join(known, on="tx", how="left", maintain_order="left")["label"]
        has_label = found.is_not_null().to_numpy()
        truth[has_label] = found.drop_nulls().to_numpy()
    return truth


def _newest_labels(history: LedgerHistory) -> dict[int, int]:
    """The newest label of each transaction by its hash: 1 for fraud."""
    facts = history.labels.facts[np.argsort(history.labels.time_ms, kind="stable")]
    return dict(zip(facts[:, 1].tolist(), facts[:, 2].tolist(), strict=True))
