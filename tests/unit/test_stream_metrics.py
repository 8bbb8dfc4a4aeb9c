"""The stream's metrics: bulk counts equal one-by-one counts, totals never fall, names and labels are the catalogue's."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.exporter import ExporterSettings, serve
from serving.metrics import CATALOGUE, Emitter, metric, series_of
from serving.stream_metrics import FOLD_EVENTS, MAX_SERIES, BulkHistogram, StreamExporter, StreamMetrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(exporter: StreamExporter) -> Samples:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter)
    return samples(generate_latest(registry).decode())


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def at(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def decide(own: StreamMetrics, size: int, *, outcome: int = 0, now_ms: int = 1_050, score: float = 0.2) -> None:
    own.decided(
        scores=np.full(size, score),
        model_scores=np.full(size, score),
        outcomes=np.full(size, outcome, dtype=np.int8),
        append_time_ms=[1_000] * size,
        newest_event_ms=900,
        now_ms=now_ms,
        inference_s=0.001,
    )


@given(values=st.lists(st.floats(0, 40, allow_nan=False) | st.sampled_from(metric("fraud_score_distribution").buckets), max_size=60))
def test_bulk_counts_equal_those_of_the_library_value_by_value(values: list[float]) -> None:
    bounds = metric("fraud_score_distribution").buckets
    library = Histogram("oracle", "x", buckets=bounds, registry=None)
    ours = BulkHistogram(bounds)
    for value in values:
        library.observe(value)
    ours.observe_many(np.array(values, dtype=np.float64))
    buckets = [sample.value for sample in next(iter(library.collect())).samples if sample.name == "oracle_bucket"]
    assert np.cumsum(ours.counts).tolist() == buckets
    assert ours.sum == pytest.approx(sum(values))


def test_values_that_are_no_numbers_are_left_out() -> None:
    histogram = BulkHistogram((0.5, 1.0))
    histogram.observe_many(np.array([0.1, np.nan, 0.7]))
    assert (histogram.counts.tolist(), histogram.sum) == ([1, 1, 0], pytest.approx(0.8))


@pytest.mark.parametrize("size", [1, 7, FOLD_EVENTS, 3 * FOLD_EVENTS])
def test_everything_decided_is_counted_whether_folded_yet_or_not(size: int) -> None:
    exporter = StreamExporter(lambda: 0)
    own = exporter.new_metrics()
    own.batch(size)
    decide(own, size, outcome=2)
    found = scrape(exporter)
    assert at(found, "fraud_detection_transactions_total", status="decided") == size
    assert at(found, "fraud_detection_ml_predictions_total", prediction="deny") == size
    assert at(found, "fraud_score_distribution_count") == at(found, "fraud_detection_model_score_count") == size
    assert at(found, "fraud_detection_processing_latency_seconds_sum") == pytest.approx(size * 0.05)
    assert at(found, "fraud_detection_processing_latency_seconds_bucket", le="0.035") == 0
    assert at(found, "fraud_detection_processing_latency_seconds_bucket", le="0.05") == size
    assert at(found, "fraud_detection_ml_inference_latency_seconds_count") == at(found, "fraud_detection_batch_size_count") == 1
    assert at(found, "fraud_detection_event_lag_seconds") == pytest.approx(0.15)


def test_a_batch_without_a_model_counts_its_decisions_and_no_model_score() -> None:
    exporter = StreamExporter(lambda: 0)
    exporter.new_metrics().decided(
        scores=[1.0, 1.0],
        model_scores=None,
        outcomes=[2, 2],
        append_time_ms=[5, 7],
        newest_event_ms=0,
        now_ms=6,
        inference_s=0.0,
        degraded="model_down",
    )
    found = scrape(exporter)
    assert at(found, "fraud_detection_model_score_count") == 0
    assert at(found, "fraud_score_distribution_count") == 2
    assert at(found, "fraud_detection_degraded_decisions_total", reason="model_down") == 2
    assert at(found, "fraud_detection_processing_latency_seconds_sum") == pytest.approx(0.001)  # a broker ahead of us is not minus


def test_operators_add_up_and_a_closed_one_takes_nothing_away() -> None:
    exporter = StreamExporter(lambda: 0)
    first, second = exporter.new_metrics(), exporter.new_metrics()
    decide(first, 3, now_ms=1_000)
    decide(second, 4, now_ms=2_000)
    before = scrape(exporter)
    first.close()
    first.close()
    after = scrape(exporter)
    assert at(before, "fraud_detection_transactions_total", status="decided") == 7
    assert at(before, "fraud_detection_event_lag_seconds") == pytest.approx(1.1)  # that of the newest batch
    assert after == before
    decide(exporter.new_metrics(), 1)
    assert at(scrape(exporter), "fraud_detection_transactions_total", status="decided") == 8


def test_dead_letters_of_transactions_are_also_a_status_of_transactions() -> None:
    exporter = StreamExporter(lambda: 0)
    own = exporter.new_metrics()
    own.dead_letters("transactions", "bad_amount", 2)
    own.dead_letters("labels", "truncated")
    own.transactions("duplicate", 5)
    own.late(3)
    own.alerts("VELOCITY", "high", 4)
    own.refused("rules")
    found = scrape(exporter)
    assert at(found, "fraud_detection_transactions_total", status="dead_letter") == 2
    assert at(found, "fraud_detection_dead_letters_total", source="labels", code="truncated") == 1
    assert at(found, "fraud_detection_transactions_total", status="duplicate") == 5
    assert at(found, "fraud_detection_late_events_total") == 3
    assert at(found, "fraud_detection_alerts_total", rule_name="VELOCITY", severity="high") == 4
    assert at(found, "fraud_detection_releases_refused_total", kind="rules") == 1


def test_the_online_store_is_stale_for_as_long_as_something_waits() -> None:
    now = [10_000]
    exporter = StreamExporter(lambda: now[0])
    own = exporter.new_metrics()
    own.online_store(written=10, refused=1, dropped=0, failures=0, waiting_rows=0)
    assert at(scrape(exporter), "fraud_detection_online_store_staleness_seconds") == 0
    own.online_store(written=10, refused=1, dropped=0, failures=1, waiting_rows=7)
    now[0] = 40_000
    own.online_store(written=10, refused=1, dropped=2, failures=3, waiting_rows=9)
    found = scrape(exporter)
    assert at(found, "fraud_detection_online_store_staleness_seconds") == 30
    assert at(found, "fraud_detection_online_store_waiting_rows") == 9
    assert at(found, "fraud_detection_online_store_failures_total") == 3
    own.online_store(written=19, refused=1, dropped=2, failures=3, waiting_rows=0)
    found = scrape(exporter)
    assert at(found, "fraud_detection_online_store_staleness_seconds") == 0
    assert [at(found, "fraud_detection_online_store_rows_total", result=r) for r in ("written", "refused", "dropped")] == [19, 1, 2]


def test_healing_counts_what_was_given_again_and_tells_what_is_not_whole() -> None:
    exporter = StreamExporter(lambda: 0)
    first, second = exporter.new_metrics(), exporter.new_metrics()
    assert at(scrape(exporter), "fraud_detection_online_store_unhealed_shards") == 0
    for reemitted in (100, 250):
        first.healing(reemitted=reemitted, begun=2, unhealed_shards=2)
    second.healing(reemitted=7, begun=1, unhealed_shards=1)
    found = scrape(exporter)
    assert at(found, "fraud_detection_online_store_unhealed_shards") == 3
    assert at(found, "fraud_detection_online_store_reemitted_rows_total") == 257
    assert at(found, "fraud_detection_online_store_healings_total") == 3
    first.close()
    found = scrape(exporter)
    assert at(found, "fraud_detection_online_store_unhealed_shards") == 1
    assert at(found, "fraud_detection_online_store_reemitted_rows_total") == 257


def test_a_label_that_runs_wild_cannot_fill_the_memory_of_prometheus() -> None:
    exporter = StreamExporter(lambda: 0)
    own = exporter.new_metrics()
    for i in range(10 * MAX_SERIES):
        own.alerts(f"rule {i}", "low")
    alerts = {key: value for key, value in scrape(exporter).items() if key[0] == "fraud_detection_alerts_total"}
    assert len(alerts) == MAX_SERIES + 1
    assert sum(alerts.values()) == 10 * MAX_SERIES


def test_what_is_exposed_is_what_the_catalogue_says() -> None:
    exporter = StreamExporter(lambda: 0)
    own = exporter.new_metrics()
    decide(own, 1)
    own.alerts("VELOCITY", "high")
    own.dead_letters("transactions", "truncated")
    own.batch(1)
    exposed: dict[str, set[str]] = {}
    for name, labels in scrape(exporter):
        exposed.setdefault(name, set()).update(label for label, _ in labels)
    entries = [entry for entry in CATALOGUE if entry.emitter is Emitter.STREAM and not entry.name.startswith("process_")]
    expected = {name: set(labels) for entry in entries for name, labels in series_of(entry).items()}
    assert exposed == expected


def test_names_are_unique_and_carry_their_units() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(entry.name.endswith("_total") == (entry.type == "counter") for entry in CATALOGUE)
    assert not {label for entry in CATALOGUE for label in entry.labels} & {"job", "instance", "node", "le"}  # scraping adds these
    assert all(entry.help.endswith(".") for entry in CATALOGUE)
    assert all(list(entry.buckets) == sorted(set(entry.buckets)) for entry in CATALOGUE)
    assert all(bool(entry.buckets) == (entry.type == "histogram") for entry in CATALOGUE)


def test_an_exporter_is_found_through_its_announcement(tmp_path: Path) -> None:
    exporter = StreamExporter(lambda: 0)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter)
    decide(exporter.new_metrics(), 2)
    settings = ExporterSettings(folder=tmp_path / "metrics", node="taskmanager-1")
    served = serve(registry, settings, prefix="stream")
    (group,) = json.loads((tmp_path / "metrics" / "stream-taskmanager-1.json").read_text())
    assert group == {"targets": [f"127.0.0.1:{served.port}"], "labels": {"node": "taskmanager-1"}}
    with urlopen(f"http://{group['targets'][0]}/metrics", timeout=5) as answer:
        assert at(samples(answer.read().decode()), "fraud_detection_transactions_total", status="decided") == 2
    with pytest.raises(OSError, match="in use"):
        serve(registry, ExporterSettings(port=served.port), prefix="stream")


def test_nobody_listens_unless_somebody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ExporterSettings().enabled
    monkeypatch.setenv("FRAUDGUARD_METRICS_PORT", "8000")
    assert ExporterSettings().enabled
