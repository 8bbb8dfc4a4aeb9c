"""``bench backtest`` measures a backtest that reproduces what it has recorded, over a model that it did not train."""

from __future__ import annotations

from pathlib import Path

from infra import bench_backtest
from infra.first_model import train_first_model
from serving.enrich import Enricher
from serving.model import load_model

START_MS = 1_750_000_000_000


def test_every_stage_is_measured_and_the_window_fires(tmp_path: Path) -> None:
    models, held = tmp_path / "models", tmp_path / "held"
    held.mkdir()
    enricher = Enricher(b"a key for the tests alone")
    trained = train_first_model(models, enricher, say=lambda _text: None, start_ms=START_MS, rows=4_000)
    said: list[str] = []
    result = bench_backtest.run(load_model(models, trained.sha256), enricher, events=3_000, start_ms=START_MS, folder=held, say=said.append)
    assert (result["reproduced"], result["decisions"]) == (True, 3_000)
    assert result["fired"] > 10
    assert list(result["stages"]) == said[1:]
    assert len(said) == 6
    assert all(stage["seconds"] >= 0 and stage["cpu_us_per_decision"] > 0 for stage in result["stages"].values())
    assert list(held.iterdir()) == []
