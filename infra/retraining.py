"""``model train --ledger`` and ``--lake``: a model out of what production has served, published and not promoted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from analytics.history import EventHistory, Progress
from fraud.catalogue import CATALOGUE
from training.recorded_set import cut
from training.train import TrainingReport, train

__all__ = ["train_on_record"]


def train_on_record(
    models_dir: Path, source: EventHistory, *, maturity_ms: int, seed: int, say: Callable[[str], None], on_read: Progress
) -> TrainingReport:
    """Train on recorded decisions; the same record gives the same model, whichever source it comes from.

    Raises:
        NotTrainable: too few decisions of either kind.
        Unavailable: the source does not answer.
        Denied: there is nothing to read from.
    """
    rows = cut(source.read(on_read), maturity_ms)
    say(
        f"{len(rows.labels):,} decisions, {int(rows.labels.sum()):,} of them fraud; left out: {rows.unknown:,} that nobody can call "
        f"either, {rows.not_comparable:,} of another catalogue or without a store"
    )
    return train(rows.features, CATALOGUE.names, rows.labels, rows.times_ms, models_dir, seed=seed, catalogue_version=CATALOGUE.version)
