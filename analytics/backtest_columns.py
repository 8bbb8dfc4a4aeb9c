"""Decisions of a history as the columns that rules read: the vector of features and the fields of the event, without a record a row.

What the scoring use case builds from transactions, this builds from columns; a test holds both to the same hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud.rules import CONTEXT_FIELDS, Evaluation, RuleSet
from serving.scoring import BLACKLIST_KINDS
from training.ledger_history import LedgerHistory

__all__ = ["Anomaly", "Decided", "in_parts"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
T = TypeVar("T")

_TX = "transaction."
_PART = 20_000  # rows at a time: 26 MB of features, and a progress bar that moves
_THREADS = 2  # the model and whole columns are computed outside the interpreter's lock


def in_parts(rows: Rows, work: Callable[[Rows], T]) -> Iterator[tuple[Rows, T]]:
    """Yield parts of some rows, in their order, each with what ``work`` gives for it; parts are worked on side by side."""
    parts = [rows[start : start + _PART] for start in range(0, len(rows), _PART)]
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from zip(parts, pool.map(work, parts), strict=True)


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What the unsupervised detector says of a batch: ``score`` float64[B], ``flag`` bool[B]."""

    score: Floats
    flag: NDArray[np.bool_]


class Decided:
    """Every decision of a history with its features, computed again.

    Args:
        history: with ``DECISION_FIELDS``.
        features: ``float64[N, F]`` in catalogue order.
        extra_names: features beyond the catalogue that were computed.
        extra: ``float64[N, len(extra_names)]``.
    """

    def __init__(self, history: LedgerHistory, features: Floats, extra_names: Sequence[str], extra: Floats) -> None:
        self.features = features
        self.extra = extra
        self._place = {name: i for i, name in enumerate(extra_names)}
        self._frame = history.also.frame
        listed = history.also.items["blacklisted"]
        self._blacklisted = {kind: np.zeros(len(features), dtype=np.bool_) for kind in BLACKLIST_KINDS}
        for kind, mask in self._blacklisted.items():
            mask[listed.filter(pl.col("item") == kind)["row"].to_numpy()] = True

    @property
    def frame(self) -> pl.DataFrame:
        """The recorded fields, one row a decision."""
        return self._frame

    def recorded(self, names: Sequence[str], rows: Rows) -> pl.DataFrame:
        """Recorded fields of some decisions; not a copy when they are neighbours."""
        frame = self._frame.select(names)
        return frame.slice(int(rows[0]), len(rows)) if _are_neighbours(rows) else frame[rows]

    def features_of(self, rows: Rows) -> Floats:
        """The features of some decisions, ``float64[B, F]``; not a copy when they are neighbours."""
        return self.features[rows[0] : rows[-1] + 1] if _are_neighbours(rows) else self.features[rows]

    def extra_of(self, rules: RuleSet, rows: Rows) -> Floats:
        """What a rule set asks for beyond the catalogue, of some decisions: ``float64[B, E]``."""
        return self.extra[rows][:, [self._place[name] for name in rules.extra]]

    def evaluate(self, rules: RuleSet, rows: Rows, anomaly: Anomaly | None) -> Evaluation:
        """What a rule set says of some decisions; ``anomaly`` as their model said it, None where there was none."""
        features = self.features_of(rows)
        if rules.extra:
            features = np.hstack([features, self.extra_of(rules, rows)])
        return rules.evaluate(features, self._fields(rules, rows, anomaly))

    def _fields(self, rules: RuleSet, rows: Rows, anomaly: Anomaly | None) -> Mapping[str, Any]:
        asked = [name for name in rules.fields if name not in CONTEXT_FIELDS]
        frame = self.recorded([*(f"{_TX}{name}" for name in asked), "late_event"], rows)
        columns: dict[str, Any] = {name.removeprefix(_TX): frame[name].to_list() for name in frame.columns}
        columns |= {f"{kind}_blacklisted": mask[rows] for kind, mask in self._blacklisted.items()}
        if anomaly is not None:
            columns |= {"anomaly_score": anomaly.score, "anomaly_flag": anomaly.flag}
        return columns


def _are_neighbours(rows: Rows) -> bool:
    return len(rows) > 0 and int(rows[-1]) - int(rows[0]) + 1 == len(rows)
