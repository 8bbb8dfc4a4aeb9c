"""The first model of a fresh installation: trained on the generator's history by the same kernel that will serve it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fraud.catalogue import CATALOGUE
from generator.generate import demo_history, labels
from serving import model_files
from serving.clock import now_ms
from serving.enrich import Enricher
from training import backfill
from training.enrichment import enrich_frame
from training.train import TrainingReport, train

__all__ = ["DEMO_SEED", "ensure_model", "train_first_model"]

DEMO_SEED = 7  # of the population that the demonstration shows
HISTORY_ROWS = 150_000


def ensure_model(models_dir: Path, enricher: Callable[[], Enricher], say: Callable[[str], None]) -> str:
    """Return the SHA-256 of the model in production; train and promote the first one where there is none."""
    current = model_files.production(models_dir)
    if current is not None:
        return current.sha256
    report = train_first_model(models_dir, enricher(), say=say, start_ms=now_ms())
    model_files.promote(models_dir, report.sha256)
    return report.sha256


def train_first_model(
    models_dir: Path, enricher: Enricher, *, say: Callable[[str], None], start_ms: int, rows: int = HISTORY_ROWS, seed: int = DEMO_SEED
) -> TrainingReport:
    """Generate a history that ends at ``start_ms``, compute its features, train, and publish without promoting."""
    say(f"training the first model on {rows:,} generated transactions")
    history = enrich_frame(demo_history(rows, seed=seed, start_ms=start_ms), enricher)
    events = backfill.event_matrix(history)
    known = backfill.label_table(labels(history, seed=seed))
    result = backfill.run(events, known, backfill.file_order(events, known))
    say("features computed; fitting")
    report = train(
        result.features,
        CATALOGUE.names,
        history["is_fraud"].fill_null(value=False).to_numpy().astype(np.bool_),
        history["event_time_ms"].to_numpy().astype(np.int64),
        models_dir,
        seed=seed,
        catalogue_version=CATALOGUE.version,
    )
    auc = report.metrics.get("auc", float("nan"))
    say(f"model {report.sha256[:12]} trained; AUC {auc:.4f} on the newest part of the generated history (generated data: circular)")
    return report
