"""The Grafana dashboards: described here, written as JSON by ``python -m infra.dashboards``, checked in beside the provisioning.

A panel asks for metrics that processes emit today; what later issues bring joins when it is emitted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from infra.panels import BLUE, ORANGE, VERMILLION, Dashboard, Panel, Query, render
from infra.settings import REPO_ROOT

__all__ = ["DASHBOARDS", "FOLDER", "write"]

FOLDER = REPO_ROOT / "infra" / "grafana" / "dashboards"


def _quantiles(metric: str) -> tuple[Query, ...]:
    return tuple(
        Query(f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket[$__rate_interval])))", name)
        for q, name in (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"))
    )


def _buckets(metric: str) -> tuple[Query, ...]:
    return (Query(f"sum by (le) (increase({metric}_bucket[$__rate_interval]))", "{{le}}"),)


_WORKS = {"0": "down", "1": "works"}
_GOOD_AT_ONE = ((0.0, VERMILLION), (1.0, BLUE))

OPERATIONS = Dashboard(
    "fraudguard-operations",
    "Real-time operations",
    "What the stream does now: rate, alerts, latency, lag (S-OBS-37).",
    (
        (
            "Now",
            (
                Panel(
                    "Transactions per second",
                    "stat",
                    (Query("sum(rate(fraud_detection_transactions_total[$__rate_interval]))", "all"),),
                    "reqps",
                    "All transactions that the job takes in, whatever becomes of them.",
                    width=6,
                    height=5,
                ),
                Panel(
                    "Alerts per minute",
                    "stat",
                    (Query("60 * sum(rate(fraud_detection_alerts_total[$__rate_interval]))", "alerts"),),
                    "cpm",
                    "Alerts of the decisions of the last minutes.",
                    width=6,
                    height=5,
                ),
                Panel(
                    "Average latency",
                    "stat",
                    (
                        Query(
                            "sum(rate(fraud_detection_processing_latency_seconds_sum[$__rate_interval]))"
                            " / sum(rate(fraud_detection_processing_latency_seconds_count[$__rate_interval]))",
                            "average",
                        ),
                    ),
                    "s",
                    "From the broker's append time to the decision. The promise is 100 ms at the 99th percentile.",
                    ((0.0, BLUE), (0.1, ORANGE), (1.0, VERMILLION)),
                    width=6,
                    height=5,
                ),
                Panel(
                    "Event lag",
                    "stat",
                    (Query("max(fraud_detection_event_lag_seconds)", "lag"),),
                    "s",
                    "How far the newest event is behind the clock. A replay of history shows its age.",
                    ((0.0, BLUE), (60.0, ORANGE), (600.0, VERMILLION)),
                    width=6,
                    height=5,
                ),
            ),
        ),
        (
            "Flow",
            (
                Panel(
                    "Transactions by what became of them",
                    "timeseries",
                    (Query("sum by (status) (rate(fraud_detection_transactions_total[$__rate_interval]))", "{{status}}"),),
                    "reqps",
                    "Decided, dropped as duplicates, or set aside as dead letters.",
                    width=12,
                    stacked=True,
                ),
                Panel(
                    "Latency of a decision",
                    "timeseries",
                    _quantiles("fraud_detection_processing_latency_seconds"),
                    "s",
                    "From the broker's append time of the transaction to its decision being ready.",
                    ((0.0, BLUE), (0.1, ORANGE), (1.0, VERMILLION)),
                    width=12,
                ),
                Panel(
                    "Alerts by severity",
                    "timeseries",
                    (Query("60 * sum by (severity) (rate(fraud_detection_alerts_total[$__rate_interval]))", "{{severity}}"),),
                    "cpm",
                    "Alerts a minute.",
                    stacked=True,
                ),
                Panel(
                    "Records that wait for the job",
                    "timeseries",
                    (Query("sum by (topic) (fraud_detection_consumer_lag_records)", "{{topic}}"),),
                    "short",
                    "Ends of the topics less what the job has committed; committed once a checkpoint.",
                    ((0.0, BLUE), (50_000.0, VERMILLION)),
                ),
                Panel(
                    "Dead letters by reason",
                    "timeseries",
                    (Query("sum by (source, code) (rate(fraud_detection_dead_letters_total[$__rate_interval]))", "{{source}} {{code}}"),),
                    "reqps",
                    "Records that can never be scored. A new code after a release of a producer is that release.",
                    stacked=True,
                ),
            ),
        ),
        (
            "Batches",
            (
                Panel(
                    "Records a batch",
                    "heatmap",
                    _buckets("fraud_detection_batch_size"),
                    "short",
                    "What one call of the first Python operator takes in. Larger batches at the same rate mean a busier machine.",
                    width=12,
                ),
                Panel(
                    "Time of one scoring call",
                    "timeseries",
                    _quantiles("fraud_detection_ml_inference_latency_seconds"),
                    "s",
                    "Model, rules and policy for a whole batch.",
                    width=12,
                ),
            ),
        ),
    ),
)

FRAUD = Dashboard(
    "fraudguard-fraud",
    "Fraud analytics",
    "What is found, by which rule, how sure, and what a decision costs (S-OBS-38, 40). What needs the ledger is asked of ClickHouse.",
    (
        (
            "Found",
            (
                Panel(
                    "Share of transactions denied",
                    "stat",
                    (Query("fraud_detection:denied:ratio_rate5m", "denied"),),
                    "percentunit",
                    "Denied over decided, five minutes.",
                    ((0.0, BLUE), (0.05, ORANGE), (0.2, VERMILLION)),
                    width=6,
                    height=5,
                ),
                Panel(
                    "Cost per decision",
                    "stat",
                    (Query("fraud_detection:prediction_cost_usd:rate5m", "USD"),),
                    "currencyUSD",
                    "Configured cost of the machines over the rate of decisions (FRAUDGUARD_MACHINE_COST_USD_PER_HOUR).",
                    width=6,
                    height=5,
                ),
                Panel(
                    "Decisions by outcome",
                    "timeseries",
                    (Query("sum by (prediction) (rate(fraud_detection_ml_predictions_total[$__rate_interval]))", "{{prediction}}"),),
                    "reqps",
                    "What callers were told.",
                    width=12,
                    stacked=True,
                ),
            ),
        ),
        (
            "By rule",
            (
                Panel(
                    "Alerts by rule, last hour",
                    "bargauge",
                    (Query("topk(15, sum by (rule_name) (increase(fraud_detection_alerts_total[1h])))", "{{rule_name}}"),),
                    "short",
                    "By the strongest rule of each alert; MODEL_SCORE where no rule fired.",
                    width=12,
                    height=10,
                ),
                Panel(
                    "Alerts by rule over time",
                    "timeseries",
                    (Query("60 * sum by (rule_name) (rate(fraud_detection_alerts_total[$__rate_interval]))", "{{rule_name}}"),),
                    "cpm",
                    "A rule that suddenly fires is an attack or a mistake in the rule.",
                    width=12,
                    height=10,
                    stacked=True,
                ),
            ),
        ),
        (
            "Volume and time",
            (
                Panel(
                    "Decisions an hour, today and a week ago",
                    "timeseries",
                    (
                        Query('sum(increase(fraud_detection_transactions_total{status="decided"}[1h]))', "today"),
                        Query('sum(increase(fraud_detection_transactions_total{status="decided"}[1h] offset 1w))', "a week ago"),
                    ),
                    "short",
                    "Traffic has the rhythm of a week.",
                    width=12,
                ),
                Panel(
                    "Score of decisions",
                    "heatmap",
                    _buckets("fraud_score_distribution"),
                    "short",
                    "Model and rules together. Below 0.3 is allowed, from 0.7 on denied.",
                    width=12,
                ),
            ),
        ),
    ),
)

HEALTH = Dashboard(
    "fraudguard-health",
    "System health",
    "Components, resources, errors, state and recovery (S-OBS-39, 41).",
    (
        (
            "Components",
            (
                Panel(
                    "Components",
                    "state-timeline",
                    (Query("min by (component) (fraud_detection_system_health)", "{{component}}"),),
                    "short",
                    "Whether each can do its work.",
                    _GOOD_AT_ONE,
                    width=12,
                    mappings=_WORKS,
                ),
                Panel(
                    "Jobs",
                    "state-timeline",
                    (Query("min by (job_name) (fraud_detection_job_running)", "{{job_name}}"),),
                    "short",
                    "Whether Flink runs each job of this stack.",
                    _GOOD_AT_ONE,
                    width=6,
                    mappings=_WORKS,
                ),
                Panel(
                    "Restarts, last hour",
                    "bargauge",
                    (
                        Query("sum by (process) (increase(fraud_detection_process_restarts_total[1h]))", "{{process}}"),
                        Query("sum by (job_name) (increase(flink_jobmanager_job_numRestarts[1h]))", "job {{job_name}}"),
                    ),
                    "short",
                    "Of processes, by the supervisor; of jobs, by Flink.",
                    ((0.0, BLUE), (1.0, ORANGE), (4.0, VERMILLION)),
                    width=6,
                ),
            ),
        ),
        (
            "Recovery",
            (
                Panel(
                    "Age of the newest checkpoint",
                    "timeseries",
                    (
                        Query("max by (job_name) (fraud_detection_checkpoint_age_seconds)", "{{job_name}}"),
                        Query("0.5 * max(fraud_detection_transaction_timeout_seconds)", "half of the transaction timeout"),
                    ),
                    "s",
                    "Readers of the ledger wait for a checkpoint. Past the transaction timeout, what was pre-committed is lost.",
                    ((0.0, BLUE), (60.0, ORANGE), (450.0, VERMILLION)),
                ),
                Panel(
                    "Time of a checkpoint",
                    "timeseries",
                    (Query("max by (job_name) (flink_jobmanager_job_lastCheckpointDuration)", "{{job_name}}"),),
                    "ms",
                    "The checkpoints' interval is one second.",
                    ((0.0, BLUE), (1_000.0, ORANGE), (30_000.0, VERMILLION)),
                ),
                Panel(
                    "Failed checkpoints, ten minutes",
                    "timeseries",
                    (Query("sum by (job_name) (increase(flink_jobmanager_job_numberOfFailedCheckpoints[10m]))", "{{job_name}}"),),
                    "short",
                    "One now and then is a restart; a row of them is not.",
                ),
                Panel(
                    "State store",
                    "timeseries",
                    (
                        Query("max by (job_name) (flink_jobmanager_job_lastCheckpointFullSize)", "state of {{job_name}}"),
                        Query("max by (job_name) (flink_jobmanager_job_lastCheckpointSize)", "added by the last checkpoint"),
                    ),
                    "bytes",
                    "All keyed state, as of the last checkpoint.",
                ),
                Panel(
                    "Online store: rows that wait",
                    "timeseries",
                    (Query("sum(fraud_detection_online_store_waiting_rows)", "waiting"),),
                    "short",
                    "Entity states that Redis does not have yet.",
                ),
                Panel(
                    "Online store: how far behind",
                    "timeseries",
                    (Query("max(fraud_detection_online_store_staleness_seconds)", "staleness"),),
                    "s",
                    "How long some entity's state has been waiting.",
                    ((0.0, BLUE), (1.0, ORANGE), (60.0, VERMILLION)),
                ),
                Panel(
                    "Online store: healing",
                    "timeseries",
                    (
                        Query("sum(fraud_detection_online_store_unhealed_shards)", "shards that are not whole"),
                        Query("sum(rate(fraud_detection_online_store_reemitted_rows_total[$__rate_interval]))", "states written again"),
                        Query("sum(rate(fraud_detection_online_store_healings_total[$__rate_interval]))", "shards begun"),
                    ),
                    "short",
                    "After a loss, and after the start of a task, every state is written again.",
                ),
            ),
        ),
        (
            "ClickHouse",
            (
                Panel(
                    "Sink: how far behind",
                    "timeseries",
                    (Query("max(fraud_sink_delay_seconds)", "oldest record of the batch"),),
                    "s",
                    "From the broker's append of a batch's oldest record to ClickHouse's answer, or until now where that is awaited.",
                    ((0.0, BLUE), (5.0, ORANGE), (60.0, VERMILLION)),
                ),
                Panel(
                    "Sink: records that wait",
                    "timeseries",
                    (Query("sum by (topic) (fraud_sink_lag_records)", "{{topic}}"),),
                    "short",
                    "Records of the ledger that ClickHouse does not have yet.",
                    ((0.0, BLUE), (60_000.0, VERMILLION)),
                ),
                Panel(
                    "Sink: rows",
                    "timeseries",
                    (
                        Query("sum by (table) (rate(fraud_sink_rows_total[$__rate_interval]))", "{{table}}"),
                        Query("sum(rate(fraud_sink_erased_rows_total[$__rate_interval]))", "erased"),
                        Query("sum(rate(fraud_sink_batches_total[$__rate_interval]))", "batches"),
                    ),
                    "cps",
                    "Rows that ClickHouse took, those that went with somebody who was erased, and inserts of a batch.",
                ),
                Panel(
                    "Sink: what fails",
                    "timeseries",
                    (
                        Query("sum by (dependency) (rate(fraud_sink_failures_total[$__rate_interval]))", "waits for {{dependency}}"),
                        Query("sum by (code) (rate(fraud_sink_rejected_records_total[$__rate_interval]))", "set aside: {{code}}"),
                    ),
                    "cps",
                    "Attempts that are made again, and records that cannot be read.",
                ),
                Panel(
                    "Sink: deletions that fail",
                    "timeseries",
                    (Query("max by (table) (fraud_sink_failing_deletions)", "{{table}}"),),
                    "short",
                    "Deletions of erased rows that ClickHouse has tried and could not do; it tries them again.",
                    ((0.0, BLUE), (1.0, VERMILLION)),
                ),
            ),
        ),
        (
            "Errors",
            (
                Panel(
                    "Share of dead letters",
                    "timeseries",
                    (Query("fraud_detection:dead_letters:ratio_rate5m", "dead letters"),),
                    "percentunit",
                    "Of all transactions that came in.",
                    ((0.0, BLUE), (0.01, ORANGE), (0.05, VERMILLION)),
                ),
                Panel(
                    "Degraded decisions",
                    "timeseries",
                    (Query("sum by (reason) (rate(fraud_detection_degraded_decisions_total[$__rate_interval]))", "{{reason}}"),),
                    "reqps",
                    "Made with a side down.",
                ),
                Panel(
                    "Online store: failed attempts and refused rows",
                    "timeseries",
                    (
                        Query("sum(rate(fraud_detection_online_store_failures_total[$__rate_interval]))", "failed attempts"),
                        Query(
                            'sum by (result) (rate(fraud_detection_online_store_rows_total{result!="written"}[$__rate_interval]))',
                            "{{result}} rows",
                        ),
                    ),
                    "cps",
                    "Refused rows were older than the stored ones: more than a few mean a second writer.",
                ),
            ),
        ),
        (
            "Resources",
            (
                Panel(
                    "CPU by process",
                    "timeseries",
                    (Query("sum by (process) (rate(fraud_detection_process_cpu_seconds_total[$__rate_interval]))", "{{process}}"),),
                    "short",
                    "Cores in use.",
                    stacked=True,
                ),
                Panel(
                    "Memory by process",
                    "timeseries",
                    (Query("sum by (process) (fraud_detection_process_memory_bytes)", "{{process}}"),),
                    "bytes",
                    "Resident memory.",
                    stacked=True,
                ),
                Panel(
                    "Disk by process",
                    "timeseries",
                    (
                        Query(
                            "sum by (process, direction) (rate(fraud_detection_process_io_bytes_total[$__rate_interval]))",
                            "{{process}} {{direction}}",
                        ),
                    ),
                    "Bps",
                    "Read from and written to disk.",
                ),
                Panel(
                    "Where the time of a task goes",
                    "timeseries",
                    (
                        Query("max by (task_name) (flink_taskmanager_job_task_busyTimeMsPerSecond) / 1000", "busy {{task_name}}"),
                        Query(
                            "max by (task_name) (flink_taskmanager_job_task_backPressuredTimeMsPerSecond) / 1000",
                            "held back {{task_name}}",
                        ),
                    ),
                    "percentunit",
                    "The busiest subtask of each task. Held back: it waits for the next task.",
                    ((0.0, BLUE), (0.8, ORANGE), (0.95, VERMILLION)),
                    width=12,
                    maximum=1.0,
                ),
                Panel(
                    "JVM heap of the TaskManagers",
                    "timeseries",
                    (
                        Query(
                            "flink_taskmanager_Status_JVM_Memory_Heap_Used / flink_taskmanager_Status_JVM_Memory_Heap_Max",
                            "{{tm_id}}",
                        ),
                    ),
                    "percentunit",
                    "A saw's teeth are garbage collections; what stays after them is what is needed.",
                    ((0.0, BLUE), (0.85, ORANGE), (0.95, VERMILLION)),
                    width=12,
                    maximum=1.0,
                ),
            ),
        ),
    ),
)

MODEL = Dashboard(
    "fraudguard-model",
    "Model",
    "Scores of the model, their drift, and the quality of what comes in (S-OBS-42). Accuracy and importance join with the training.",
    (
        (
            "Scores",
            (
                Panel(
                    "Score of the model",
                    "heatmap",
                    _buckets("fraud_detection_model_score"),
                    "short",
                    "Calibrated probability before rules.",
                    width=12,
                ),
                Panel(
                    "Mean score, and the day before",
                    "timeseries",
                    (
                        Query("fraud_detection:model_score:mean1h", "last hour"),
                        Query("avg_over_time(fraud_detection:model_score:mean1h[1d] offset 1h)", "day before"),
                    ),
                    "percentunit",
                    "Half as much again, either way, raises the alert ModelDrift.",
                    width=12,
                ),
                Panel(
                    "Share above the deny cut",
                    "timeseries",
                    (
                        Query(
                            '1 - sum(rate(fraud_detection_model_score_bucket{le="0.7"}[$__rate_interval]))'
                            " / sum(rate(fraud_detection_model_score_count[$__rate_interval]))",
                            "model above 0.7",
                        ),
                        Query(
                            '1 - sum(rate(fraud_score_distribution_bucket{le="0.7"}[$__rate_interval]))'
                            " / sum(rate(fraud_score_distribution_count[$__rate_interval]))",
                            "decision above 0.7",
                        ),
                    ),
                    "percentunit",
                    "The model by itself, and with rules.",
                ),
                Panel(
                    "Decisions without a model or rules",
                    "timeseries",
                    (Query("sum by (reason) (increase(fraud_detection_degraded_decisions_total[$__rate_interval]))", "{{reason}}"),),
                    "short",
                    "A model that could not be loaded shows here.",
                ),
                Panel(
                    "Refused releases",
                    "timeseries",
                    (Query("sum by (kind) (increase(fraud_detection_releases_refused_total[1h]))", "{{kind}}"),),
                    "short",
                    "Rule sets and models that the job did not put in force; each shard counts for itself.",
                ),
            ),
        ),
        (
            "Challengers",
            (
                Panel(
                    "Where a challenger agrees",
                    "timeseries",
                    (
                        Query(
                            'sum by (kind) (rate(fraud_detection_shadow_decisions_total{result="same"}[$__rate_interval]))'
                            ' / sum by (kind) (rate(fraud_detection_shadow_decisions_total{result=~"same|other"}[$__rate_interval]))',
                            "{{kind}}",
                        ),
                    ),
                    "percentunit",
                    "Share of decisions whose outcome would have been the same; ./fraudguard rules shadow --report tells the others.",
                    maximum=1.0,
                ),
                Panel(
                    "Outcomes that it would have changed",
                    "timeseries",
                    (
                        Query(
                            'sum by (kind) (increase(fraud_detection_shadow_decisions_total{result="other"}[$__rate_interval]))', "{{kind}}"
                        ),
                    ),
                    "short",
                    "Decisions of which a set of rules or a model on trial would have made something else.",
                ),
                Panel(
                    "Challengers that fail",
                    "timeseries",
                    (
                        Query(
                            "sum by (kind, result) (increase("
                            'fraud_detection_shadow_decisions_total{result=~"slow|failed|left_out"}[$__rate_interval]))',
                            "{{kind}}: {{result}}",
                        ),
                        Query("sum(increase(fraud_detection_rollout_failures_total[$__rate_interval]))", "in a rollout"),
                    ),
                    "short",
                    "Decisions of which it said nothing or too late, and those of its share of the cards that what is in force has made.",
                ),
            ),
        ),
        (
            "Quality of what comes in",
            (
                Panel(
                    "Dead letters by reason, last hour",
                    "bargauge",
                    (Query("sum by (code) (increase(fraud_detection_dead_letters_total[1h]))", "{{code}}"),),
                    "short",
                    "What was wrong with records that could not be scored.",
                ),
                Panel(
                    "Late events and duplicates",
                    "timeseries",
                    (
                        Query("sum(rate(fraud_detection_late_events_total[$__rate_interval]))", "late"),
                        Query('sum(rate(fraud_detection_transactions_total{status="duplicate"}[$__rate_interval]))', "duplicates"),
                    ),
                    "reqps",
                    "Late events are scored, duplicates are dropped.",
                ),
                Panel(
                    "Time of one scoring call",
                    "timeseries",
                    _quantiles("fraud_detection_ml_inference_latency_seconds"),
                    "s",
                    "For a whole batch.",
                ),
            ),
        ),
    ),
)

DASHBOARDS = (OPERATIONS, FRAUD, HEALTH, MODEL)


def write(folder: Path = FOLDER) -> list[Path]:
    """Write every dashboard to ``folder``; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dashboard in DASHBOARDS:
        path = folder / f"{dashboard.uid.removeprefix('fraudguard-')}.json"
        path.write_text(json.dumps(render(dashboard), indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    print("\n".join(str(path) for path in write(*map(Path, sys.argv[1:2]))))
