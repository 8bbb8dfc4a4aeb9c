"""``bench features`` measures every part, over a model that it did not train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra import bench_features
from infra.first_model import train_first_model
from serving.enrich import Enricher
from serving.model import load_model

START_MS = 1_750_000_000_000


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("models")
    enricher = Enricher(b"a key for the tests alone")
    trained = train_first_model(folder, enricher, say=lambda _text: None, start_ms=START_MS, rows=4_000)
    model = load_model(folder, trained.sha256)
    return bench_features.run(model, enricher, events=1_000, start_ms=START_MS, say=lambda _text: None)


def _costs(found: dict[str, Any]) -> dict[str, float]:
    inner = {name: value for part in found.values() if isinstance(part, dict) for name, value in _costs(part).items()}
    return inner | {name: value for name, value in found.items() if "_us" in name}


def test_every_part_costs_something(result: dict[str, Any]) -> None:
    costs = _costs(result)
    assert len(costs) == 11
    assert all(value > 0 for value in costs.values())


def test_the_traffic_is_that_of_all_entities(result: dict[str, Any]) -> None:
    assert result["events"] == 1_000
    assert set(result["state"]["median_bytes"]) == {"card", "user", "merchant", "device", "ip"}
