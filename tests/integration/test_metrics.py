"""Metrics of the running stack: every process is scraped, and every panel and rule can be answered from what they expose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from confluent_kafka import Producer

from generator.driver import Driver, interleave
from generator.generate import demo_traffic
from infra.application import bring_up, codec_of
from infra.dashboards import DASHBOARDS
from infra.panels import Dashboard, expressions
from infra.replay import watch_ledger
from infra.settings import REPO_ROOT
from infra.stack import Stack
from serving import ledger
from serving.clock import now_ms
from serving.metrics import CATALOGUE, EMITTED_NOW, FLINK, Emitter, series_of
from tests.private_stack import private_stack, put_small_model_into_production
from tests.promql import missing_from, names_in
from tests.scrape import Scrape, scrape

EVENTS = 1_000
RULES = [
    rule
    for path in sorted((REPO_ROOT / "infra" / "prometheus" / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
# this stack has no ClickHouse; that the sink exposes what the catalogue says of it, is held by test_sink.py
SINK = {name: labels for entry in CATALOGUE if entry.emitter is Emitter.SINK for name, labels in series_of(entry).items()}
RECORDED = {rule["record"]: names_in(rule["expr"]).grouped - {"le"} for rule in RULES if "record" in rule}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own: counters of its processes begin at 0, and no other module's job goes on here."""
    with private_stack(tmp_path_factory.mktemp("metrics")) as private:
        yield private


@pytest.fixture(scope="module")
def scraped(stack: Stack) -> Scrape:
    """A scrape after some traffic and one record that cannot be read."""
    put_small_model_into_production(stack)
    bring_up(stack, lambda _text: None)
    bootstrap, codec = stack.addresses.bootstrap_servers, codec_of(stack.plan)
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(ledger.TRANSACTIONS, b"\x9c\x01random bytes", b"card")
    producer.flush(20)
    frame = demo_traffic(5, EVENTS / 5, seed=31, start_ms=now_ms() - 5_000, users=500, merchants=50)
    run = Driver(bootstrap, codec, hold=False).run(interleave(frame, None, EVENTS / 5), paced=True, linger_s=90.0)
    watch_ledger(bootstrap, codec, run.sent_ids, quiet_s=40.0)
    return scrape(stack)


def test_every_process_announces_itself_and_answers(stack: Stack, scraped: Scrape) -> None:
    names = {path.stem for path in stack.layout.metrics.glob("*.json")}
    assert names == {
        "api-api-1",
        "flink-jobmanager",
        "flink-taskmanager-1",
        "flink-taskmanager-2",
        "stream-taskmanager-1",
        "stream-taskmanager-2",
        "supervisor-stack",
    }
    nodes = {labels["node"] for name, labels, _ in scraped.samples if name == "fraud_detection_transactions_total"}
    assert nodes == {"taskmanager-1", "taskmanager-2"}


def test_what_is_to_be_emitted_now_is_exposed_with_its_labels(scraped: Scrape) -> None:
    exposed = scraped.exposed | SINK
    expected = {name: labels for entry in CATALOGUE if entry.emitter in EMITTED_NOW for name, labels in series_of(entry).items()}
    expected |= {entry.name: frozenset(entry.labels) for entry in FLINK}
    assert {name: labels - exposed.get(name, frozenset()) for name, labels in expected.items() if name not in exposed} == {}
    assert {name: labels - exposed[name] for name, labels in expected.items() if labels - exposed[name]} == {}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_panel_can_be_answered(scraped: Scrape, dashboard: Dashboard) -> None:
    exposed = {**scraped.exposed, **SINK, **RECORDED}
    missing = {expr: missing_from(exposed, expr) for expr in expressions(dashboard)}
    assert {expr: what for expr, what in missing.items() if what} == {}


def test_every_rule_about_what_is_emitted_now_can_be_answered(scraped: Scrape) -> None:
    later = {name for entry in CATALOGUE if entry.emitter not in EMITTED_NOW for name in series_of(entry)}
    exposed = {**scraped.exposed, **SINK, **RECORDED, **dict.fromkeys(later, ()), "up": ("job", "instance")}
    about_now = [rule for rule in RULES if not names_in(rule["expr"]).metrics.keys() & later]
    missing = {rule.get("record") or rule["alert"]: missing_from(exposed, rule["expr"]) for rule in about_now}
    assert {name: what for name, what in missing.items() if what} == {}
    assert len(about_now) > len(RULES) / 2


def test_the_stream_counts_what_went_through_it(scraped: Scrape) -> None:
    assert scraped.total("fraud_detection_transactions_total", status="decided") == EVENTS
    assert scraped.total("fraud_detection_transactions_total", status="dead_letter") == 1
    assert scraped.total("fraud_detection_dead_letters_total", source="transactions", code="bad_magic") == 1
    assert scraped.total("fraud_detection_ml_predictions_total") == EVENTS
    assert scraped.total("fraud_score_distribution_count") == scraped.total("fraud_detection_model_score_count") == EVENTS
    assert scraped.total("fraud_detection_processing_latency_seconds_count") == EVENTS
    assert scraped.total("fraud_detection_batch_size_sum") == EVENTS + 1
    assert 0 < scraped.total("fraud_detection_alerts_total") < EVENTS


def test_the_supervisor_sees_a_healthy_stack_and_its_job(scraped: Scrape) -> None:
    health = {labels["component"]: value for name, labels, value in scraped.samples if name == "fraud_detection_system_health"}
    assert health == {"kafka": 1, "redis": 1, "registry": 1, "flink": 1, "api": 1}
    assert scraped.total("fraud_detection_job_running", job_name="fraudguard-score") == 1
    assert scraped.total("fraud_detection_transaction_timeout_seconds") == 900
    assert 0 <= scraped.total("fraud_detection_checkpoint_age_seconds") < 60
    assert scraped.total("fraud_detection_process_memory_bytes", process="kafka") > 10_000_000
