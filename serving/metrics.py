"""The one catalogue of metric names: what each is called, what it means, and which process emits it.

Emitters, rules, dashboards and tests take names from here; a test holds all of them together.  Nothing is measured here.
Units stand in the names, as Prometheus asks; a ratio is 0..1.  Labels have few values: never a card, a tenant or an id; and none is
called as those that scraping adds (``job``, ``instance``, ``node``), or Prometheus would rename it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

__all__ = ["CATALOGUE", "EMITTED_NOW", "FLINK", "Emitter", "FlinkMetric", "Metric", "metric", "series_of"]

MetricType = Literal["counter", "gauge", "histogram"]


class Emitter(StrEnum):
    """The process that a metric comes from."""

    STREAM = "stream"  # the Python operators of the scoring job, one exporter a TaskManager
    SUPERVISOR = "supervisor"  # the process that keeps the servers running
    API = "api"
    SINK = "sink"  # the process that feeds ClickHouse
    GENERATOR = "generator"
    TRAINING = "training"


# What later issues bring is in the catalogue already, so that its rules can be written and tested; dashboards wait for it.
# A stack may do without the sink, so what everybody looks at does not rest on it.
EMITTED_NOW = frozenset({Emitter.STREAM, Emitter.SUPERVISOR, Emitter.API, Emitter.SINK})


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: ``buckets`` are the upper bounds of a histogram without the infinite one, ``rows`` the requirements it meets."""

    name: str
    type: MetricType
    emitter: Emitter
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    rows: tuple[str, ...] = ()


