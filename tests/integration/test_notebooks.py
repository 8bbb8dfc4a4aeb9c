"""The notebooks run as they stand in the repository, and what they state is what the same decisions say when they are counted here."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from fraud.currency import to_base_minor
from fraud.geo import haversine_km
from infra.settings import REPO_ROOT
from serving.clock import now_ms
from serving.records import Decision
from tests.clickhouse_engine import READER_PASSWORD, ClickHouseEngine
from tests.pages_world import MINUTE_MS, TENANT, fill, play

NOTEBOOKS = {path.stem: path for path in (REPO_ROOT / "notebooks").glob("*.ipynb")}
STOPPED_GOOD_USD = 8.0  # as threshold-cost says
HOUR_MS = 60 * MINUTE_MS


@dataclass(frozen=True)
class House:
    engine: ClickHouseEngine
    decisions: list[Decision]
    labels: dict[str, bool]

    def figures(self, name: str) -> dict[str, Any]:
        """Run a notebook; what it prints last, which is only there when every cell before it ran."""
        notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
        house = {"FRAUDGUARD_CLICKHOUSE_URL": self.engine.url, "FRAUDGUARD_CLICKHOUSE_READER_PASSWORD": READER_PASSWORD}
        client = NotebookClient(notebook, timeout=120, kernel_name="python3")
        client.execute(env={**os.environ, **house, "PYTHONPATH": str(REPO_ROOT)})
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs), "no plot"
        found: dict[str, Any] = json.loads(outputs[-1]["text"])
        return found

    def labelled(self) -> list[tuple[Decision, bool | None]]:
        return [(one, self.labels.get(one.transaction_id)) for one in self.decisions]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder: Path = tmp_path_factory.mktemp("notebooks")
    engine = ClickHouseEngine(folder)
    try:
        engine.start()
        engine.migrate()
        decisions, labels = fill(engine, play(folder / "models", now_ms()))
        yield House(engine, [one for one in decisions if one.tenant_id == TENANT], labels)
    finally:
        engine.kill()


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_is_kept_without_what_it_printed(name: str) -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOKS[name], as_version=4).cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)


def test_the_ring_is_that_of_the_busiest_device(house: House) -> None:
    devices: dict[str, list[Decision]] = defaultdict(list)
    for one in house.decisions:
        if one.transaction.device_id is not None:
            devices[one.transaction.device_id].append(one)
    cards = {name: {one.transaction.card_id for one in payments} for name, payments in devices.items()}
    first = min(devices, key=lambda name: (-len(cards[name]), -len(devices[name]), name))
    ring = sorted(devices[first], key=lambda one: (one.event_time_ms, one.decision_id))
    times = [one.event_time_ms for one in ring]
    stopped = [one.outcome != "ALLOW" for one in ring]
    assert house.figures("fraud-ring-velocity") == {
        "cards": len(cards[first]),
        "payments": len(ring),
        "most_payments_in_10_min": max(sum(at - 10 * MINUTE_MS < other <= at for other in times) for at in times),
        "payments_before_first_stop": stopped.index(True),
        "stopped": sum(stopped),
    }
    assert {one.transaction.scenario for one in ring} == {"card_testing"}  # what the generator had put there
    assert len(cards[first]) > 5


def test_rules_are_measured_as_a_count_by_hand_does(house: House) -> None:
    rules = [({hit.rule_id for hit in one.rules if hit.mode == "enabled"}, fraud) for one, fraud in house.labelled()]
    fired = Counter(rule for names, _ in rules for rule in names)
    busiest = min(fired, key=lambda rule: (-fired[rule], rule))
    known = [fraud for names, fraud in rules if busiest in names and fraud is not None]
    found = house.figures("rule-performance")
    assert (found["busiest_rule"], found["fired"]) == (busiest, fired[busiest])
    assert found["precision"] == pytest.approx(sum(known) / len(known))
    assert found["caught_alone"] == Counter(next(iter(names)) for names, fraud in rules if fraud and len(names) == 1)
    assert len(found["caught_alone"]) > 1


def test_geography_counts_countries_and_journeys_that_nobody_can_make(house: House) -> None:
    countries = Counter(one.transaction.country for one in house.decisions if one.transaction.country)
    first = min(countries, key=lambda name: (-countries[name], name))
    found = house.figures("geography")
    assert (found["countries"], found["payments_of_first"]) == (len(countries), countries[first])
    assert found["stopped_of_first"] == sum(one.outcome != "ALLOW" for one in house.decisions if one.transaction.country == first)
    legs = list(journeys(house.decisions))
    # ClickHouse's sphere and ours differ by half a percent
    certain, possible = (sum(km > 100 * slack and speed > 800 * slack for km, speed in legs) for slack in (1.01, 0.99))
    assert 0 < certain <= found["impossible_journeys"] <= possible


def journeys(decisions: list[Decision]) -> Iterator[tuple[float, float]]:
    """Kilometres and kilometres per hour between consecutive payments of a card whose places are known."""
    cards: dict[str, list[Decision]] = defaultdict(list)
    for one in sorted(decisions, key=lambda one: (one.event_time_ms, one.decision_id)):
        if one.transaction.lat is not None and one.transaction.lon is not None:
            cards[one.transaction.card_id].append(one)
    for payments in cards.values():
        for before, after in pairwise(payments):
            places = [round(1e6 * degrees) for one in (before.transaction, after.transaction) for degrees in (one.lat, one.lon)]
            km = float(haversine_km(*places))
            hours = (after.event_time_ms - before.event_time_ms) / HOUR_MS
            yield km, km / hours if hours else math.inf


def test_the_best_threshold_costs_least(house: House) -> None:
    payments = [
        (one.score, to_base_minor(one.transaction.amount_minor, one.transaction.currency) / 100, bool(fraud))
        for one, fraud in house.labelled()
        if fraud is not None or one.outcome == "ALLOW"
    ]

    def cost(threshold: float) -> float:
        missed = sum(usd for score, usd, fraud in payments if fraud and score < threshold)
        return missed + STOPPED_GOOD_USD * sum(not fraud and score >= threshold for score, _, fraud in payments)

    found = house.figures("threshold-cost")
    costs = [cost(step / 100) for step in range(101)]
    assert found["payments"] == len(payments)
    assert found["best_cost_usd"] == pytest.approx(min(costs), abs=0.01)
    assert costs[round(found["best_threshold"] * 100)] == pytest.approx(min(costs), abs=0.01)
    assert found["cost_at_0.3_usd"] == pytest.approx(cost(0.3), abs=0.01)
    assert min(costs) < cost(0.3)
