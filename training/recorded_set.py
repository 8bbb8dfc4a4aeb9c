"""A training set out of recorded decisions: the features as production served them, and what each decision turned out to be.

Served features need no history that is whole from its beginning, which retention and erasures end, and they cannot differ from what a
model will be asked with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud import kernel as k
from training.ledger_history import LedgerHistory
from training.truth import FRAUD, UNKNOWN, recorded_truth

__all__ = ["RecordedSet", "cut"]


@dataclass(frozen=True, slots=True)
class RecordedSet:
    """Rows as :func:`training.train.train` takes them, by event time and then by their ids: any source of the same record gives the same.

    ``unknown`` counts decisions that nobody can call fraud or good, ``not_comparable`` those of another catalogue or without a store.
    """

    features: NDArray[np.float64]
    labels: NDArray[np.bool_]
    times_ms: NDArray[np.int64]
    unknown: int
    not_comparable: int


def cut(history: LedgerHistory, maturity_ms: int) -> RecordedSet:
    """Cut the set; ``maturity_ms`` is how long a complaint takes (see :mod:`training.truth`)."""
    truth, comparable = recorded_truth(history, maturity_ms), history.comparable
    ordered = history.frame.with_row_index("row").sort("event_time_ms", "tenant_id", "transaction_id")["row"].to_numpy()
    kept = ordered[(comparable & (truth != UNKNOWN))[ordered]]
    return RecordedSet(
        features=history.recorded[kept],
        labels=truth[kept] == FRAUD,
        times_ms=history.events[kept, k.E_T],
        unknown=int((truth == UNKNOWN).sum()),
        not_comparable=int((~comparable).sum()),
    )