# Around the promises: 50 and 100 ms at the 99th percentile, 250 ms at the 99.9th, one second at all.
_LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
_SCORE = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
_SKEW = (0.0, 1e-12, 1e-6, 0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
_CALL_S = (0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_ROWS_A_BATCH = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)

_STREAM = (
    Metric(
        "fraud_detection_transactions_total",
        "counter",
        Emitter.STREAM,
        "Transactions by what became of them: decided, confirmed (the API had), duplicate, overtaken (the API was later), dead_letter.",
        ("status",),
        rows=("S-OBS-10", "S-OBS-22"),
    ),
    Metric(
        "fraud_detection_dead_letters_total",
        "counter",
        Emitter.STREAM,
        "Records that can never be scored, by source topic and by the code of the reason.",
        ("source", "code"),
    ),
    Metric("fraud_detection_late_events_total", "counter", Emitter.STREAM, "Transactions behind the watermark; scored all the same."),
    Metric(
        "fraud_detection_alerts_total",
        "counter",
        Emitter.STREAM,
        "Alerts by the reason code of the strongest rule (MODEL_SCORE when no rule fired) and by severity.",
        ("rule_name", "severity"),
        rows=("S-OBS-11",),
    ),
    Metric(
        "fraud_detection_processing_latency_seconds",
        "histogram",
        Emitter.STREAM,
        "From the broker's append time of a transaction to its decision being ready to write.",
        buckets=_LATENCY_S,
        rows=("S-OBS-12",),
    ),
    Metric(
        "fraud_detection_event_lag_seconds",
        "gauge",
        Emitter.STREAM,
        "Wall clock less the newest event time, at the last batch; a stalled job shows in the consumer lag instead.",
        rows=("S-OBS-13",),
    ),
    Metric(
        "fraud_detection_batch_size",
        "histogram",
        Emitter.STREAM,
        "Records that one call of the first Python operator takes in.",
        buckets=_ROWS_A_BATCH,
        rows=("S-OBS-14",),
    ),
    Metric(
        "fraud_detection_ml_predictions_total",
        "counter",
        Emitter.STREAM,
        "Decisions by outcome: allow, challenge, deny.",
        ("prediction",),
        rows=("S-OBS-15", "S-OBS-20"),
    ),
    Metric(
        "fraud_detection_ml_inference_latency_seconds",
        "histogram",
        Emitter.STREAM,
        "One scoring call for a whole batch: model, rules, policy, and contributions where they are asked for.",
        buckets=_CALL_S,
        rows=("S-OBS-16",),
    ),
    Metric(
        "fraud_detection_model_score",
        "histogram",
        Emitter.STREAM,
        "Calibrated probability of the model, before rules; decisions without a model do not count.",
        buckets=_SCORE,
        rows=("S-OBS-17",),
    ),
    Metric(
        "fraud_score_distribution",
        "histogram",
        Emitter.STREAM,
        "Score of the decision: model and rules together.",
        buckets=_SCORE,
        rows=("S-OBS-04",),
    ),
    Metric(
        "fraud_detection_score_skew",
        "histogram",
        Emitter.STREAM,
        "How far the API's score of an event was from the stream's, both from the same log entries, model, rules and lists: 0.",
        buckets=_SKEW,
    ),
    Metric(
        "fraud_detection_stale_score_skew",
        "histogram",
        Emitter.STREAM,
        "How far it was where the API had something else to go on: an older state, or another model, other rules or lists.",
        buckets=_SKEW,
    ),
    Metric(
        "fraud_detection_erasures_total",
        "counter",
        Emitter.STREAM,
        "Entities erased on request, by kind: card, user, device, ip.",
        ("kind",),
    ),
    Metric(
        "fraud_detection_degraded_decisions_total",
        "counter",
        Emitter.STREAM,
        "Decisions with a side down: model_down, rules_down, model_and_rules_down.",
        ("reason",),
    ),
    Metric(
        "fraud_detection_releases_refused_total",
        "counter",
        Emitter.STREAM,
        "Rule sets and models that the job refused to put in force; each shard counts for itself.",
        ("kind",),
    ),
    Metric(
        "fraud_detection_shadow_decisions_total",
        "counter",
        Emitter.STREAM,
        "Decisions behind which a challenger was asked, by kind (rules, model) and by what came of it: same or other outcome, slow, failed;"
        " left_out for a while after three that were slow or failed.",
        ("kind", "result"),
        rows=("S-TRN-11",),
    ),
    Metric(
        "fraud_detection_rollout_failures_total",
        "counter",
        Emitter.STREAM,
        "Decisions that a challenger was to make for its share of the cards and could not; what is in force has made them.",
        rows=("S-TRN-11",),
    ),
    Metric(
        "fraud_detection_online_store_rows_total",
        "counter",
        Emitter.STREAM,
        "Entity states for the online store: written; refused as older than the stored one; dropped because too many waited.",
        ("result",),
    ),
    Metric("fraud_detection_online_store_failures_total", "counter", Emitter.STREAM, "Attempts to reach the online store that failed."),
    Metric("fraud_detection_online_store_waiting_rows", "gauge", Emitter.STREAM, "Entity states that the online store does not have yet."),
    Metric(
        "fraud_detection_online_store_staleness_seconds",
        "gauge",
        Emitter.STREAM,
        "How long some entity state has been waiting for the online store; 0 when nothing waits.",
    ),
    Metric(
        "fraud_detection_online_store_reemitted_rows_total",
        "counter",
        Emitter.STREAM,
        "Entity states given to the online store again, because it had lost them or might have.",
    ),
    Metric(
        "fraud_detection_online_store_healings_total",
        "counter",
        Emitter.STREAM,
        "Shards whose states were asked for again: all of them when a task starts, and when the online store has lost data.",
    ),
    Metric(
        "fraud_detection_online_store_unhealed_shards",
        "gauge",
        Emitter.STREAM,
        "Shards of which the online store may lack states; an entity that is absent meanwhile is missing, not new.",
    ),
    Metric("process_cpu_seconds_total", "counter", Emitter.STREAM, "CPU time of the process, JVM and Python together.", rows=("S-OBS-27",)),
    Metric("process_resident_memory_bytes", "gauge", Emitter.STREAM, "Resident memory of the process.", rows=("S-OBS-27",)),
)

_SUPERVISOR = (
    Metric(
        "fraud_detection_system_health",
        "gauge",
        Emitter.SUPERVISOR,
        "1 when the component can do its work now: kafka, redis, flink, registry, api, clickhouse, sink.",
        ("component",),
        rows=("S-OBS-18",),
    ),
    Metric(
        "fraud_detection_process_restarts_total",
        "counter",
        Emitter.SUPERVISOR,
        "Restarts of a server's process since the stack was brought up.",
        ("process",),
    ),
    Metric("fraud_detection_process_cpu_seconds_total", "counter", Emitter.SUPERVISOR, "CPU time.", ("process",), rows=("S-OBS-27",)),
    Metric("fraud_detection_process_memory_bytes", "gauge", Emitter.SUPERVISOR, "Resident memory.", ("process",), rows=("S-OBS-27",)),
    Metric(
        "fraud_detection_process_io_bytes_total",
        "counter",
        Emitter.SUPERVISOR,
        "Bytes read from and written to disk (direction read, write).",
        ("process", "direction"),
        rows=("S-OBS-27",),
    ),
    Metric("fraud_detection_job_running", "gauge", Emitter.SUPERVISOR, "1 when Flink runs it.", ("job_name",), rows=("S-OBS-51",)),
    Metric(
        "fraud_detection_checkpoint_age_seconds",
        "gauge",
        Emitter.SUPERVISOR,
        "Age of the newest completed checkpoint on disk: what was pre-committed since then waits for the next one.",
        ("job_name",),
        rows=("S-OBS-51",),
    ),
    Metric(
        "fraud_detection_transaction_timeout_seconds",
        "gauge",
        Emitter.SUPERVISOR,
        "After this long without its job the broker aborts an open transaction, and what it held is lost.",
        ("job_name",),
    ),
    Metric(
        "fraud_detection_consumer_lag_records",
        "gauge",
        Emitter.SUPERVISOR,
        "Records of a topic behind the offsets that the job last committed, summed over partitions.",
        ("topic",),
        rows=("S-OBS-35",),
    ),
    Metric(
        "fraud_detection_machine_cost_usd_per_hour",
        "gauge",
        Emitter.SUPERVISOR,
        "What the machines cost, as configured; with the rate of decisions it gives the cost of one.",
        rows=("S-OBS-52",),
    ),
)

_API = (
    Metric(
        "http_request_duration_seconds",
        "histogram",
        Emitter.API,
        "Time to answer a request.",
        ("method", "route"),
        _LATENCY_S,
        ("S-OBS-01", "S-OBS-23", "S-OBS-26", "S-OBS-47"),
    ),
    Metric(
        "http_requests_total",
        "counter",
        Emitter.API,
        "Requests by status code.",
        ("method", "route", "status"),
        rows=("S-OBS-02", "S-OBS-24"),
    ),
    Metric(
        "http_errors_total",
        "counter",
        Emitter.API,
        "Requests that were answered with 500 or above.",
        ("method", "route", "status"),
        rows=("S-OBS-03", "S-OBS-25", "S-OBS-48"),
    ),
    Metric("fraud_api_decisions_total", "counter", Emitter.API, "First answers by outcome: allow, challenge, deny.", ("prediction",)),
    Metric("fraud_api_repeated_answers_total", "counter", Emitter.API, "Questions that got the answer of an earlier request."),
    Metric(
        "fraud_api_degraded_answers_total",
        "counter",
        Emitter.API,
        "Answers that lack something: model_down, rules_down, store_down, store_healing, kafka_down; one may count under several.",
        ("reason",),
    ),
    Metric(
        "fraud_api_features_seconds",
        "histogram",
        Emitter.API,
        "Claiming the transaction, reading the states of its entities (one round trip) and evaluating every feature.",
        buckets=_CALL_S,
    ),
    Metric("fraud_api_scoring_seconds", "histogram", Emitter.API, "Model, rules, policy and explanation of one call.", buckets=_CALL_S),
    Metric("fraud_api_store_failures_total", "counter", Emitter.API, "Calls to Redis that failed or took too long."),
    Metric("fraud_api_unkept_answers_total", "counter", Emitter.API, "Answers that could not be kept for whoever asks again."),
    Metric("fraud_api_releases_refused_total", "counter", Emitter.API, "Rule sets and models that were not put in force.", ("kind",)),
    Metric("fraud_api_buffered_events", "gauge", Emitter.API, "Decided transactions that Kafka has not acknowledged."),
    Metric(
        "fraud_api_lost_events_total",
        "counter",
        Emitter.API,
        "Decided transactions that the stream will not see: overflow of the buffer, or refused by the broker.",
        ("cause",),
    ),
    Metric(
        "fraud_api_breaker_open",
        "gauge",
        Emitter.API,
        "1 while a dependency is left alone: redis, model, rules, challenger (of a rollout).",
        ("dependency",),
        rows=("S-REL-07",),
    ),
)

_SINK = (
    Metric("fraud_sink_rows_total", "counter", Emitter.SINK, "Rows that ClickHouse has taken, by table.", ("table",)),
    Metric(
        "fraud_sink_erased_rows_total",
        "counter",
        Emitter.SINK,
        "Rows that went because the stream has erased whom they name, by table.",
        ("table",),
    ),
    Metric(
        "fraud_sink_failing_deletions",
        "gauge",
        Emitter.SINK,
        "Deletions of erased rows that ClickHouse has tried and could not do, by table; absent while it does not answer.",
        ("table",),
    ),
    Metric(
        "fraud_sink_rejected_records_total",
        "counter",
        Emitter.SINK,
        "Records of the ledger that could not be read and were set aside with their place, by the code of the reason.",
        ("code",),
    ),
    Metric("fraud_sink_batches_total", "counter", Emitter.SINK, "Batches written and remembered."),
    Metric(
        "fraud_sink_failures_total",
        "counter",
        Emitter.SINK,
        "Attempts that failed and were made again, by what did not answer: clickhouse, kafka, registry.",
        ("dependency",),
    ),
    Metric(
        "fraud_sink_failing_seconds",
        "gauge",
        Emitter.SINK,
        "How long every attempt has failed, by what did not answer; 0 from the next batch on that is written.",
        ("dependency",),
    ),
    Metric(
        "fraud_sink_delay_seconds",
        "gauge",
        Emitter.SINK,
        "Of the oldest record of the newest batch: from the broker's append to ClickHouse's answer.",
    ),
    Metric(
        "fraud_sink_lag_records",
        "gauge",
        Emitter.SINK,
        "Records of a topic that ClickHouse does not have yet, summed over partitions.",
        ("topic",),
    ),
)

_LATER = (
    Metric(
        "fraud_generator_requests_total",
        "counter",
        Emitter.GENERATOR,
        "Requests to the generator.",
        ("method",),
        rows=("S-OBS-06",),
    ),
    Metric(
        "fraud_generator_latency_seconds",
        "histogram",
        Emitter.GENERATOR,
        "Time to generate a batch.",
        ("method",),
        _LATENCY_S,
        ("S-OBS-07",),
    ),
    # a gauge in the exposition: a counter's name would have to end in _total, and the requirement names it without
    Metric("fraud_generator_transactions_generated", "gauge", Emitter.GENERATOR, "Transactions made.", ("method",), rows=("S-OBS-08",)),
    Metric("fraud_generator_errors_total", "counter", Emitter.GENERATOR, "Failed requests.", ("method",), rows=("S-OBS-09",)),
    Metric("model_auc_score", "gauge", Emitter.TRAINING, "AUC of the model in production, computed daily.", rows=("S-OBS-05",)),
    Metric(
        "fraud_detection_prediction_accuracy_ratio",
        "gauge",
        Emitter.TRAINING,
        "Share of labelled decisions that were right, computed daily.",
        rows=("S-OBS-21",),
    ),
)

CATALOGUE: tuple[Metric, ...] = (*_STREAM, *_SUPERVISOR, *_API, *_SINK, *_LATER)

_BY_NAME = {entry.name: entry for entry in CATALOGUE}


def metric(name: str) -> Metric:
    """The entry of a name; KeyError when there is none."""
    return _BY_NAME[name]


def series_of(entry: Metric) -> dict[str, frozenset[str]]:
    """Names under which a metric can be queried, each with its labels (those that scraping adds not counted)."""
    labels = frozenset(entry.labels)
    if entry.type != "histogram":
        return {entry.name: labels}
    return {f"{entry.name}_bucket": labels | {"le"}, f"{entry.name}_sum": labels, f"{entry.name}_count": labels}


@dataclass(frozen=True, slots=True)
class FlinkMetric:
    """A metric of Flink's Prometheus reporter that rules and dashboards use; its labels are Flink's scopes."""

    name: str
    help: str
    labels: tuple[str, ...]


_JOB = ("job_id", "job_name")
_TASK = ("job_id", "job_name", "task_name", "subtask_index", "tm_id")

# Of the several hundred that Flink reports, those that answer a question of an operator.
FLINK: tuple[FlinkMetric, ...] = (
    FlinkMetric("flink_jobmanager_job_numRestarts", "Restarts of the job since it was submitted.", _JOB),
    FlinkMetric("flink_jobmanager_job_lastCheckpointDuration", "Milliseconds that the last checkpoint took.", _JOB),
    FlinkMetric("flink_jobmanager_job_lastCheckpointSize", "Bytes that the last checkpoint added.", _JOB),
    FlinkMetric("flink_jobmanager_job_lastCheckpointFullSize", "Bytes of the whole state in the last checkpoint.", _JOB),
    FlinkMetric("flink_jobmanager_job_numberOfFailedCheckpoints", "Checkpoints failed.", _JOB),
    FlinkMetric("flink_taskmanager_job_task_busyTimeMsPerSecond", "Milliseconds of each second that a subtask works.", _TASK),
    FlinkMetric("flink_taskmanager_job_task_backPressuredTimeMsPerSecond", "Milliseconds of each second that it is held back.", _TASK),
    FlinkMetric("flink_taskmanager_Status_JVM_Memory_Heap_Used", "Bytes of heap in use.", ("tm_id",)),
    FlinkMetric("flink_taskmanager_Status_JVM_Memory_Heap_Max", "Bytes of heap that it may use.", ("tm_id",)),
)
